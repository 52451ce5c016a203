//! The data channel of one session, without I/O: bytes and time in, bytes and events out.
//!
//! ```text
//!        on_frame(bytes, now)  on_tick(now)  send(bytes)  resize  key
//!                 │                 │            │
//!           ┌─────▼─────────────────▼────────────▼──┐
//!           │ Inbound: order   Outbound: window     │
//!           │ handshake, cipher, pause, patience    │
//!           └─────┬─────────────────┬───────────────┘
//!                 ▼                 ▼
//!         poll_event()       poll_transmit(now)
//! ```
//!
//! `poll_event` returns exactly the agent's output, in order, or the channel ends with a reason.
//! Its memory is bounded for any input: see [`DataChannel::is_ready`].

mod beginning;
mod interface;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use states::foreign_text;

use super::{
    cipher::Cipher,
    frame::{Frame, Kind, MessageId, OVERHEAD, SYN_AND_FIN, payload_type},
    handshake::{self, Acknowledged, ChannelClosed, Processed},
    inbound::{Arrival, Inbound},
    outbound::Outbound,
};
pub use interface::{Closed, DataKey, Event, KeyWanted, NoKey, Transmit};

/// Longest payload of input, as AWS's client sends it. The gateway's limit is not documented.
const LONGEST_INPUT: usize = 1024;
/// Bytes of events from which on the connection should not be read.
const BACKLOG: usize = 256 * 1024;
/// Bytes of events from which on no message is accepted, even if it is read.
const MOST_BACKLOG: usize = 16 * 1024 * 1024;
/// Messages to be sent from which on the connection should not be read, as each message read may
/// add one.
const MOST_TO_SEND: usize = 4096;
/// How long the other side may send nothing valid before the first output. The session may wait for
/// one of the container's slots, and a new one would wait behind it. AWS ends a session after 20
/// minutes without input.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How often the other side is pinged.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long the connection may be silent.
const SILENCE: Duration = Duration::from_secs(90);
/// How many messages in a row may be damaged ...
const MOST_BAD: u32 = 1000;
/// ... and for how long, before the channel is given up.
const BAD_FOR: Duration = Duration::from_secs(60);
/// How long missing output may arrive after the session's end.
const LATE_OUTPUT: Duration = Duration::from_secs(2);

/// A channel's parameters.
#[derive(Clone)]
pub struct Opening {
    /// The session's token: a secret.
    pub token: String,
    /// Milliseconds since 1970 at `now`, for the messages' dates.
    pub unix_millis: u64,
    /// The seed of message ids and nonces.
    pub seed: [u8; 32],
}

/// One session's data channel.
pub struct DataChannel {
    opening: Opening,
    rng: StdRng,
    began: Instant,
    inbound: Inbound,
    outbound: Outbound,
    transmit: VecDeque<Transmit>,
    events: VecDeque<Event>,
    backlog: usize,
    /// Input that has no sequence number yet.
    input: VecDeque<(u32, Bytes)>,
    phase: Phase,
    cipher: Option<Cipher>,
    /// Answers to the handshake that wait for a key.
    answers: Vec<Processed>,
    heard: Instant,
    asked: Instant,
    bad: Option<(u32, Instant)>,
    /// The agent ended the session; output is still missing.
    ended: Option<(String, Instant)>,
    closed: bool,
}

/// The phase, which decides what may be sent: an agent acknowledges and discards input that comes
/// before it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    Silent,
    /// A handshake began.
    Handshake,
    /// The command runs.
    Open,
}

impl DataChannel {
    /// Returns a channel for a new connection.
    #[must_use]
    pub fn new(mut opening: Opening, now: Instant) -> Self {
        // The agent refuses a date of zero.
        opening.unix_millis = opening.unix_millis.max(1);
        let mut rng = StdRng::from_seed(opening.seed);
        let (request, client) = (MessageId::random(rng.random()), MessageId::random(rng.random()));
        let open = handshake::open(&opening.token, &request.hyphenated(), &client.hyphenated());
        Self {
            opening,
            rng,
            began: now,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            transmit: VecDeque::from([Transmit::Text(open)]),
            events: VecDeque::new(),
            backlog: 0,
            input: VecDeque::new(),
            phase: Phase::Silent,
            cipher: None,
            answers: Vec::new(),
            heard: now,
            asked: now,
            bad: None,
            ended: None,
            closed: false,
        }
    }

    /// Handles a message of the connection, binary or text.
    pub fn on_frame(&mut self, bytes: &Bytes, now: Instant) {
        self.on_sign_of_life(now);
        if self.closed {
            return;
        }
        match Frame::parse(bytes) {
            Ok(frame) => self.on_message(frame, now),
            Err(why) => self.on_bad(&why.to_string(), now),
        }
    }

