//! The handshake at the beginning of a session: the agent's requests and its handling of answers
//! (amazon-ssm-agent, `datachannel.go`).

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    cipher::{Cipher, DATA_KEY},
    keys::{Context, Keys},
    session::Session,
};

/// How long the agent waits for each answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// The version of the agent that this one follows.
const AGENT_VERSION: &str = "3.3.0.0";
/// The state of the handshake with a client.
pub(super) struct Handshake {
    began: Instant,
    challenge: Option<[u8; 64]>,
    /// The part of the data key's encryption context beside the session's names.
    random: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    #[serde(default)]
    processed_client_actions: Option<Vec<Processed>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Processed {
    action_type: String,
    action_status: i64,
    #[serde(default)]
    action_result: Value,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Deserialize)]
struct EncryptionResult {
    #[serde(rename = "KMSCipherTextKey")]
    key: String,
    #[serde(rename = "ChallengeAcknowledgement", default)]
    acknowledged: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Challenge {
    challenge: String,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), challenge: None, random: crate::ids::random_id(32) }
    }

    /// Makes the request; with a key, it asks for an encrypted session.
    pub(super) fn request(&self, key: Option<&str>) -> Bytes {
        let mut actions = vec![json!({
            "ActionType": "SessionType",
            "ActionParameters": { "SessionType": "InteractiveCommands", "Properties": null },
        })];
        if let Some(key) = key {
            actions.push(json!({ "ActionType": "KMSEncryption", "ActionParameters": { "KMSKeyId": key, "Challenge": self.random } }));
        }
        json!({ "AgentVersion": AGENT_VERSION, "RequestedClientActions": actions })
            .to_string()
            .into()
    }

    /// Handles the response. Returns the cipher, if one was agreed on.
    pub(super) fn responded(
        &self,
        response: &[u8],
        session: &Session,
        keys: &Keys,
    ) -> Result<Option<Cipher>, String> {
        let response: Response = serde_json::from_slice(response)
            .map_err(|e| format!("Unmarshalling of HandshakeResponse message failed, {e}"))?;
        let mut cipher = None;
        for action in response.processed_client_actions.unwrap_or_default() {
            if action.action_status != 1 {
                return Err(format!(
                    "{} failed on client with status {} error: {}",
                    action.action_type, action.action_status, action.error
                ));
            }
            if action.action_type == "KMSEncryption" {
                let key = self.data_key(action.action_result, session, keys)?;
                cipher = Some(Cipher::new(&key));
            }
        }
        Ok(cipher)
    }

    fn data_key(
        &self,
        result: Value,
        session: &Session,
        keys: &Keys,
    ) -> Result<[u8; DATA_KEY], String> {
        let failed = |why: &str| format!("Fetching data key failed: {why}");
        let result: EncryptionResult =
            serde_json::from_value(result).map_err(|e| failed(&e.to_string()))?;
        let blob = STANDARD.decode(&result.key).map_err(|e| failed(&e.to_string()))?;
        let mut context = Context::from([
            ("aws:ssm:SessionId".to_owned(), session.id.clone()),
            ("aws:ssm:TargetId".to_owned(), session.target.clone()),
        ]);
        if result.acknowledged {
            context.insert("aws:ssm:RandomChallenge".to_owned(), self.random.clone());
        }
        keys.find(&blob, &context)
            .map(|key| key.key)
            .ok_or_else(|| failed("InvalidCiphertextException"))
    }

    /// Makes the request for a proof of the key.
    pub(super) fn challenge(&mut self, cipher: &Cipher) -> Bytes {
        let challenge: [u8; 64] = rand::random();
        self.challenge = Some(challenge);
        json!({ "Challenge": STANDARD.encode(cipher.seal(&challenge)) }).to_string().into()
    }

    /// Whether the response proves the key.
    pub(super) fn answered(&self, answer: &[u8], cipher: &Cipher) -> Result<(), String> {
        let answer: Challenge = serde_json::from_slice(answer).map_err(|e| {
            format!("Unmarshalling of EncryptionChallengeReponse message failed, {e}")
        })?;
        let sealed = STANDARD.decode(&answer.challenge).map_err(|e| e.to_string())?;
        let plain = cipher.open(&sealed).map_err(|e| e.to_string())?;
        let right = self.challenge.is_some_and(|challenge| challenge[..] == plain);
        if right { Ok(()) } else { Err("Encryption challenge does not match!".to_owned()) }
    }

    /// Makes the last message of the handshake.
    pub(super) fn complete(&self, encrypted: bool) -> Bytes {
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let message = if encrypted { "This session is encrypted using AWS KMS." } else { "" };
        json!({ "HandshakeTimeToComplete": took, "CustomerMessage": message }).to_string().into()
    }
}
