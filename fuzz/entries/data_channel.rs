//! Any bytes over a data channel of ECS Exec: they lead to output in order, or to an end with a
//! reason. Also what its terminal sends: lines, blocks and noise, cut anywhere.
//!
//! The input is a list of steps, each a byte and its operands. Other bytes are skipped.
//!
//! - `f`, kind, number, type, length (2 bytes), payload: a well-formed message
//! - `r`, length (2 bytes), bytes: any message
//! - `a`: the agent acknowledges the oldest message
//! - `t`, n: n tenths of a second pass
//! - `s`, n: n bytes of input
//! - `z`: a new size of the terminal
//! - `k`, n: KMS answers (0: it refuses)

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use transports::{
    delivery::terminal::armor::{ArmorDecoder, Piece},
    ecs_exec::{
        KEY_BYTES,
        channel::{DataChannel, DataKey, Event, KeyWanted, NoKey, Opening, Transmit},
        frame::{Frame, Kind, MessageId, payload_type},
    },
};

/// Longer than this, a line is cut: then it matters how it was.
const LONGEST: usize = 8 * 1024;

pub fn run(data: &[u8]) {
    if data.len() > LONGEST {
        return;
    }
    let output = channel(data);
    for text in [&output[..], data] {
        assert_eq!(
            pieces(std::iter::once(text)),
            pieces(text.chunks(1)),
            "it matters where the terminal's output was cut"
        );
    }
}

/// Plays the steps; the output that comes of them.
fn channel(mut data: &[u8]) -> Vec<u8> {
    let mut now = Instant::now();
    let opening = Opening { token: "secret".to_owned(), unix_millis: 0, seed: [7; 32] };
    let mut side = Side {
        channel: DataChannel::new(opening, now),
        sent: VecDeque::new(),
        wanted: None,
        output: Vec::new(),
        closed: false,
    };
    let mut received = 0;
    while let Some(step) = byte(&mut data) {
        match step {
            b'f' => {
                let (Some(kind), Some(sequence), Some(kind_of_payload)) =
                    (byte(&mut data), byte(&mut data), byte(&mut data))
                else {
                    break;
                };
                let payload = bytes(&mut data);
                received += payload.len();
                side.channel
                    .on_frame(&message(kind, sequence, kind_of_payload, payload).encode(), now);
            }
            b'r' => {
                let raw = bytes(&mut data);
                received += raw.len();
                if let Ok(frame) = Frame::parse(&raw) {
                    reads_again(&frame);
                }
                side.channel.on_frame(&raw, now);
            }
            b'a' => {
                if let Some(sent) = side.sent.pop_front() {
                    let text = format!(
                        r#"{{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"{}","AcknowledgedMessageSequenceNumber":{},"IsSequentialMessage":true}}"#,
                        sent.id.hyphenated(),
                        sent.sequence
                    );
                    side.channel.on_frame(&message(b'a', 0, 0, text.into()).encode(), now);
                }
            }
            b't' => now += Duration::from_millis(100) * u32::from(byte(&mut data).unwrap_or(1)),
            b's' => {
                side.channel
                    .send(Bytes::from(vec![b'x'; 64 * usize::from(byte(&mut data).unwrap_or(1))]))
            }
            b'z' => side.channel.resize(200, 50),
            b'k' => {
                if let Some(wanted) = side.wanted.take() {
                    let key = match byte(&mut data) {
                        None | Some(0) => Err(NoKey { why: "no".to_owned(), transient: false }),
                        Some(n) => Ok(DataKey { plain: vec![n; KEY_BYTES], sealed: vec![n] }),
                    };
                    side.channel.key(&wanted, key, now);
                }
            }
            _ => {}
        }
        side.channel.on_tick(now);
        side.drain(now);
        assert!(side.output.len() <= received, "more came out than went in");
    }
    side.output
}

/// The client's side.
struct Side {
    channel: DataChannel,
    /// Its messages that were not acknowledged yet, and came once.
    sent: VecDeque<Frame>,
    wanted: Option<KeyWanted>,
    output: Vec<u8>,
    closed: bool,
}

impl Side {
    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.channel.poll_event() {
            assert!(!self.closed, "{event:?} after the end");
            match event {
                Event::Output(bytes) => {
                    assert!(!bytes.is_empty(), "an output of nothing");
                    self.output.extend_from_slice(&bytes);
                }
                Event::KeyWanted(wanted) => self.wanted = Some(wanted),
                Event::Closed(_) => self.closed = true,
            }
        }
        assert!(self.channel.is_ready() || self.closed, "nothing waits, and it is not ready");
        while let Some(transmit) = self.channel.poll_transmit(now) {
            let Transmit::Binary(bytes) = transmit else { continue };
            let frame =
                Frame::parse(&bytes).unwrap_or_else(|e| panic!("it says what is no message: {e}"));
            assert!(
                frame.payload.len() <= 1024 + 28 || frame.payload_type != payload_type::OUTPUT,
                "a long message: {frame:?}"
            );
            if frame.kind == Kind::Input
                && self.sent.back().is_none_or(|last| last.sequence < frame.sequence)
            {
                self.sent.push_back(frame);
            }
        }
        assert!(
            self.closed || self.channel.deadline() > now,
            "it wants to be called again and again"
        );
    }
}

fn message(kind: u8, sequence: u8, payload_type: u8, payload: Bytes) -> Frame {
    let kind = match kind {
        b'i' => Kind::Input,
        b'a' => Kind::Acknowledge,
        b'c' => Kind::ChannelClosed,
        b'p' => Kind::PausePublication,
        b'g' => Kind::StartPublication,
        b'x' => Kind::Other("odd".to_owned()),
        _ => Kind::Output,
    };
    // Some are before the first one.
    let sequence = i64::from(sequence) - 2;
    let mut bits = [3; 16];
    bits[..8].copy_from_slice(&sequence.to_be_bytes());
    Frame {
        kind,
        sequence,
        flags: 0,
        id: MessageId::random(bits),
        created: 1,
        payload_type: u32::from(payload_type),
        payload,
    }
}

/// What was read can be written, and is the same when it is read again.
fn reads_again(frame: &Frame) {
    if frame.created == 0
        || matches!(&frame.kind, Kind::Other(name) if name.len() > 32 || name.trim().is_empty())
    {
        return;
    }
    assert_eq!(Frame::parse(&frame.encode()).as_ref(), Ok(frame));
}

/// What a terminal's output is taken apart into; noise that was cut is put together again.
fn pieces<'a>(text: impl Iterator<Item = &'a [u8]>) -> Vec<Piece> {
    let mut armor = ArmorDecoder::default();
    let mut pieces: Vec<Piece> = Vec::new();
    for text in text {
        armor.push(text);
        while let Some(piece) = armor.piece() {
            match (pieces.last_mut(), piece) {
                (Some(Piece::Noise(before)), Piece::Noise(more)) => {
                    *before = [&before[..], &more[..]].concat().into()
                }
                (_, piece) => pieces.push(piece),
            }
        }
    }
    pieces
}

fn byte(data: &mut &[u8]) -> Option<u8> {
    let (first, rest) = data.split_first()?;
    *data = rest;
    Some(*first)
}

/// As many as the next two bytes say, or are left.
fn bytes(data: &mut &[u8]) -> Bytes {
    let (high, low) = (byte(data).unwrap_or(0), byte(data).unwrap_or(0));
    let (bytes, rest) = data.split_at(data.len().min(usize::from(high) << 8 | usize::from(low)));
    *data = rest;
    Bytes::copy_from_slice(bytes)
}
