//! The agent's side of the reliable stream: sequence numbers, acknowledgements, retransmission
//! (amazon-ssm-agent, `datachannel.go`). No I/O: frames and time in, frames out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;

use super::message::{Message, kind};

/// Most messages of the output that wait for their acknowledgement. More are sent, but not kept.
const OUTGOING: usize = 100_000;
/// Most early input that is kept, in messages and in bytes. AWS's agent only counts messages.
const INCOMING: usize = 100_000;
const INCOMING_BYTES: usize = INCOMING * 1024;
/// The interval between checks of the oldest message.
pub(super) const TICK: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1);
const CLOCK_GRANULARITY: f64 = 0.010;

/// One session's stream. It outlives its connections.
#[derive(Debug)]
pub(super) struct Stream {
    expected: i64,
    early: BTreeMap<i64, Message>,
    early_bytes: usize,
    next: i64,
    unacknowledged: BTreeMap<i64, Sent>,
    trip: RoundTrip,
    paused: bool,
    was_acknowledged: bool,
    outbox: Vec<Bytes>,
}

#[derive(Debug)]
struct Sent {
    frame: Bytes,
    at: Instant,
}

#[derive(Debug, Deserialize)]
struct Acknowledged {
    #[serde(rename = "AcknowledgedMessageSequenceNumber")]
    sequence: i64,
}

impl Stream {
    /// Paused at first: no client listens yet.
    pub(super) fn new() -> Self {
        Self {
            expected: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            next: 0,
            unacknowledged: BTreeMap::new(),
            trip: RoundTrip::default(),
            paused: true,
            was_acknowledged: false,
            outbox: Vec::new(),
        }
    }

    /// Sends a payload of the output, unless it is empty.
    pub(super) fn send(&mut self, payload_type: u32, payload: Bytes, now: Instant) {
        if payload.is_empty() {
            return;
        }
        let frame = Message::output(self.next, payload_type, payload).encode();
        if !self.paused {
            self.outbox.push(frame.clone());
        }
        if self.unacknowledged.len() < OUTGOING {
            self.unacknowledged.insert(self.next, Sent { frame, at: now });
        }
        self.next += 1;
    }

    /// Handles a message, and returns the next of the input, if there is one. The caller confirms
    /// it by [`Stream::used`]; until then it is neither acknowledged nor skipped.
    pub(super) fn receive(&mut self, message: Message, now: Instant) -> Option<Message> {
        match message.kind.as_str() {
            kind::ACKNOWLEDGE => {
                self.paused = false;
                if let Ok(acknowledged) = serde_json::from_slice::<Acknowledged>(&message.payload)
                    && let Some(sent) = self.unacknowledged.remove(&acknowledged.sequence)
                {
                    self.was_acknowledged = true;
                    self.trip.took(now.saturating_duration_since(sent.at));
                }
                None
            }
            kind::INPUT => {
                self.paused = false;
                if message.sequence == self.expected {
                    return Some(message);
                }
                if message.sequence < self.expected || self.early.contains_key(&message.sequence) {
                    self.acknowledge(&message);
                } else if self.early.len() < INCOMING
                    && self.early_bytes + message.payload.len() <= INCOMING_BYTES
                {
                    self.acknowledge(&message);
                    self.early_bytes += message.payload.len();
                    self.early.insert(message.sequence, message);
                }
                None
            }
            other => {
                tracing::debug!("a message of type {other:.32} means nothing to the agent");
                None
            }
        }
    }

    /// Returns the next of the input, if it came early. It has been acknowledged already.
    pub(super) fn early(&self) -> Option<Message> {
        self.early.get(&self.expected).cloned()
    }

    /// Confirms that the next message of the input has been used.
    pub(super) fn used(&mut self, message: &Message) {
        match self.early.remove(&message.sequence) {
            Some(early) => self.early_bytes -= early.payload.len(),
            None => self.acknowledge(message),
        }
        self.expected = message.sequence + 1;
    }

    fn acknowledge(&mut self, message: &Message) {
        self.outbox.push(Message::acknowledging(message).encode());
    }

    /// Sends the oldest message again after its time-out. Called every [`TICK`].
    pub(super) fn tick(&mut self, now: Instant) {
        if self.paused {
            return;
        }
        if let Some(mut oldest) = self.unacknowledged.first_entry()
            && now.saturating_duration_since(oldest.get().at) > self.trip.timeout
        {
            oldest.get_mut().at = now;
            self.outbox.push(oldest.get().frame.clone());
        }
    }

    /// Handles the service's report that the client cannot be reached, or can again.
    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether anything sent has ever been acknowledged.
    pub(super) fn was_acknowledged(&self) -> bool {
        self.was_acknowledged
    }

    /// Whether everything sent has been acknowledged.
    pub(super) fn is_quiet(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// Returns the messages to send now.
    pub(super) fn outbox(&mut self) -> std::vec::Drain<'_, Bytes> {
        self.outbox.drain(..)
    }
}

/// The estimate of the round trip, in seconds. As in AWS's agent, acknowledgements of repeated
/// messages count, too.
#[derive(Debug)]
struct RoundTrip {
    smoothed: f64,
    variation: f64,
    timeout: Duration,
}

impl Default for RoundTrip {
    fn default() -> Self {
        Self { smoothed: 0.100, variation: 0.0, timeout: Duration::from_millis(200) }
    }
}

impl RoundTrip {
    fn took(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.variation = 0.75 * self.variation + 0.25 * (self.smoothed - time).abs();
        self.smoothed = 0.875 * self.smoothed + 0.125 * time;
        let timeout = self.smoothed + (4.0 * self.variation).max(CLOCK_GRANULARITY);
        self.timeout =
            Duration::try_from_secs_f64(timeout).unwrap_or(LONGEST_TIMEOUT).min(LONGEST_TIMEOUT);
    }
}
