//! What a channel hands out and asks for.

use bytes::Bytes;

/// A message for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A WebSocket ping.
    Ping,
}

/// An event of the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Output of the command.
    Output(Bytes),
    /// The session is encrypted: answer with [`DataChannel::key`](super::DataChannel::key).
    KeyWanted(KeyWanted),
    /// The channel is over. The last event.
    Closed(Closed),
}

/// The agent's request for a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWanted {
    /// ARN or id of the KMS key.
    pub key: String,
    /// The challenge for the encryption context, if there is one.
    pub challenge: Option<String>,
}

/// A data key from KMS. Both halves are secrets.
#[derive(Clone)]
pub struct DataKey {
    /// `Plaintext`: [`KEY_BYTES`](crate::ecs_exec::cipher::KEY_BYTES) bytes.
    pub plain: Vec<u8>,
    /// `CiphertextBlob`, which the agent decrypts by the task's role.
    pub sealed: Vec<u8>,
}

/// Why there is no data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKey {
    /// KMS's answer, or why there was none.
    pub why: String,
    /// Whether a later attempt may succeed without any change of permissions.
    pub transient: bool,
}

/// Why a channel is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The agent ended the session, with this text; empty if the command just ended.
    Ended(String),
    /// The other side is gone, or its messages are invalid.
    Lost(String),
    /// The session could not begin, and a retry would not help.
    Refused(String),
}
