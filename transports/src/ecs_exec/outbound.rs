//! Messages to the agent: numbered, kept until acknowledged, and sent again when that takes too
//! long.
//!
//! The agent acknowledges each message on its own: the next one once it is written to the terminal,
//! later ones as they come. So the window is a number of messages. Each acknowledgement widens it
//! by one while it is used, so it doubles in a round trip. After silence it starts again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    frame::MessageId,
    rtt::{self, Rtt},
};

/// How many messages may be in flight at first, and again after a time without acknowledgements.
const FIRST_WINDOW: usize = 32;
/// How many may be in flight at most: half a mebibyte. The agent would take 100 000, but keeps them
/// in the container's memory until they are written to the terminal.
const WIDEST_WINDOW: usize = 512;
/// How far the input may be ahead of a missing message: the agent keeps that much until it comes.
const FURTHEST_AHEAD: i64 = 2 * WIDEST_WINDOW as i64;
/// A message counts as lost once one that was sent so much later is acknowledged. The service may
/// reorder a little.
const OVERTAKEN_BY: u64 = 8;
/// How long messages may be in flight without a single acknowledgement.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the oldest message is sent while the other side has asked for a pause.
const PROBE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Messages in flight.
#[derive(Debug)]
pub(super) struct Outbound {
    next: i64,
    flight: VecDeque<Sent>,
    /// How many of them do not count as lost.
    in_pipe: usize,
    /// How many were in flight when a message was last sent: an unused window is not widened.
    in_pipe_then: usize,
    window: usize,
    rtt: Rtt,
    /// Time-outs since the last acknowledgement.
    timeouts: u32,
    /// When the oldest message counts as unanswered.
    timer: Option<Instant>,
    /// Messages sent, each copy counted.
    transmissions: u64,
    /// The latest transmission that was acknowledged.
    newest: u64,
    /// The transmissions up to this one have narrowed the window already.
    narrowed: u64,
    /// When the last acknowledgement came, or the first message in flight was sent.
    last_word: Option<Instant>,
    paused: Option<Instant>,
}

#[derive(Debug)]
struct Sent {
    sequence: i64,
    id: MessageId,
    bytes: Bytes,
    first_at: Instant,
    first: u64,
    last: u64,
    lost: bool,
}

impl Sent {
    fn is_copy(&self) -> bool {
        self.first != self.last
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            next: 0,
            flight: VecDeque::new(),
            in_pipe: 0,
            in_pipe_then: 0,
            window: FIRST_WINDOW,
            rtt: Rtt::default(),
            timeouts: 0,
            timer: None,
            transmissions: 0,
            newest: 0,
            narrowed: 0,
            last_word: None,
            paused: None,
        }
    }
}

impl Outbound {
    /// Whether another message may go out, once [`Outbound::overdue`] has none.
    pub(super) fn has_room(&self) -> bool {
        self.paused.is_none()
            && self.in_pipe < self.window
            && self.flight.len() < WIDEST_WINDOW
            && self.flight.front().is_none_or(|oldest| self.next - oldest.sequence < FURTHEST_AHEAD)
    }

    /// Returns the number of the next message.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Keeps a message that is being sent, numbered [`Outbound::next`].
    pub(super) fn sent(&mut self, id: MessageId, bytes: Bytes, now: Instant) {
        if self.flight.is_empty() {
            self.last_word = Some(now);
            self.timer = Some(now + self.timeout());
        }
        self.transmissions += 1;
        let order = self.transmissions;
        self.flight.push_back(Sent {
            sequence: self.next,
            id,
            bytes,
            first_at: now,
            first: order,
            last: order,
            lost: false,
        });
        self.in_pipe += 1;
        self.in_pipe_then = self.in_pipe;
        self.next += 1;
    }

