//! What a stage's process and the service say to each other: frames over a Unix socket. No I/O.
//!
//! A frame has its kind (one byte), the length of its body (four bytes, big-endian) and the body.
//! Structures are JSON. Output, and pieces of scripts, are plain bytes.
//!
//! ```text
//! client                      service
//! Hello ─────────────────────▶
//!       ◀───────────────────── Hello, or Refused
//! Request, Script … ─────────▶
//!       ◀───────────────────── Accepted, or Refused
//!       ◀───────────────────── Begins
//! Heard ─────────────────────▶
//!       ◀───────────────────── Output, Line, Alive
//! Acknowledged, Cancel ──────▶
//!       ◀───────────────────── Done, or GoingAway
//!
//! Hello ─────────────────────▶
//!       ◀───────────────────── Hello
//! Drain ─────────────────────▶
//!       ◀───────────────────── Accepted
//!       ◀───────────────────── Line, Alive
//!       ◀───────────────────── GoingAway
//! ```
//!
//! A stage needs equal greetings. A drain needs the same version of the protocol only: what is ended
//! may be an older driver with other settings.
//!
//! Nothing is begun before the client knows what: `Begins` is answered first. So a client that goes
//! on by itself can tell what was begun for it. `Output` is acknowledged before the service sends
//! more of it, and before it counts as handed on.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use states::foreign_text;

use crate::{
    launch::Flags,
    runner::{SentEnvironment, Trust, Verdict},
    stages::Attempt,
};

/// The protocol's version. Sides of different versions do not work together.
pub const VERSION: u32 = 2;
/// The largest body, in bytes.
const MOST: usize = 1024 * 1024;
/// The largest request: it has the job's variables, of which GitLab admits some megabytes.
const MOST_REQUEST: usize = 32 * 1024 * 1024;
/// The largest script. A stage with a larger one does its work itself.
pub const MOST_SCRIPT: usize = 64 * 1024 * 1024;
/// The bytes of a script or of output in a frame, at most.
pub const PIECE: usize = 256 * 1024;
/// Kind and length.
const HEAD: usize = 5;

/// Each side's first frame. Both must be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub protocol: u32,
    /// The driver's version.
    pub driver: String,
    /// SHA-256 of all that the configuration follows from, hexadecimal.
    pub configuration: String,
}

impl Hello {
    /// Says in what a service with another greeting differs from this process, and what to do.
    pub(super) fn difference(&self, service: &Self) -> String {
        if (self.protocol, &self.driver) != (service.protocol, &service.driver) {
            // It is another process's text.
            let theirs = foreign_text::clipped(&service.driver);
            return format!(
                "the service is fargate {theirs}, and this is fargate {}: restart the service",
                self.driver
            );
        }
        "the service has another fargate.toml, or other variables of AWS_*, OTEL_* or proxies in its environment: reload it, or make its environment equal to gitlab-runner's".to_owned()
    }
}

/// A stage to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Which one.
    pub stage: RequestedStage,
    /// What the client has from gitlab-runner.
    pub environment: SentEnvironment,
    /// Whether the job's variables may identify it.
    pub trusts_variables: bool,
    /// The administrator's flags.
    pub flags: Flags,
}

impl Request {
    /// The trusted sources of the job's identity.
    #[must_use]
    pub fn trust(&self) -> Trust {
        if self.trusts_variables { Trust::JobVariables } else { Trust::ResponseFile }
    }
}

/// A stage, without its script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestedStage {
    /// `prepare`.
    Prepare,
    /// `run`, with the script in the following frames.
    Run {
        /// The stage's name.
        name: String,
        /// The script's length in bytes.
        length: u64,
    },
    /// `cleanup`.
    Cleanup {
        /// Whether to wait for the task's end.
        wait: bool,
    },
}

/// From the client.
#[derive(Debug, Clone)]
pub enum ToService {
    /// Who it is.
    Hello(Hello),
    /// The stage.
    Request(Box<Request>),
    /// The next piece of the script.
    Script(Bytes),
    /// It knows what is about to begin.
    Heard,
    /// So many bytes of the stage's output were written, since its beginning.
    Acknowledged(u64),
    /// gitlab-runner wants the stage to end.
    Cancel,
    /// The service is to take no more stages, and to end after those that it has.
    Drain,
}

