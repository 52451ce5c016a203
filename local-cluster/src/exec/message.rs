//! The data channel's binary messages, as AWS's own agent writes and reads them
//! (amazon-ssm-agent, `agent/session/contracts/agentmessage.go`).

use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The value of HeaderLength: the offset of PayloadLength.
const HEADER: usize = 116;
/// The offset of the payload.
const PAYLOAD: usize = HEADER + 4;
/// SYN and FIN together, which the agent sets in every message outside the stream.
const SYN_FIN: u64 = 3;

/// The types of message.
pub(super) mod kind {
    pub(crate) const INPUT: &str = "input_stream_data";
    pub(crate) const OUTPUT: &str = "output_stream_data";
    pub(crate) const ACKNOWLEDGE: &str = "acknowledge";
    pub(crate) const CLOSED: &str = "channel_closed";
    pub(crate) const PAUSE: &str = "pause_publication";
    pub(crate) const START: &str = "start_publication";
}

/// The payload types of stream messages.
pub(super) mod payload {
    pub(crate) const OUTPUT: u32 = 1;
    pub(crate) const SIZE: u32 = 3;
    pub(crate) const HANDSHAKE_REQUEST: u32 = 5;
    pub(crate) const HANDSHAKE_RESPONSE: u32 = 6;
    pub(crate) const HANDSHAKE_COMPLETE: u32 = 7;
    pub(crate) const CHALLENGE_REQUEST: u32 = 8;
    pub(crate) const CHALLENGE_RESPONSE: u32 = 9;
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: String,
    pub(super) sequence: i64,
    pub(super) flags: u64,
    /// A UUID, most significant byte first.
    pub(super) id: [u8; 16],
    pub(super) payload_type: u32,
    pub(super) payload: Bytes,
    created: u64,
    digest: [u8; 32],
}

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("{0} bytes are too few for a message")]
    Short(usize),
    #[error("a header length of {0} is impossible here")]
    HeaderLength(u32),
    #[error("it has no type")]
    Type,
    #[error("it has no date")]
    Date,
    #[error("its payload does not match its digest")]
    Digest,
}

impl Message {
    fn new(kind: &str, sequence: i64, flags: u64, payload_type: u32, payload: Bytes) -> Self {
        let digest = Sha256::digest(&payload).into();
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let created = u64::try_from(created).unwrap_or(u64::MAX);
        Self {
            kind: kind.to_owned(),
            sequence,
            flags,
            id: new_id(),
            payload_type,
            payload,
            created,
            digest,
        }
    }

    /// Makes a message of the output stream. The first one has SYN.
    pub(super) fn output(sequence: i64, payload_type: u32, payload: Bytes) -> Self {
        Self::new(kind::OUTPUT, sequence, u64::from(sequence == 0), payload_type, payload)
    }

    /// Makes the acknowledgement of a stream message.
    pub(super) fn acknowledging(message: &Self) -> Self {
        let content = json!({
            "AcknowledgedMessageType": message.kind,
            "AcknowledgedMessageId": hyphenated(&message.id),
            "AcknowledgedMessageSequenceNumber": message.sequence,
            // Both of AWS's peers always set this.
            "IsSequentialMessage": true,
        });
        Self::new(kind::ACKNOWLEDGE, 0, SYN_FIN, 0, content.to_string().into())
    }

    /// Makes the service's message that a session is over. Empty output means that it ended
    /// normally.
    pub(super) fn closed(session: &str, target: &str, output: &str) -> Self {
        let mut message = Self::new(kind::CLOSED, 0, SYN_FIN, 0, Bytes::new());
        let content = json!({
            "MessageId": hyphenated(&message.id),
            "CreatedDate": message.created.to_string(),
            "DestinationId": target,
            "SessionId": session,
            "MessageType": kind::CLOSED,
            "SchemaVersion": 1,
            "Output": output,
        });
        message.payload = content.to_string().into();
        message.digest = Sha256::digest(&message.payload).into();
        message
    }

    /// Makes the service's message that the other end cannot take more, or can again.
    pub(super) fn publication(kind: &str) -> Self {
        Self::new(kind, 0, SYN_FIN, 0, Bytes::new())
    }

    /// Formats the message's bytes.
    pub(super) fn encode(&self) -> Bytes {
        let mut frame = BytesMut::with_capacity(PAYLOAD + self.payload.len());
        frame.put_u32(HEADER as u32);
        frame.put_slice(self.kind.as_bytes());
        frame.put_bytes(b' ', 32 - self.kind.len());
        frame.put_u32(1);
        frame.put_u64(self.created);
        frame.put_i64(self.sequence);
        frame.put_u64(self.flags);
        frame.put_slice(&self.id[8..]);
        frame.put_slice(&self.id[..8]);
        frame.put_slice(&self.digest);
        frame.put_u32(self.payload_type);
        // A payload is at most one read, or a little JSON.
        frame.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        frame.put_slice(&self.payload);
        frame.freeze()
    }

