//! What goes to the agent: numbered, kept until acknowledged, sent again when that takes too long.
//!
//! The agent acknowledges each message on its own: the next one once it is written to the terminal,
//! later ones as they come. So the window is a number of messages. It widens by one with each
//! acknowledgement while it is used, and so doubles in a round trip; after silence it begins anew.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    frame::MessageId,
    rtt::{self, Rtt},
};

/// How many messages may be under way at first, and again after a time without acknowledgements.
const FIRST_WINDOW: usize = 32;
/// How many may be at most: half a mebibyte. The agent would take 100 000; but what it has not yet
/// written to the terminal it keeps in memory, in the job's container.
const WIDEST_WINDOW: usize = 512;
/// How far the input may be ahead of a message that is missing: so much the agent keeps until that
/// one has come.
const FURTHEST_AHEAD: i64 = 2 * WIDEST_WINDOW as i64;
/// A message is believed lost once one was acknowledged that was sent so much later. The service
/// may reorder a little.
const OVERTAKEN_BY: u64 = 8;
/// How long anything may be under way without a single acknowledgement.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the oldest message is sent while the other side has asked for a pause.
const PROBE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Messages under way.
#[derive(Debug)]
pub(super) struct Outbound {
    next: i64,
    flight: VecDeque<Sent>,
    /// How many of them are not believed lost.
    in_pipe: usize,
    /// How many they were when a message was sent last: a window that is not used is not widened.
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
    /// When the last acknowledgement came, or the first of what is under way was sent.
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

    /// The number of the next message.
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

    /// The agent has this message. Says whether it was one that was waited for.
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
        // Of a message that was sent twice, it may be the first copy that is acknowledged.
        self.newest = self.newest.max(sent.first);
        self.find_overtaken();
        self.timer = (!self.flight.is_empty()).then(|| now + self.timeout());
        true
    }

    /// A message that has to be sent again now.
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

    /// When to look for what is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let patience = match self.paused {
            Some(since) => Some(since + LONGEST_PAUSE),
            None if self.flight.is_empty() => None,
            None => self.last_word.map(|at| at + PATIENCE),
        };
        [self.timer, patience].into_iter().flatten().min()
    }

    /// Why nothing more is to be hoped for, if so.
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

    /// The other side cannot take anything for now.
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

    /// Everything under way is to be sent again, a window at a time.
    fn lose_all(&mut self, now: Instant) {
        for sent in &mut self.flight {
            sent.lost = true;
        }
        self.in_pipe = 0;
        self.window = FIRST_WINDOW;
        self.narrowed = self.transmissions;
        self.timer = (!self.flight.is_empty()).then(|| now + self.timeout());
    }

    /// Looks for messages that others have overtaken. The window is narrowed once for what was
    /// under way together.
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
