//! Limits reports of lost connections in the job log: each of the first ones, then fewer and fewer.
//! A server in the container may drop connections during the whole job, with another reason each
//! time.

use std::time::Duration;

use states::Timestamp;

/// Losses that are reported one by one.
const FIRST: u32 = 10;
/// After those, the shortest time between two reports: it doubles each time, until …
const PAUSE: Duration = Duration::from_secs(10);
/// … it reaches this. After this time without a loss, it starts again.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The losses so far, and those that were reported.
#[derive(Debug)]
pub(super) struct Losses {
    count: u32,
    last: Option<Timestamp>,
    reported: Option<Timestamp>,
    pause: Duration,
    unreported: u32,
    /// Whether the last loss was reported. Then the reconnection is, too.
    is_reported: bool,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            count: 0,
            last: None,
            reported: None,
            pause: PAUSE,
            unreported: 0,
            is_reported: false,
        }
    }
}

impl Losses {
    /// Records a loss. If it is to be reported, returns how many were not since the last report.
    pub(super) fn note(&mut self, now: Timestamp) -> Option<u32> {
        if self.last.is_some_and(|last| now.since(last) >= LONGEST_PAUSE) {
            (self.count, self.pause) = (0, PAUSE);
        }
        self.last = Some(now);
        self.count = self.count.saturating_add(1);
        self.is_reported = self.count <= FIRST
            || self.reported.is_none_or(|reported| now.since(reported) >= self.pause);
        if !self.is_reported {
            self.unreported = self.unreported.saturating_add(1);
            return None;
        }
        if self.count > FIRST {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.reported = Some(now);
        Some(self.take_unreported())
    }

    /// Whether the last loss was reported.
    pub(super) fn is_reported(&self) -> bool {
        self.is_reported
    }

    /// Returns how many losses were not reported, and counts them as reported.
    pub(super) fn take_unreported(&mut self) -> u32 {
        std::mem::take(&mut self.unreported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records a loss at each of these seconds. Returns the seconds of the reports, and the number
    /// of losses in each.
    fn reported(seconds: impl Iterator<Item = u64>) -> (Vec<u64>, u32) {
        let mut losses = Losses::default();
        let mut sum = 0;
        let reported = seconds.filter(|second| {
            let unreported = losses.note(Timestamp::from_millis(second * 1000));
            sum += unreported.map_or(0, |unreported| unreported + 1);
            unreported.is_some()
        });
        let reported = reported.collect();
        (reported, sum + losses.take_unreported())
    }

    #[test]
    fn a_day_of_losses_is_reported_at_growing_intervals_and_none_is_forgotten() {
        let (seconds, losses) = reported((0..86_400).step_by(5));
        assert_eq!(losses, 86_400 / 5);
        assert!(seconds.len() < 170, "{}", seconds.len());
        assert_eq!(seconds[..12], [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 75]);
    }

    #[test]
    fn a_loss_now_and_then_is_always_reported() {
        assert_eq!(reported((0..100).map(|n| n * 600)).0.len(), 100);
    }
}