    /// Parses a frame. As in AWS's agent, the rest of the frame is the payload, regardless of
    /// PayloadLength; an empty one needs no digest.
    pub(super) fn decode(frame: &Bytes) -> Result<Self, Invalid> {
        if frame.len() < PAYLOAD {
            return Err(Invalid::Short(frame.len()));
        }
        let header_length = u32::from_be_bytes(part(frame, 0));
        let start = usize::try_from(header_length).unwrap_or(usize::MAX).saturating_add(4);
        if start < PAYLOAD || start > frame.len() {
            return Err(Invalid::HeaderLength(header_length));
        }
        let kind = String::from_utf8_lossy(&frame[4..36])
            .trim_matches(|c: char| c == '\0' || c.is_whitespace())
            .to_owned();
        let mut id = [0; 16];
        id[8..].copy_from_slice(&frame[64..72]);
        id[..8].copy_from_slice(&frame[72..80]);
        let message = Self {
            kind,
            created: u64::from_be_bytes(part(frame, 40)),
            sequence: i64::from_be_bytes(part(frame, 48)),
            flags: u64::from_be_bytes(part(frame, 56)),
            id,
            digest: part(frame, 80),
            payload_type: u32::from_be_bytes(part(frame, 112)),
            payload: frame.slice(start..),
        };
        if message.kind.is_empty() {
            return Err(Invalid::Type);
        }
        if message.created == 0 {
            return Err(Invalid::Date);
        }
        let announced = u32::from_be_bytes(part(frame, 116)) > 0;
        if (announced || !message.payload.is_empty())
            && message.digest != *Sha256::digest(&message.payload)
        {
            return Err(Invalid::Digest);
        }
        Ok(message)
    }
}

/// Reads bytes of a frame that is long enough.
fn part<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&frame[at..at + N]);
    part
}

/// Makes a random UUID.
pub(super) fn new_id() -> [u8; 16] {
    let mut id: [u8; 16] = rand::random();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Formats a UUID.
pub(super) fn hyphenated(id: &[u8; 16]) -> String {
    let mut text = hex::encode(id);
    for at in [8, 13, 18, 23] {
        text.insert(at, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Built by hand after the published field table, not by `encode`.
    fn golden() -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 116];
        frame.extend(b"output_stream_data              ");
        frame.extend([0, 0, 0, 1]);
        frame.extend([0, 0, 0x01, 0x8f, 0, 0, 0, 1]);
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
        // SHA-256 of "abc" (FIPS 180-2).
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        frame.extend(hex::decode(digest).unwrap());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 3]);
        frame.extend(b"abc");
        frame
    }

    #[test]
    fn the_layout_matches_the_published_one() {
        let golden = golden();
        let mut message = Message::output(0, payload::OUTPUT, Bytes::from_static(b"abc"));
        message.created = 0x018f_0000_0001;
        message.id = std::array::from_fn(|n| n as u8);
        assert_eq!(message.encode(), golden);
        assert_eq!(Message::decode(&Bytes::from(golden)).unwrap(), message);
        assert_eq!(hyphenated(&message.id), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }

    #[test]
    fn types_are_padded_with_nuls_too_and_longer_headers_are_skipped() {
        let mut frame = golden();
        frame[22..36].fill(0);
        frame[3] = 118;
        frame.splice(120..120, [7, 7]);
        let message = Message::decode(&Bytes::from(frame)).unwrap();
        assert_eq!((message.kind.as_str(), &message.payload[..]), (kind::OUTPUT, &b"abc"[..]));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut frame = golden();
            change(&mut frame);
            Message::decode(&Bytes::from(frame)).unwrap_err()
        };
        assert_eq!(changed(|f| f.truncate(119)), Invalid::Short(119));
        assert_eq!(changed(Vec::clear), Invalid::Short(0));
        assert_eq!(changed(|f| f[3] = 115), Invalid::HeaderLength(115));
        assert_eq!(changed(|f| f[..4].fill(255)), Invalid::HeaderLength(u32::MAX));
        assert_eq!(changed(|f| f[4..36].fill(b' ')), Invalid::Type);
        assert_eq!(changed(|f| f[40..48].fill(0)), Invalid::Date);
        assert_eq!(changed(|f| f[120] ^= 1), Invalid::Digest);
        assert_eq!(changed(|f| f.truncate(120)), Invalid::Digest);
    }
}
