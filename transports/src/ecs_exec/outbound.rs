//! What goes to the agent: numbered, kept until acknowledged, sent again when that takes too long.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    frame::MessageId,
    rtt::{self, Rtt},
};

/// How many messages may be under way. The agent would take 100 000; but what it has not yet written to
/// the terminal it keeps in memory, in the job's container.
const WINDOW: usize = 32;
/// How long anything may be under way without a single acknowledgement.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the oldest message is sent while the other side has asked for a pause.
const PROBE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Messages under way.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    next: i64,
    flight: VecDeque<Sent>,
    rtt: Rtt,
    /// When the last acknowledgement came, or the first of what is under way was sent.
    last_word: Option<Instant>,
    paused: Option<Instant>,
}

#[derive(Debug)]
struct Sent {
    sequence: i64,
    id: MessageId,
    bytes: Bytes,
    first: Instant,
    due: Instant,
    wait: Duration,
    again: bool,
}

impl Outbound {
    /// Whether another message may go out.
    pub(super) fn has_room(&self) -> bool {
        self.paused.is_none() && self.flight.len() < WINDOW
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Keeps a message that is being sent, numbered [`Outbound::next`].
    pub(super) fn sent(&mut self, id: MessageId, bytes: Bytes, now: Instant) {
        let wait = self.rtt.timeout();
        if self.flight.is_empty() {
            self.last_word = Some(now);
        }
        self.flight.push_back(Sent { sequence: self.next, id, bytes, first: now, due: now + wait, wait, again: false });
        self.next += 1;
    }

    /// The agent has this message. Says whether it was one that was waited for.
    pub(super) fn acknowledged(&mut self, sequence: i64, id: Option<MessageId>, now: Instant) -> bool {
        self.resume(now);
        let Some(at) = self.flight.iter().position(|sent| sent.sequence == sequence) else { return false };
        if id.is_some_and(|id| id != self.flight[at].id) {
            return false;
        }
        self.last_word = Some(now);
        if let Some(sent) = self.flight.remove(at)
            && !sent.again
        {
            self.rtt.sample(now.saturating_duration_since(sent.first));
        }
        true
    }

    /// A message that has to be sent again now.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Bytes> {
        let paused = self.paused.is_some();
        let mut candidates = self.flight.iter_mut().take(if paused { 1 } else { WINDOW });
        let sent = candidates.find(|sent| sent.due <= now)?;
        sent.again = true;
        sent.wait = if paused { PROBE } else { (sent.wait * 2).min(rtt::LONGEST) };
        sent.due = now + sent.wait;
        Some(sent.bytes.clone())
    }

    /// When to look for what is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let considered = if self.paused.is_some() { 1 } else { WINDOW };
        let due = self.flight.iter().take(considered).map(|sent| sent.due).min();
        let patience = match self.paused {
            Some(since) => Some(since + LONGEST_PAUSE),
            None if self.flight.is_empty() => None,
            None => self.last_word.map(|at| at + PATIENCE),
        };
        [due, patience].into_iter().flatten().min()
    }

    /// Why nothing more is to be hoped for, if so.
    pub(super) fn hopeless(&self, now: Instant) -> Option<String> {
        if let Some(since) = self.paused {
            let too_long = now.saturating_duration_since(since) >= LONGEST_PAUSE;
            return too_long.then(|| format!("the session was paused for {} s by the other side", LONGEST_PAUSE.as_secs()));
        }
        let silent = self.last_word.is_some_and(|at| now.saturating_duration_since(at) >= PATIENCE);
        (silent && !self.flight.is_empty()).then(|| format!("the container's exec agent acknowledged nothing for {} s", PATIENCE.as_secs()))
    }

    /// The other side cannot take anything for now.
    pub(super) fn pause(&mut self, now: Instant) {
        if self.paused.is_none() {
            self.paused = Some(now);
            if let Some(head) = self.flight.front_mut() {
                head.wait = PROBE;
                head.due = now + PROBE;
            }
        }
    }

    /// The other side takes messages again, or has shown that it does.
    pub(super) fn resume(&mut self, now: Instant) {
        if self.paused.take().is_some() {
            // The time of the pause does not count.
            self.last_word = Some(now);
            self.send_again(now);
        }
    }

    /// Everything under way is to be sent again.
    fn send_again(&mut self, now: Instant) {
        let wait = self.rtt.timeout();
        for sent in &mut self.flight {
            (sent.due, sent.wait, sent.again) = (now, wait, true);
        }
    }

    /// Whether everything that was sent has arrived.
    pub(super) fn is_done(&self) -> bool {
        self.flight.is_empty()
    }
}
