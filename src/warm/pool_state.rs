//! What the service knows of its pools beyond their tasks' snapshots: what keeps them from being
//! full. It is in a file of the metadata directory, for the page and `fargate status`.

use std::{fs, io, io::Write as _, path::Path, time::Duration};

use diagnosis::words;
use serde::{Deserialize, Serialize};
use states::{ControlError, StopReason, Timestamp, foreign_text, private_file};

/// The file's name in the metadata directory.
const FILE: &str = "fargate.pools";
/// The most bytes of it that are read.
const LONGEST: u64 = 1024 * 1024;
/// A pool that has had too few tasks for so long has a problem. A task starts within some 90 s.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Tasks that do not start in sequence, before that is a problem.
const FAILURES: u32 = 3;

/// What keeps a pool from being full.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolState {
    /// The pool's name.
    pub name: String,
    /// Since when fewer tasks are ready than wanted.
    #[serde(default)]
    pub short_since: Option<Timestamp>,
    /// What no job would be granted either, in a sentence.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Tasks in sequence that did not start.
    #[serde(default)]
    pub failures: u32,
    /// Why the last of them did not.
    #[serde(default)]
    pub failure: Option<StopReason>,
    /// ECS's last refusal of a launch that may succeed later, until one has.
    #[serde(default)]
    pub obstacle: Option<ControlError>,
}

impl PoolState {
    /// Says what is wrong with the pool, in a sentence.
    #[must_use]
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.clone());
        }
        let why = self.failure.as_ref().map(diagnosis::stop_reason);
        if let (FAILURES.., Some(why)) = (self.failures, &why) {
            return Some(format!("Its last {} tasks did not start: {why}", self.failures));
        }
        let short = now.since(self.short_since?);
        if short < PATIENCE {
            return None;
        }
        let obstacle = self.obstacle.as_ref().map(ToString::to_string);
        let why = why.or(obstacle).map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("It has had too few tasks for {}{why}", words::span(short)))
    }

    /// Reads the pools' states. Without the file, or with one that is damaged, there are none.
    #[must_use]
    pub fn read_all(directory: &Path) -> Vec<Self> {
        let read = private_file::read_up_to(&directory.join(FILE), LONGEST);
        read.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written. The old one is still there then.
    pub(super) fn write_all(directory: &Path, pools: &[Self]) -> io::Result<()> {
        let path = directory.join(FILE);
        let new = path.with_extension("pools.new");
        let mut file = private_file::create_new(&new)?;
        file.write_all(&serde_json::to_vec(pools)?)?;
        fs::rename(&new, &path)
    }

    /// Records a refusal in terms of the configuration.
    pub(super) fn refuse(&mut self, why: impl ToString) {
        self.refusal = Some(foreign_text::tame(&why.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use states::ControlErrorKind;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);

    fn state() -> PoolState {
        PoolState { name: "p".to_owned(), short_since: Some(NOW), ..PoolState::default() }
    }

    #[test]
    fn a_pool_that_is_short_for_a_moment_has_no_problem() {
        assert_eq!(state().problem(NOW + PATIENCE.saturating_sub(Duration::from_secs(1))), None);
        assert_eq!(PoolState::default().problem(NOW + PATIENCE), None);
        let obstacle = ControlError {
            operation: "RunTask".to_owned(),
            kind: ControlErrorKind::Capacity,
            code: None,
            message: "Capacity is unavailable at this time".to_owned(),
            cause: states::ControlCause::default(),
        };
        let long = PoolState { obstacle: Some(obstacle), ..state() };
        let problem = long.problem(NOW + PATIENCE).unwrap();
        assert!(problem.contains("10m") && problem.contains("Capacity is unavail"), "{problem}");
    }

    #[test]
    fn tasks_that_do_not_start_are_a_problem_from_the_third_on() {
        let failing = |failures| PoolState {
            failures,
            failure: Some(StopReason::Asked("it".to_owned())),
            ..state()
        };
        assert_eq!(failing(2).problem(NOW), None);
        let problem = failing(3).problem(NOW).unwrap();
        assert!(problem.starts_with("Its last 3 tasks did not start: "), "{problem}");
    }

    #[test]
    fn states_are_kept_in_a_file_and_a_damaged_one_is_none() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(PoolState::read_all(place.path()), []);
        PoolState::write_all(place.path(), &[state()]).unwrap();
        assert_eq!(PoolState::read_all(place.path()), [state()]);
        fs::write(place.path().join(FILE), "[{").unwrap();
        assert_eq!(PoolState::read_all(place.path()), []);
    }
}
