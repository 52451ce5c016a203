//! The data channel's messages as bytes: a header of 120 bytes, big-endian, and a payload.
//!
//! The layout is that of the SSM agent and session-manager-plugin (their `message/` packages). Like
//! them, this reads leniently and writes strictly.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

/// Offset of the payload's length, and what `HeaderLength` holds.
const LENGTH_AT: usize = 116;
/// Offset of the payload in messages that are sent.
const PAYLOAD_AT: usize = LENGTH_AT + 4;
/// Largest message that is parsed, in bytes: the agent's own are below 2 KiB.
pub const LONGEST: usize = 1024 * 1024;
/// Overhead of a message that is kept, in bytes: the frame's header, its slot in a queue, the
/// allocation. Otherwise a million messages of one byte would count as one megabyte.
pub(super) const OVERHEAD: usize = 256;

/// Where a UUID's text has hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// A message's id: a UUID, most significant byte first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// Formats the id as in JSON: lower case, with hyphens.
    #[must_use]
    pub fn hyphenated(&self) -> String {
        let mut text = hex::encode(self.0);
        for at in HYPHENS {
            text.insert(at, '-');
        }
        text
    }

    /// Parses the format of [`MessageId::hyphenated`], in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 || HYPHENS.iter().any(|at| text.as_bytes()[*at] != b'-') {
            return None;
        }
        let mut id = [0; 16];
        hex::decode_to_slice(text.replace('-', ""), &mut id).ok()?;
        Some(Self(id))
    }

    /// Makes a random UUID (version 4) of these bits.
    #[must_use]
    pub fn random(bits: [u8; 16]) -> Self {
        let mut id = bits;
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        Self(id)
    }

    /// Swaps the halves: on the wire the less significant one comes first.
    fn swapped(&self) -> [u8; 16] {
        let mut swapped = self.0;
        swapped.rotate_left(8);
        swapped
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hyphenated())
    }
}

/// A message's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `input_stream_data`: from the client.
    Input,
    /// `output_stream_data`: from the agent.
    Output,
    /// `acknowledge`.
    Acknowledge,
    /// `channel_closed`: the session is over.
    ChannelClosed,
    /// `start_publication`: sending may resume.
    StartPublication,
    /// `pause_publication`: sending must pause.
    PausePublication,
    /// A type that this version does not know.
    Other(String),
}

