//! How long finished jobs stayed in each state: what a job is compared with.

use std::{collections::BTreeMap, time::Duration};

use diagnosis::timeline::{STATES, number};
use states::{DirectoryStore, StateName};

use crate::{Failure, archive};

/// Stays that make a baseline, at least.
const MIN_STAYS: usize = 20;

/// The lowest threshold of each state: what ECS's own delays, a slow image or gitlab-runner between
/// two stages may take. A script has an hour.
const MIN_THRESHOLDS: [Duration; 6] = [
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(3 * 60),
];

/// Lengths of stays in milliseconds, four bytes each.
#[derive(Debug, Clone, Default)]
pub struct Lengths(Vec<u32>);

impl Lengths {
    /// Adds a length; a longer one than 49 days counts as 49 days.
    pub fn add(&mut self, millis: u64) {
        self.0.push(u32::try_from(millis).unwrap_or(u32::MAX));
    }

    /// Sorts the lengths. The methods below need that.
    pub fn sort(&mut self) {
        self.0.sort_unstable();
        self.0.shrink_to_fit();
    }

    /// Returns the number of lengths.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the length that `percent` of all do not exceed (nearest rank); `None` if there are
    /// none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|millis| Duration::from_millis(u64::from(*millis)))
    }

    /// Returns the lengths in ascending order.
    #[must_use]
    pub fn all(&self) -> &[u32] {
        &self.0
    }

    /// Returns the sum of the lengths.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|millis| u64::from(*millis)).sum())
    }
}

/// The stays of finished jobs in each state, by task definition and altogether.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    definitions: BTreeMap<String, [Lengths; 6]>,
    all: [Lengths; 6],
}

impl Baseline {
    /// Reads the stays of all archived jobs.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn from_archive(store: &DirectoryStore) -> Result<Self, Failure> {
        let mut baseline = Self::default();
        archive::for_each(store, |_, summary| {
            if summary.is_job() {
                baseline.add(&summary.definition, &summary.longest);
            }
        })?;
        baseline.sort();
        Ok(baseline)
    }

    /// Adds a finished job's longest stays, in milliseconds. States that it was never in do not
    /// count.
    pub fn add(&mut self, definition: &str, longest: &[u64; 6]) {
        if !self.definitions.contains_key(definition) {
            self.definitions.insert(definition.to_owned(), Default::default());
        }
        let Some(of_definition) = self.definitions.get_mut(definition) else { return };
        for (index, millis) in longest.iter().enumerate().filter(|(_, millis)| **millis > 0) {
            of_definition[index].add(*millis);
            self.all[index].add(*millis);
        }
    }

    /// Sorts the lengths. The methods below need that.
    pub fn sort(&mut self) {
        self.definitions.values_mut().flatten().chain(&mut self.all).for_each(Lengths::sort);
    }

    /// Returns the stays that a job of this task definition is compared with: those of its own
    /// definition, or those of all if its own are too few. `None` if even these are too few.
    #[must_use]
    pub fn lengths(&self, definition: &str, state: StateName) -> Option<&Lengths> {
        let index = number(state);
        let own = self.definitions.get(definition).map(|lengths| &lengths[index]);
        own.filter(|own| own.count() >= MIN_STAYS)
            .or(Some(&self.all[index]))
            .filter(|lengths| lengths.count() >= MIN_STAYS)
    }

    /// Returns the longest stay that is not reported as stuck: what 99 % do not exceed, but no less
    /// than the state's lowest threshold.
    #[must_use]
    pub fn threshold(&self, definition: &str, state: StateName) -> Duration {
        let min = MIN_THRESHOLDS[number(state)];
        self.lengths(definition, state)
            .and_then(|lengths| lengths.percentile(99))
            .map_or(min, |p99| p99.max(min))
    }

    /// Whether a job of this task definition can be compared in any state.
    #[must_use]
    pub fn has(&self, definition: &str) -> bool {
        STATES.into_iter().any(|state| self.lengths(definition, state).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_that_occurred() {
        let mut lengths = Lengths::default();
        (1..=200).rev().for_each(|millis| lengths.add(millis));
        lengths.sort();
        for (percent, millis) in [(50, 100), (95, 190), (99, 198), (100, 200)] {
            assert_eq!(lengths.percentile(percent), Some(Duration::from_millis(millis)));
        }
        assert_eq!(Lengths::default().percentile(50), None);
    }

    #[test]
    fn thresholds_follow_the_archive_and_never_fall_below_the_minimum() {
        let mut baseline = Baseline::default();
        for _ in 0..MIN_STAYS {
            baseline.add("quick", &[1, 1000, 1, 1, 1, 1]);
            baseline.add("slow", &[1, 900_000, 1, 1, 1, 1]);
        }
        baseline.add("new", &[1, 1, 1, 1, 1, 1]);
        baseline.sort();
        let min = MIN_THRESHOLDS[1];
        assert_eq!(baseline.threshold("quick", StateName::Pending), min);
        assert_eq!(baseline.threshold("slow", StateName::Pending), Duration::from_secs(900));
        assert_eq!(
            baseline.threshold("new", StateName::Pending),
            Duration::from_secs(900),
            "all definitions' where its own are too few"
        );
        assert_eq!(Baseline::default().threshold("any", StateName::Executing), MIN_THRESHOLDS[4]);
    }
}
