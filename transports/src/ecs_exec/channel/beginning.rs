//! The handshake at a session's beginning: kind of session, encryption, proof of the key.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::RngExt as _;
use states::foreign_text::clipped;

use super::{DataChannel, DataKey, Event, KeyWanted, NoKey, Phase};
use crate::ecs_exec::{
    cipher::Cipher,
    frame::payload_type,
    handshake::{
        self, Action, Challenge, FAILED, Processed, Request, Response, SUCCESS, UNSUPPORTED,
    },
};

impl DataChannel {
    /// Answers [`Event::KeyWanted`].
    pub fn key(&mut self, wanted: &KeyWanted, key: Result<DataKey, NoKey>, now: Instant) {
        let (result, error) = match key.and_then(|key| {
            let short = || NoKey {
                why: "KMS's data key is not as long as was asked for".to_owned(),
                transient: true,
            };
            let cipher = Cipher::new(&key.plain).ok_or_else(short)?;
            Ok((cipher, key.sealed))
        }) {
            Ok((cipher, sealed)) => {
                self.cipher = Some(cipher);
                let mut result = serde_json::json!({ "KMSCipherTextKey": STANDARD.encode(sealed) });
                if wanted.challenge.is_some() {
                    result["ChallengeAcknowledgement"] = true.into();
                }
                (result, None)
            }
            Err(no_key) => (serde_json::Value::Null, Some(no_key)),
        };
        let status = if error.is_some() { FAILED } else { SUCCESS };
        self.answers.push(Processed {
            action_type: "KMSEncryption".to_owned(),
            action_status: status,
            action_result: result,
            error: error.as_ref().map(|no_key| no_key.why.clone()).unwrap_or_default(),
        });
        self.respond(now);
        if let Some(NoKey { why, transient }) = error {
            let why = format!(
                "the session is encrypted with the KMS key {}, and no data key could be made: {why}",
                wanted.key
            );
            if transient { self.lost(why) } else { self.refused(why) }
        }
    }

    pub(super) fn on_handshake(&mut self, payload: &[u8], now: Instant) {
        let Ok(request) = serde_json::from_slice::<Request>(payload) else {
            return self.refused("the agent's handshake cannot be understood".to_owned());
        };
        self.phase = Phase::Handshake;
        let (encryption, others): (Vec<_>, Vec<_>) = request
            .requested_client_actions
            .iter()
            .partition(|action| action.action_type == "KMSEncryption");
        self.answers = others.into_iter().map(answer).collect();
        let unusable =
            self.answers.iter().find(|p| p.action_status != SUCCESS).map(|p| p.error.clone());
        match (unusable, encryption.first()) {
            (None, Some(action)) => self.want_key(action),
            (None, None) => self.respond(now),
            (Some(why), _) => {
                self.respond(now);
                self.refused(why);
            }
        }
    }

    fn want_key(&mut self, action: &Action) {
        let text = |name: &str| {
            action.action_parameters.get(name).and_then(|value| value.as_str()).map(str::to_owned)
        };
        // The name is shown to people. No real key's name is as long as the limit.
        let Some(key) = text("KMSKeyId").map(|key| clipped(&key)).filter(|key| !key.is_empty())
        else {
            return self
                .refused("the agent wants the session encrypted and names no KMS key".to_owned());
        };
        let challenge = text("Challenge").filter(|challenge| !challenge.is_empty());
        self.events.push_back(Event::KeyWanted(KeyWanted { key, challenge }));
    }

    pub(super) fn on_challenge(&mut self, payload: &[u8], now: Instant) {
        let proof = serde_json::from_slice::<Challenge>(payload).ok().and_then(|challenge| {
            let sealed = STANDARD.decode(challenge.challenge).ok()?;
            let nonce = self.rng.random();
            let cipher = self.cipher.as_ref()?;
            let proof = cipher.seal(&cipher.open(&sealed)?, nonce)?;
            serde_json::to_vec(&Challenge { challenge: STANDARD.encode(proof) }).ok()
        });
        match proof {
            Some(proof) => self.urgent(payload_type::CHALLENGE_RESPONSE, proof.into(), now),
            None => self.refused(
                "the agent's key for the session is not the one that KMS gave for it".to_owned(),
            ),
        }
    }

    fn respond(&mut self, now: Instant) {
        let processed = std::mem::take(&mut self.answers);
        let errors = processed.iter().map(|p| p.error.clone()).filter(|e| !e.is_empty()).collect();
        let response = Response {
            client_version: handshake::CLIENT_VERSION,
            processed_client_actions: processed,
            errors,
        };
        // Serializing strings and numbers cannot fail.
        let response = serde_json::to_vec(&response).unwrap_or_else(|e| unreachable!("{e}"));
        self.urgent(payload_type::HANDSHAKE_RESPONSE, response.into(), now);
    }
}

/// Answers an action that needs no call.
fn answer(action: &Action) -> Processed {
    let mut processed = Processed {
        action_type: action.action_type.clone(),
        action_status: SUCCESS,
        action_result: serde_json::Value::Null,
        error: String::new(),
    };
    match action.action_type.as_str() {
        "SessionType" => {
            let kind = action
                .action_parameters
                .get("SessionType")
                .and_then(|kind| kind.as_str())
                .unwrap_or_default();
            if !matches!(kind, "Standard_Stream" | "InteractiveCommands" | "NonInteractiveCommands")
            {
                processed.action_status = FAILED;
                processed.error =
                    format!("the session is of a kind that this client does not know: {kind:?}");
            }
        }
        other => {
            processed.action_status = UNSUPPORTED;
            processed.error =
                format!("the agent asks for something that this client does not know: {other:?}");
        }
    }
    processed
}