    /// Records that the connection is alive: a ping or a pong came, or nothing was read on purpose.
    pub fn on_sign_of_life(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Handles the passing of time. Call it at [`DataChannel::deadline`].
    pub fn on_tick(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if let Some((_, since)) = &self.ended
            && (!self.inbound.has_gap() || now.saturating_duration_since(*since) >= LATE_OUTPUT)
        {
            self.finish();
        } else if let Some(why) = self.outbound.hopeless(now) {
            self.lost(why);
        } else if self.inbound.deadline().is_some_and(|at| now >= at) {
            self.lost("a part of the output did not arrive".to_owned());
        } else if now.saturating_duration_since(self.heard) >= SILENCE {
            self.lost(format!("nothing came over the connection for {} s", SILENCE.as_secs()));
        } else if self.phase != Phase::Open
            && now.saturating_duration_since(self.began) >= FIRST_WORD_WITHIN
        {
            self.lost(format!(
                "the container's exec agent did not begin the session within {} s",
                FIRST_WORD_WITHIN.as_secs()
            ));
        } else if now.saturating_duration_since(self.heard.max(self.asked)) >= PING_EVERY {
            self.asked = now;
            self.transmit.push_back(Transmit::Ping);
        }
    }

    /// Returns when to call [`DataChannel::on_tick`], and then [`DataChannel::poll_transmit`].
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let mut first = (self.heard.max(self.asked) + PING_EVERY).min(self.heard + SILENCE);
        if self.phase != Phase::Open {
            first = first.min(self.began + FIRST_WORD_WITHIN);
        }
        let late = self.ended.as_ref().map(|(_, since)| *since + LATE_OUTPUT);
        [self.outbound.deadline(), self.inbound.deadline(), late]
            .into_iter()
            .flatten()
            .fold(first, Instant::min)
    }

