//! The round-trip time of messages, and the time-out until they are sent again.

use std::time::Duration;

/// Shortest wait before a message is sent again.
const SHORTEST: Duration = Duration::from_millis(200);
/// Longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// Smallest allowance for variation (as in both AWS's peers).
const CLOCK: Duration = Duration::from_millis(10);

/// Smoothed round-trip time (RFC 6298, with the agent's starting values).
#[derive(Debug, Clone, Copy)]
pub(super) struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl Default for Rtt {
    fn default() -> Self {
        Self { smoothed: Duration::from_millis(100), variation: Duration::ZERO }
    }
}

impl Rtt {
    /// Records the time to the acknowledgement of a message that was sent once. After a repetition,
    /// either copy may be acknowledged (Karn's algorithm).
    pub(super) fn sample(&mut self, took: Duration) {
        let deviation = self.smoothed.abs_diff(took);
        self.variation = self.variation * 3 / 4 + deviation / 4;
        self.smoothed = self.smoothed * 7 / 8 + took / 8;
    }

    /// Returns how long to wait before a message is sent for the second time.
    pub(super) fn timeout(&self) -> Duration {
        (self.smoothed + (self.variation * 4).max(CLOCK)).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_samples_within_bounds() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), SHORTEST);
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(400));
        }
        let settled = rtt.timeout();
        assert!(
            settled > Duration::from_millis(400) && settled < Duration::from_millis(450),
            "{settled:?}"
        );
        for _ in 0..100 {
            rtt.sample(Duration::from_secs(60));
        }
        assert_eq!(rtt.timeout(), LONGEST);
    }
}
