//! How long to wait before the next attempt: growing, bounded, jittered, and reproducible.
//!
//! The jitter depends on the job's id and the attempt's number, not on a random source. So a
//! journal replays to the same decisions, and many jobs still spread their calls.

use std::time::Duration;

/// A growing interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first interval.
    pub first: Duration,
    /// The longest interval.
    pub longest: Duration,
    /// Growth per attempt, in percent: with 130, each interval is 1.3 times the one before.
    pub growth: u32,
}

impl Pace {
    /// The interval before attempt number `attempt` (0 is the first repetition), jittered by at
    /// most a fifth either way.
    #[must_use]
    pub fn interval(&self, attempt: u32, seed: u64) -> Duration {
        let longest = millis(self.longest);
        let mut interval = millis(self.first);
        for _ in 0..attempt.min(64) {
            if interval >= longest {
                break;
            }
            interval = interval.saturating_mul(u64::from(self.growth)) / 100;
        }
        let interval = interval.min(longest);
        // 80 % to 120 % of the interval.
        let jitter = mix(seed ^ (u64::from(attempt) << 32)) % 401;
        Duration::from_millis(interval.saturating_mul(800 + jitter) / 1000)
    }

    /// The same interval, whose jitter depends on a name.
    #[must_use]
    pub fn interval_for(&self, attempt: u32, name: &str) -> Duration {
        self.interval(attempt, seed(name))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A seed for [`Pace::interval`] from a job's id (FNV-1a).
#[must_use]
pub(crate) fn seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// SplitMix64's finalizer: spreads neighbouring numbers evenly.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_to_their_bound_with_a_fifth_of_jitter() {
        let pace = Pace {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(3),
            growth: 130,
        };
        for attempt in 0..1000 {
            let interval = pace.interval(attempt, 7);
            assert!(
                interval >= Duration::from_millis(400) && interval <= Duration::from_millis(3600),
                "{attempt}: {interval:?}"
            );
        }
        assert!(pace.interval(20, 7) >= Duration::from_millis(2400));
    }

    #[test]
    fn jitter_differs_between_jobs_and_repeats_for_one() {
        let pace =
            Pace { first: Duration::from_secs(1), longest: Duration::from_secs(1), growth: 100 };
        assert_eq!(pace.interval(3, seed("a")), pace.interval(3, seed("a")));
        assert!((0..50).any(|n| pace.interval(n, seed("a")) != pace.interval(n, seed("b"))));
    }
}