/// From the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToClient {
    /// Who it is.
    Hello(Hello),
    /// The service does not do the stage, for this reason.
    Refused(String),
    /// The service does the stage from now on, or drains.
    Accepted,
    /// The stage is about to begin this.
    Begins(Attempt),
    /// The next bytes of the script's output.
    Output(Bytes),
    /// A line for the job log, or for the person who waits for the drain.
    Line(String),
    /// The service lives.
    Alive,
    /// The stage is over.
    Done(Done),
    /// The service ends, and has let go of the job. After a drain: of all jobs.
    GoingAway,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Its verdict.
    pub verdict: Verdict,
    /// Whether it was cancelled.
    pub cancelled: bool,
}

/// The other side does not speak this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A kind that there is not.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A body longer than this kind may have.
    #[error("a frame of kind {kind} with {length} bytes, more than {most}")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// Its announced length.
        length: usize,
        /// The longest that is taken.
        most: usize,
    },
    /// A body that cannot be read.
    #[error("a frame of kind {kind} that cannot be read: {why}")]
    Body {
        /// The frame's kind.
        kind: u8,
        /// What is wrong with it.
        why: String,
    },
}

/// One direction's messages.
pub trait Message: Sized {
    /// The longest body of this kind; `None` if there is no such kind.
    fn most(kind: u8) -> Option<usize>;

    /// Reads a body.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(kind: u8, body: Bytes) -> Result<Self, ProtocolError>;

    /// Writes the message as a frame.
    fn frame(&self) -> Bytes;
}

impl Message for ToService {
    fn most(kind: u8) -> Option<usize> {
        match kind {
            b'h' | b's' => Some(MOST),
            b'r' => Some(MOST_REQUEST),
            b'a' => Some(8),
            b'b' | b'c' | b'd' => Some(0),
            _ => None,
        }
    }

    fn read(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            b'h' => json(kind, &body).map(Self::Hello),
            b'r' => json(kind, &body).map(Self::Request),
            b's' => Ok(Self::Script(body)),
            b'a' => match <[u8; 8]>::try_from(&body[..]) {
                Ok(count) => Ok(Self::Acknowledged(u64::from_be_bytes(count))),
                Err(e) => Err(ProtocolError::Body { kind, why: e.to_string() }),
            },
            b'b' => Ok(Self::Heard),
            b'c' => Ok(Self::Cancel),
            b'd' => Ok(Self::Drain),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }

    fn frame(&self) -> Bytes {
        match self {
            Self::Hello(hello) => json_frame(b'h', hello),
            Self::Request(request) => json_frame(b'r', request),
            Self::Script(piece) => frame(b's', piece),
            Self::Heard => frame(b'b', &[]),
            Self::Acknowledged(count) => frame(b'a', &count.to_be_bytes()),
            Self::Cancel => frame(b'c', &[]),
            Self::Drain => frame(b'd', &[]),
        }
    }
}

impl Message for ToClient {
    fn most(kind: u8) -> Option<usize> {
        match kind {
            b'H' | b'R' | b'B' | b'O' | b'L' | b'D' => Some(MOST),
            b'Y' | b'N' | b'G' => Some(0),
            _ => None,
        }
    }

    fn read(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
        match kind {
            b'H' => json(kind, &body).map(Self::Hello),
            b'R' => Ok(Self::Refused(text(&body))),
            b'Y' => Ok(Self::Accepted),
            b'B' => json(kind, &body).map(Self::Begins),
            b'O' => Ok(Self::Output(body)),
            b'L' => Ok(Self::Line(text(&body))),
            b'N' => Ok(Self::Alive),
            b'D' => json(kind, &body).map(Self::Done),
            b'G' => Ok(Self::GoingAway),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }

    fn frame(&self) -> Bytes {
        match self {
            Self::Hello(hello) => json_frame(b'H', hello),
            Self::Refused(why) => frame(b'R', why.as_bytes()),
            Self::Accepted => frame(b'Y', &[]),
            Self::Begins(attempt) => json_frame(b'B', attempt),
            Self::Output(bytes) => frame(b'O', bytes),
            Self::Line(line) => frame(b'L', line.as_bytes()),
            Self::Alive => frame(b'N', &[]),
            Self::Done(done) => json_frame(b'D', done),
            Self::GoingAway => frame(b'G', &[]),
        }
    }
}

/// Collects bytes to messages. Holds at most one frame and what came with it: a frame that is too
/// long is refused by its head.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: BytesMut,
}