impl Kind {
    fn name(&self) -> &str {
        match self {
            Self::Input => "input_stream_data",
            Self::Output => "output_stream_data",
            Self::Acknowledge => "acknowledge",
            Self::ChannelClosed => "channel_closed",
            Self::StartPublication => "start_publication",
            Self::PausePublication => "pause_publication",
            Self::Other(name) => name,
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "input_stream_data" => Self::Input,
            "output_stream_data" => Self::Output,
            "acknowledge" => Self::Acknowledge,
            "channel_closed" => Self::ChannelClosed,
            "start_publication" => Self::StartPublication,
            "pause_publication" => Self::PausePublication,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The payload types of stream messages: the header's `PayloadType`.
pub mod payload_type {
    /// No payload type; acknowledgements have it.
    pub const NONE: u32 = 0;
    /// Output of the command, and its input.
    pub const OUTPUT: u32 = 1;
    /// An error's text.
    pub const ERROR: u32 = 2;
    /// The terminal's size.
    pub const SIZE: u32 = 3;
    /// The agent's requests before the session begins.
    pub const HANDSHAKE_REQUEST: u32 = 5;
    /// The client's answer to it.
    pub const HANDSHAKE_RESPONSE: u32 = 6;
    /// The session begins.
    pub const HANDSHAKE_COMPLETE: u32 = 7;
    /// The request for a proof of the key.
    pub const CHALLENGE_REQUEST: u32 = 8;
    /// The proof.
    pub const CHALLENGE_RESPONSE: u32 = 9;
    /// Output on stderr, where an agent separates the two.
    pub const STDERR: u32 = 11;
    /// `EXIT_CODE: n`; never sent for ECS Exec's kind of session.
    pub const EXIT_CODE: u32 = 12;
}

/// Bit 0 and bit 1 of the header's `Flags`; acknowledgements have both.
pub const SYN_AND_FIN: u64 = 3;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: Kind,
    /// Its number in its stream; 0 in messages that belong to none.
    pub sequence: i64,
    /// The header's `Flags`.
    pub flags: u64,
    /// Its id.
    pub id: MessageId,
    /// When it was made, in milliseconds since 1970. Never 0 in messages that are sent.
    pub created: u64,
    /// See [`payload_type`].
    pub payload_type: u32,
    /// The payload as it was sent: encrypted, if the session is.
    pub payload: Bytes,
}

/// Why bytes are not a message. Such bytes are dropped, and never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too few bytes for a header, or more than [`LONGEST`].
    #[error("{0} bytes are not a message")]
    Size(usize),
    /// The header's own length makes no sense.
    #[error("a header of {0} bytes")]
    HeaderLength(u32),
    /// The payload does not have the announced length.
    #[error("the payload has {found} bytes, but the header announces {announced}")]
    PayloadLength {
        /// The header's `PayloadLength`.
        announced: u32,
        /// The bytes after the header.
        found: usize,
    },
    /// A required field is empty.
    #[error("no {0}")]
    Empty(&'static str),
    /// The payload does not match its digest.
    #[error("the payload does not have the digest that its header says")]
    Digest,
}

impl Frame {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is malformed or damaged.
    pub fn parse(bytes: &Bytes) -> Result<Self, FrameError> {
        if bytes.len() < PAYLOAD_AT || bytes.len() > LONGEST {
            return Err(FrameError::Size(bytes.len()));
        }
        let header_length = number(bytes, 0);
        // A longer header has unknown fields before the payload's length.
        let length_at = usize::try_from(header_length)
            .ok()
            .filter(|at| *at >= LENGTH_AT && at.saturating_add(4) <= bytes.len());
        let length_at = length_at.ok_or(FrameError::HeaderLength(header_length))?;
        let name = std::str::from_utf8(&bytes[4..36]).unwrap_or_default();
        let name = name.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        let mut id: [u8; 16] = array(bytes, 64);
        id.rotate_left(8);
        let frame = Self {
            kind: Kind::of(name),
            sequence: i64::from_be_bytes(array(bytes, 48)),
            flags: u64::from_be_bytes(array(bytes, 56)),
            id: MessageId(id),
            created: u64::from_be_bytes(array(bytes, 40)),
            payload_type: number(bytes, 112),
            payload: bytes.slice(length_at + 4..),
        };
        if matches!(frame.kind, Kind::StartPublication | Kind::PausePublication) {
            return Ok(frame);
        }
        let announced = number(bytes, length_at);
        if usize::try_from(announced).ok() != Some(frame.payload.len()) {
            return Err(FrameError::PayloadLength { announced, found: frame.payload.len() });
        }
        if name.is_empty() {
            return Err(FrameError::Empty("message type"));
        }
        if frame.created == 0 {
            return Err(FrameError::Empty("date"));
        }
        if !frame.payload.is_empty() && bytes[80..112] != Sha256::digest(&frame.payload)[..] {
            return Err(FrameError::Digest);
        }
        Ok(frame)
    }

    /// Formats the message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(PAYLOAD_AT + self.payload.len());
        bytes.put_u32(116);
        let name = self.kind.name().as_bytes();
        let name = &name[..name.len().min(32)];
        bytes.put_slice(name);
        bytes.put_bytes(b' ', 32 - name.len());
        bytes.put_u32(1);
        bytes.put_u64(self.created);
        bytes.put_i64(self.sequence);
        bytes.put_u64(self.flags);
        bytes.put_slice(&self.id.swapped());
        bytes.put_slice(&Sha256::digest(&self.payload));
        bytes.put_u32(self.payload_type);
        bytes.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// Reads an array at `at`, which must be inside the header.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
