//! The agent's side of the handshake.

use std::time::Instant;

use bytes::Bytes;
use tokio::time::sleep;

use super::{Agent, End, Input, Waited};
use crate::exec::{
    handshake::{self, Handshake},
    keys::KEY,
    message::payload,
};

impl Agent {
    /// Agrees with the client on the session, and on its key if it is encrypted.
    pub(super) async fn shake_hands(&mut self, encrypted: bool) -> Result<(), End> {
        let failed = |why: String| {
            End::Failed(format!("Encountered error while initiating handshake. {why}"))
        };
        let late = |_| {
            failed("Handshake timed out. Please ensure that you have the latest version of the session manager plugin.".to_owned())
        };
        let mut handshake = Handshake::new();
        let key = encrypted
            .then(|| self.cluster.faults().exec.kms_key.clone().unwrap_or_else(|| KEY.to_owned()));
        self.stream.send(
            payload::HANDSHAKE_REQUEST,
            handshake.request(key.as_deref()),
            Instant::now(),
        );
        let response = self.answer(payload::HANDSHAKE_RESPONSE).await?.map_err(late)?;
        let cipher =
            handshake.responded(&response, &self.session, &self.cluster.keys).map_err(failed)?;
        if encrypted {
            let cipher = cipher.ok_or_else(|| failed("the client agreed on no key".to_owned()))?;
            self.stream.send(
                payload::CHALLENGE_REQUEST,
                handshake.challenge(&cipher),
                Instant::now(),
            );
            let answer = self.answer(payload::CHALLENGE_RESPONSE).await?;
            let answer = answer
                .map_err(|_| failed("Timed out waiting for encryption challenge.".to_owned()))?;
            handshake.answered(&answer, &cipher).map_err(failed)?;
            self.cipher = Some(cipher);
        }
        self.stream.send(
            payload::HANDSHAKE_COMPLETE,
            handshake.complete(encrypted),
            Instant::now(),
        );
        Ok(())
    }

    /// Waits for an answer of the handshake; the inner error means that none came.
    async fn answer(&mut self, payload_type: u32) -> Result<Result<Bytes, ()>, End> {
        Ok(match self.meanwhile(Input::Answer(payload_type), sleep(handshake::PATIENCE)).await? {
            Waited::Done(()) => Err(()),
            Waited::Answer(message) => Ok(message.payload),
        })
    }
}
