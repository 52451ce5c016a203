//! Puts the agent's messages in order.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::frame::{Frame, OVERHEAD};

/// How many early messages are kept (as the plugin does) ...
const MOST_EARLY: usize = 10_000;
/// ... and how many bytes of them, each message's overhead included.
const MOST_EARLY_BYTES: usize = 16 * 1024 * 1024;
/// How long a message may be missing while later ones have come. The agent sends its oldest ten
/// times a second.
const GAP_PATIENCE: Duration = Duration::from_secs(20);

/// The next message's number, and the messages that came early.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    expected: i64,
    early: BTreeMap<i64, Frame>,
    early_bytes: usize,
    gap_since: Option<Instant>,
}

/// How to handle a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next one: acknowledge and deliver it, then those of [`Inbound::in_order`].
    Next(Frame),
    /// An early one, which is kept, or a duplicate: acknowledge it.
    Acknowledge,
    /// There is no room for it: do not acknowledge it; the agent will repeat it.
    Ignore,
}

impl Inbound {
    /// Takes a message.
    pub(super) fn arrived(&mut self, frame: Frame, now: Instant) -> Arrival {
        if frame.sequence == self.expected {
            self.expected += 1;
            // Another one may still be missing. Its time begins now, as the agent repeats only its
            // oldest message.
            self.gap_since = (!self.early.is_empty()).then_some(now);
            return Arrival::Next(frame);
        }
        if frame.sequence < self.expected || self.early.contains_key(&frame.sequence) {
            return Arrival::Acknowledge;
        }
        if self.early.len() >= MOST_EARLY || self.early_bytes + held(&frame) > MOST_EARLY_BYTES {
            return Arrival::Ignore;
        }
        self.gap_since.get_or_insert(now);
        self.early_bytes += held(&frame);
        self.early.insert(frame.sequence, frame);
        Arrival::Acknowledge
    }

    /// Returns the next message if it came early.
    pub(super) fn in_order(&mut self, now: Instant) -> Option<Frame> {
        let frame = self.early.remove(&self.expected)?;
        self.early_bytes -= held(&frame);
        self.expected += 1;
        self.gap_since = (!self.early.is_empty()).then_some(now);
        Some(frame)
    }

    /// Whether a message is missing.
    pub(super) fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// When to stop waiting for a missing message.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.gap_since.map(|since| since + GAP_PATIENCE)
    }
}

/// Returns the bytes that a kept message takes.
fn held(frame: &Frame) -> usize {
    frame.payload.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ecs_exec::frame::{Kind, MessageId, payload_type};

    fn frame(sequence: i64) -> Frame {
        let payload = Bytes::from(sequence.to_string());
        Frame {
            kind: Kind::Output,
            sequence,
            flags: 0,
            id: MessageId([1; 16]),
            created: 1,
            payload_type: payload_type::OUTPUT,
            payload,
        }
    }

    #[test]
    fn every_gap_has_a_deadline() {
        let began = Instant::now();
        let mut inbound = Inbound::default();
        assert_eq!(inbound.deadline(), None);
        assert_eq!(inbound.arrived(frame(2), began), Arrival::Acknowledge);
        assert_eq!(inbound.deadline(), Some(began + GAP_PATIENCE));
        // The missing message comes, and another one is still missing.
        let later = began + Duration::from_secs(5);
        assert_eq!(inbound.arrived(frame(0), later), Arrival::Next(frame(0)));
        assert_eq!(inbound.in_order(later), None);
        assert_eq!((inbound.has_gap(), inbound.deadline()), (true, Some(later + GAP_PATIENCE)));
        assert_eq!(inbound.arrived(frame(1), later), Arrival::Next(frame(1)));
        assert_eq!(inbound.in_order(later), Some(frame(2)));
        assert_eq!((inbound.has_gap(), inbound.deadline()), (false, None));
    }
}