impl Decoder {
    /// Returns the buffer that received bytes are appended to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Returns the next message, if it is complete.
    ///
    /// # Errors
    /// When the other side does not speak this protocol. Nothing can be read after that.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, ProtocolError> {
        let Some((kind, length)) = self.head() else { return Ok(None) };
        let most = M::most(kind).ok_or(ProtocolError::Kind(kind))?;
        if length > most {
            return Err(ProtocolError::TooLong { kind, length, most });
        }
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        M::read(kind, self.bytes.split_to(length).freeze()).map(Some)
    }

    fn head(&self) -> Option<(u8, usize)> {
        let (kind, length) = self.bytes.get(..HEAD)?.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        Some((*kind, usize::try_from(length).unwrap_or(usize::MAX)))
    }
}

/// A body longer than four bytes can say is refused by its reader: it is never shortened.
fn frame(kind: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + body.len());
    frame.put_u8(kind);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.put_slice(body);
    frame.freeze()
}

fn json_frame(kind: u8, body: &impl Serialize) -> Bytes {
    // These structures have strings as keys, and nothing that could fail.
    let body = serde_json::to_vec(body).unwrap_or_else(|e| unreachable!("{e}"));
    frame(kind, &body)
}

fn json<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(body)
        .map_err(|e| ProtocolError::Body { kind, why: foreign_text::clipped(&e.to_string()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello { protocol: VERSION, driver: "0.1.0".into(), configuration: "abc".into() }
    }

    fn messages() -> impl Strategy<Value = ToClient> {
        prop_oneof![
            Just(ToClient::Hello(hello())),
            any::<String>().prop_map(ToClient::Refused),
            Just(ToClient::Accepted),
            (any::<String>(), any::<u64>())
                .prop_map(|(key, offset)| ToClient::Begins(Attempt { key, offset })),
            any::<Vec<u8>>().prop_map(|bytes| ToClient::Output(bytes.into())),
            any::<String>().prop_map(ToClient::Line),
            Just(ToClient::Alive),
            (any::<Option<i32>>(), any::<Option<String>>(), any::<bool>()).prop_map(
                |(code, message, cancelled)| ToClient::Done(Done {
                    verdict: Verdict::BuildFailure { code, message },
                    cancelled
                })
            ),
            Just(ToClient::GoingAway),
        ]
    }

    proptest! {
        #[test]
        fn messages_arrive_as_they_were_sent_in_pieces_of_any_size(
            sent in prop::collection::vec(messages(), 0..8),
            size in 1_usize..64,
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(Message::frame).collect();
            let (mut decoder, mut received) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.buffer().extend_from_slice(piece);
                while let Some(message) = decoder.message::<ToClient>().unwrap() {
                    received.push(message);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(decoder.buffer().is_empty());
        }

        #[test]
        fn no_bytes_make_a_decoder_wait_for_more_than_a_frame_may_have(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.message::<ToService>() {}
            if let (Some((kind, length)), Ok(None)) =
                (decoder.head(), decoder.message::<ToService>())
            {
                prop_assert!(length <= ToService::most(kind).unwrap());
            }
        }
    }

    #[test]
    fn a_difference_says_what_to_do() {
        let said = |service: Hello| hello().difference(&service);
        let older = said(Hello { protocol: 1, driver: "0.0.9\u{1b}".into(), ..hello() });
        assert!(
            older.contains("fargate 0.0.9\u{fffd}, and this is fargate 0.1.0: restart"),
            "{older}"
        );
        let other = said(Hello { configuration: "def".into(), ..hello() });
        assert!(other.contains("another fargate.toml") && other.contains("reload it"), "{other}");
    }

    #[test]
    fn a_client_s_messages_arrive_as_they_were_sent() {
        let mut decoder = Decoder::default();
        for message in [
            ToService::Hello(hello()),
            ToService::Script(Bytes::from_static(b"echo\0\n")),
            ToService::Acknowledged(u64::MAX),
            ToService::Heard,
            ToService::Cancel,
            ToService::Drain,
        ] {
            decoder.buffer().extend_from_slice(&message.frame());
            let received: ToService = decoder.message().unwrap().unwrap();
            assert_eq!(format!("{received:?}"), format!("{message:?}"));
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_head() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&[b'h', 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            decoder.message::<ToService>(),
            Err(ProtocolError::TooLong { kind: b'h', .. })
        ));
        for (kind, length) in [(b'a', 9_u32), (b'c', 1), (b's', 1024 * 1024 + 1)] {
            let mut decoder = Decoder::default();
            decoder.buffer().put_u8(kind);
            decoder.buffer().put_u32(length);
            assert!(decoder.message::<ToService>().is_err(), "{kind}");
        }
    }

    #[test]
    fn what_is_not_this_protocol_is_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\0\0", b"a\0\0\0\x01x"] {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(bytes);
            assert!(decoder.message::<ToService>().is_err(), "{bytes:?}");
        }
    }
}