    /// Returns the next message for the connection, acknowledgements first.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(transmit) = self.transmit.pop_front() {
            return Some(transmit);
        }
        if self.closed {
            return None;
        }
        if let Some(bytes) = self.outbound.overdue(now) {
            return Some(Transmit::Binary(bytes));
        }
        if !self.outbound.has_room() {
            return None;
        }
        let (kind, payload) = self.take_input()?;
        Some(Transmit::Binary(self.numbered(kind, payload, now)))
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Output(bytes) = &event {
            self.backlog -= bytes.len() + OVERHEAD;
        }
        Some(event)
    }

    /// Whether the connection may be read: events have been taken, and messages sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.backlog < BACKLOG && self.transmit.len() < MOST_TO_SEND
    }

    /// Whether all input has been sent, so that [`DataChannel::send`] may add more.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.input.is_empty() && !self.closed
    }

    /// Whether the agent has acknowledged all input.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.input.is_empty() && self.outbound.is_done()
    }

    /// Queues input for the command until it may be sent. Add more once
    /// [`DataChannel::wants_input`] is true.
    pub fn send(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.input.push_back((payload_type::OUTPUT, bytes));
        }
    }

    /// Sends the terminal's size, in characters.
    pub fn resize(&mut self, columns: u32, rows: u32) {
        self.input.retain(|(kind, _)| *kind != payload_type::SIZE);
        self.input.push_back((
            payload_type::SIZE,
            Bytes::from(format!(r#"{{"cols":{columns},"rows":{rows}}}"#)),
        ));
    }

    fn on_message(&mut self, frame: Frame, now: Instant) {
        match frame.kind {
            Kind::Output => self.on_output(frame, now),
            Kind::Acknowledge => {
                if let Ok(acknowledged) = serde_json::from_slice::<Acknowledged>(&frame.payload) {
                    self.outbound.acknowledged(
                        acknowledged.sequence,
                        MessageId::parse(&acknowledged.id),
                        now,
                    );
                }
            }
            Kind::PausePublication => self.outbound.pause(now),
            Kind::StartPublication => self.outbound.resume(now),
            Kind::ChannelClosed => {
                let closed: Option<ChannelClosed> = serde_json::from_slice(&frame.payload).ok();
                let said = closed.map_or_else(
                    || String::from_utf8_lossy(&frame.payload).into_owned(),
                    |closed| closed.output,
                );
                self.ended.get_or_insert_with(|| (plain(&said), now));
                if !self.inbound.has_gap() {
                    self.finish();
                }
            }
            Kind::Input | Kind::Other(_) => {
                tracing::debug!(kind = ?frame.kind, "a message of an unknown kind")
            }
        }
    }

    fn on_output(&mut self, frame: Frame, now: Instant) {
        self.outbound.resume(now);
        if self.backlog >= MOST_BACKLOG {
            return;
        }
        let (kind, id, sequence) = (frame.kind.clone(), frame.id, frame.sequence);
        match self.inbound.arrived(frame, now) {
            Arrival::Ignore => {}
            Arrival::Acknowledge => self.acknowledge(&kind, id, sequence),
            Arrival::Next(frame) => {
                self.bad = None;
                self.acknowledge(&kind, id, sequence);
                self.deliver(frame, now);
                while let Some(frame) = self.inbound.in_order(now) {
                    self.deliver(frame, now);
                }
                if self.ended.is_some() && !self.inbound.has_gap() {
                    self.finish();
                }
            }
        }
    }

    fn acknowledge(&mut self, kind: &Kind, id: MessageId, sequence: i64) {
        let payload = Bytes::from(handshake::acknowledgement(kind, id, sequence));
        let frame = Frame {
            kind: Kind::Acknowledge,
            sequence: 0,
            flags: SYN_AND_FIN,
            id: self.id(),
            created: self.opening.unix_millis,
            payload_type: payload_type::NONE,
            payload,
        };
        self.transmit.push_back(Transmit::Binary(frame.encode()));
    }

    fn deliver(&mut self, frame: Frame, now: Instant) {
        if self.closed {
            return;
        }
        match frame.payload_type {
            payload_type::OUTPUT | payload_type::ERROR | payload_type::STDERR => {
                let payload = match &self.cipher {
                    // An error's text is never sealed.
                    Some(cipher) if frame.payload_type != payload_type::ERROR => {
                        match cipher.open(&frame.payload) {
                            Some(plain) => plain,
                            None => return self.refused(
                                "what the agent says cannot be decrypted with the session's key"
                                    .to_owned(),
                            ),
                        }
                    }
                    _ => frame.payload,
                };
                if self.phase == Phase::Silent {
                    self.phase = Phase::Open;
                }
                if !payload.is_empty() {
                    self.backlog += payload.len() + OVERHEAD;
                    self.events.push_back(Event::Output(payload));
                }
            }
            payload_type::HANDSHAKE_REQUEST => self.on_handshake(&frame.payload, now),
            payload_type::CHALLENGE_REQUEST => self.on_challenge(&frame.payload, now),
            payload_type::HANDSHAKE_COMPLETE => self.phase = Phase::Open,
            payload_type::EXIT_CODE => {
                tracing::debug!(said = %String::from_utf8_lossy(&frame.payload), "an exit code from the agent")
            }
            other => tracing::debug!(payload_type = other, "a payload of an unknown type"),
        }
    }

    /// Sends a message ahead of input, which waits for the handshake's end.
    fn urgent(&mut self, kind: u32, payload: Bytes, now: Instant) {
        let bytes = self.numbered(kind, payload, now);
        self.transmit.push_back(Transmit::Binary(bytes));
    }

    fn numbered(&mut self, payload_type: u32, payload: Bytes, now: Instant) -> Bytes {
        let payload = match &self.cipher {
            Some(cipher) if payload_type == payload_type::OUTPUT => {
                let nonce = self.rng.random();
                // AES-GCM seals anything below 64 GiB.
                cipher.seal(&payload, nonce).unwrap_or_default()
            }
            _ => payload,
        };
        let id = self.id();
        let since =
            u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(0);
        let created = self.opening.unix_millis.saturating_add(since);
        let sequence = self.outbound.next();
        let bytes =
            Frame { kind: Kind::Input, sequence, flags: 0, id, created, payload_type, payload }
                .encode();
        self.outbound.sent(id, bytes.clone(), now);
        bytes
    }

    fn take_input(&mut self) -> Option<(u32, Bytes)> {
        if self.phase != Phase::Open {
            return None;
        }
        let (kind, mut bytes) = self.input.pop_front()?;
        if kind == payload_type::OUTPUT && bytes.len() > LONGEST_INPUT {
            let rest = bytes.split_off(LONGEST_INPUT);
            self.input.push_front((kind, rest));
        }
        Some((kind, bytes))
    }

    fn on_bad(&mut self, why: &str, now: Instant) {
        let (count, since) = self.bad.map_or((1, now), |(count, since)| (count + 1, since));
        self.bad = Some((count, since));
        tracing::debug!(why, "an invalid message was dropped");
        if count >= MOST_BAD || (count > 1 && now.saturating_duration_since(since) >= BAD_FOR) {
            self.lost(format!("the messages on the connection are damaged: {why}"));
        }
    }

    fn finish(&mut self) {
        let said = self.ended.take().map(|(said, _)| said).unwrap_or_default();
        let missing = self.inbound.has_gap();
        self.close(if missing {
            Closed::Lost("the session ended and a part of the output is missing".to_owned())
        } else {
            Closed::Ended(said)
        });
    }

    fn lost(&mut self, why: String) {
        self.close(Closed::Lost(why));
    }

    fn refused(&mut self, why: String) {
        self.close(Closed::Refused(why));
    }

    fn close(&mut self, why: Closed) {
        if !self.closed {
            self.closed = true;
            self.input.clear();
            self.events.push_back(Event::Closed(why));
        }
    }

    fn id(&mut self) -> MessageId {
        MessageId::random(self.rng.random())
    }
}

/// Reduces the agent's closing text to one line. The agent puts failures into a frame of line
/// breaks and dashes (amazon-ssm-agent: `----------ERROR-------`).
fn plain(said: &str) -> String {
    foreign_text::clipped(said.trim().trim_start_matches("----------ERROR-------"))
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