    /// Records that the agent has this message. Returns whether it was in flight.
    pub(super) fn acknowledged(
        &mut self,
        sequence: i64,
        id: Option<MessageId>,
        now: Instant,
    ) -> bool {
        self.resume(now);
        let Some(at) = self.flight.iter().position(|sent| sent.sequence == sequence) else {
            return false;
        };
        if id.is_some_and(|id| id != self.flight[at].id) {
            return false;
        }
        let Some(sent) = self.flight.remove(at) else { return false };
        self.last_word = Some(now);
        self.timeouts = 0;
        if self.window < 2 * self.in_pipe_then {
            self.window = (self.window + 1).min(WIDEST_WINDOW);
        }
        if !sent.lost {
            self.in_pipe -= 1;
        }
        if !sent.is_copy() {
            self.rtt.sample(now.saturating_duration_since(sent.first_at));
        }
        // The acknowledgement may be for the first copy of a message that was sent twice.
        self.newest = self.newest.max(sent.first);
        self.find_overtaken();
        self.timer = (!self.flight.is_empty()).then(|| now + self.timeout());
        true
    }

    /// Returns a message that has to be sent again now.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Bytes> {
        let is_due = self.timer.is_some_and(|at| at <= now);
        if self.paused.is_some() {
            let oldest = self.flight.front_mut().filter(|_| is_due)?;
            self.timer = Some(now + PROBE);
            self.transmissions += 1;
            oldest.last = self.transmissions;
            return Some(oldest.bytes.clone());
        }
        if is_due {
            self.timeouts = self.timeouts.saturating_add(1);
            self.lose_all(now);
        }
        if self.in_pipe >= self.window {
            return None;
        }
        let lost = self.flight.iter_mut().find(|sent| sent.lost)?;
        self.transmissions += 1;
        (lost.lost, lost.last) = (false, self.transmissions);
        self.in_pipe += 1;
        self.in_pipe_then = self.in_pipe;
        Some(lost.bytes.clone())
    }

    /// Returns when to check for overdue messages.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let patience = match self.paused {
            Some(since) => Some(since + LONGEST_PAUSE),
            None if self.flight.is_empty() => None,
            None => self.last_word.map(|at| at + PATIENCE),
        };
        [self.timer, patience].into_iter().flatten().min()
    }

    /// Returns why the agent is given up, if it is.
    pub(super) fn hopeless(&self, now: Instant) -> Option<String> {
        if let Some(since) = self.paused {
            let too_long = now.saturating_duration_since(since) >= LONGEST_PAUSE;
            return too_long.then(|| {
                format!(
                    "the session was paused for {} s by the other side",
                    LONGEST_PAUSE.as_secs()
                )
            });
        }
        let silent = self.last_word.is_some_and(|at| now.saturating_duration_since(at) >= PATIENCE);
        (silent && !self.flight.is_empty()).then(|| {
            format!("the container's exec agent acknowledged nothing for {} s", PATIENCE.as_secs())
        })
    }

    /// The other side has asked for a pause.
    pub(super) fn pause(&mut self, now: Instant) {
        if self.paused.is_none() {
            self.paused = Some(now);
            self.timer = (!self.flight.is_empty()).then_some(now + PROBE);
        }
    }

    /// The other side takes messages again, or has shown that it does.
    pub(super) fn resume(&mut self, now: Instant) {
        if self.paused.take().is_some() {
            // The time of the pause does not count.
            self.last_word = Some(now);
            self.timeouts = 0;
            self.lose_all(now);
        }
    }

    /// Whether everything that was sent has arrived.
    pub(super) fn is_done(&self) -> bool {
        self.flight.is_empty()
    }

    fn timeout(&self) -> Duration {
        self.rtt.timeout().saturating_mul(1 << self.timeouts.min(8)).min(rtt::LONGEST)
    }

    /// Marks every message in flight to be sent again, a window at a time.
    fn lose_all(&mut self, now: Instant) {
        for sent in &mut self.flight {
            sent.lost = true;
        }
        self.in_pipe = 0;
        self.window = FIRST_WINDOW;
        self.narrowed = self.transmissions;
        self.timer = (!self.flight.is_empty()).then(|| now + self.timeout());
    }

    /// Finds messages that others have overtaken. Losses among messages that were in flight
    /// together narrow the window once.
    fn find_overtaken(&mut self) {
        for sent in self
            .flight
            .iter_mut()
            .filter(|sent| !sent.lost && sent.last + OVERTAKEN_BY <= self.newest)
        {
            sent.lost = true;
            self.in_pipe -= 1;
            if sent.last > self.narrowed {
                self.narrowed = self.transmissions;
                self.window = (self.window / 2).max(FIRST_WINDOW);
            }
        }
    }
}
