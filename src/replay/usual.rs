//! What is usual: how long finished jobs stayed in each state.

use std::{collections::BTreeMap, time::Duration};

use states::{DirectoryStore, StateName};

use super::{
    Failure, archive,
    timeline::{STATES, number},
};

/// Fewer finished jobs than this say nothing about what is usual.
const ENOUGH: usize = 20;

/// How long a stay is at least before anybody calls it too long, by state: what ECS's own delays,
/// a slow image or gitlab-runner between two stages may take. A script has an hour.
const FLOORS: [Duration; 6] = [
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(3 * 60),
];

/// Lengths in milliseconds, sorted: four bytes for each.
#[derive(Debug, Clone, Default)]
pub struct Lengths(Vec<u32>);

impl Lengths {
    /// Adds one; those above 49 days count as 49 days.
    pub fn add(&mut self, millis: u64) {
        self.0.push(u32::try_from(millis).unwrap_or(u32::MAX));
    }

    /// Sorts what was added, for the questions below.
    pub fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.shrink_to_fit();
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The length that `percent` of all do not exceed (nearest rank); `None` without any.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|millis| Duration::from_millis(u64::from(*millis)))
    }

    /// All of them, sorted.
    #[must_use]
    pub fn all(&self) -> &[u32] {
        &self.0
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|millis| u64::from(*millis)).sum())
    }
}

/// How long stays in each state are.
#[derive(Debug, Clone, Default)]
pub struct Usual {
    definitions: BTreeMap<String, [Lengths; 6]>,
    all: [Lengths; 6],
}

impl Usual {
    /// Learns from the archive.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn learn(store: &DirectoryStore) -> Result<Self, Failure> {
        let mut usual = Self::default();
        archive::visit(store, |_, summary| usual.add(&summary.definition, &summary.longest))?;
        usual.settle();
        Ok(usual)
    }

    /// Adds a finished job's longest stays. States that it was never in do not count.
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

    /// Sorts what was added.
    pub fn settle(&mut self) {
        self.definitions.values_mut().flatten().chain(&mut self.all).for_each(Lengths::settle);
    }

    /// The lengths that a job of this task definition is compared with: those of its own definition
    /// if there are enough, of all otherwise, `None` when even those are too few.
    #[must_use]
    pub fn lengths(&self, definition: &str, state: StateName) -> Option<&Lengths> {
        let index = number(state);
        let own = self.definitions.get(definition).map(|lengths| &lengths[index]);
        own.filter(|own| own.count() >= ENOUGH)
            .or(Some(&self.all[index]))
            .filter(|lengths| lengths.count() >= ENOUGH)
    }

    /// The longest stay that nobody need worry about: what 99 of 100 do not exceed, but no less
    /// than the floor.
    #[must_use]
    pub fn bearable(&self, definition: &str, state: StateName) -> Duration {
        let floor = FLOORS[number(state)];
        self.lengths(definition, state)
            .and_then(|lengths| lengths.percentile(99))
            .map_or(floor, |usual| usual.max(floor))
    }

    /// Whether anything is known of this task definition.
    #[must_use]
    pub fn knows(&self, definition: &str) -> bool {
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
        lengths.settle();
        for (percent, millis) in [(50, 100), (95, 190), (99, 198), (100, 200)] {
            assert_eq!(lengths.percentile(percent), Some(Duration::from_millis(millis)));
        }
        assert_eq!(Lengths::default().percentile(50), None);
    }

    #[test]
    fn what_is_bearable_is_learned_but_never_below_the_floor() {
        let mut usual = Usual::default();
        for _ in 0..ENOUGH {
            usual.add("quick", &[1, 1000, 1, 1, 1, 1]);
            usual.add("slow", &[1, 900_000, 1, 1, 1, 1]);
        }
        usual.add("new", &[1, 1, 1, 1, 1, 1]);
        usual.settle();
        let floor = FLOORS[1];
        assert_eq!(usual.bearable("quick", StateName::Pending), floor);
        assert_eq!(usual.bearable("slow", StateName::Pending), Duration::from_secs(900));
        assert_eq!(
            usual.bearable("new", StateName::Pending),
            Duration::from_secs(900),
            "all definitions' where its own are too few"
        );
        assert_eq!(Usual::default().bearable("any", StateName::Executing), FLOORS[4]);
    }
}
