//! What the service knows of its pools beyond their tasks' snapshots: what keeps them from being
//! full. It is in a file of the metadata directory, for the page, `fargate status` and the next
//! service. One that is restarted often must not launch more often than one that runs.

use std::{fs, io, io::Write as _, path::Path, time::Duration};

use diagnosis::words;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use states::{ControlError, Fit, StopReason, Timestamp, foreign_text, private_file};

use super::plan::Setbacks;

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
#[serde(default)]
pub struct PoolState {
    /// The pool's name.
    pub name: String,
    /// What it launches, as a digest; `None` if nothing is granted.
    pub(super) launch: Option<String>,
    /// Since when fewer tasks are ready than wanted.
    pub(super) short_since: Option<Timestamp>,
    /// What no job would be granted either, in a sentence.
    pub(super) refusal: Option<String>,
    /// Tasks that did not start.
    pub(super) failures: Setbacks,
    /// Why the last of them did not.
    pub(super) failure: Option<StopReason>,
    /// ECS's last refusal of a launch that may succeed later, until one has.
    pub(super) obstacle: Option<ControlError>,
}

/// The states of a directory's pools, and what concerns all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PoolStates {
    pub(super) pools: Vec<PoolState>,
    /// Launches that ECS refused, with an error for which waiting helps.
    pub(super) refusals: Setbacks,
}

impl PoolState {
    /// Says what is wrong with the pool, in a sentence.
    #[must_use]
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.clone());
        }
        let why = self.failure.as_ref().map(diagnosis::stop_reason);
        if let (FAILURES.., Some(why)) = (self.failures.count, &why) {
            return Some(format!("Its last {} tasks did not start: {why}", self.failures.count));
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
        PoolStates::read(directory).pools
    }

    /// Returns the state of a pool that launches such tasks.
    pub(super) fn launching(name: String, fit: &Fit) -> Self {
        // A structure without maps can be written as JSON.
        let text = serde_json::to_vec(fit).unwrap_or_default();
        Self { name, launch: Some(hex::encode(Sha256::digest(text))), ..Self::default() }
    }

    /// Returns the state of a pool that the configuration refuses.
    pub(super) fn refused(name: String, why: impl ToString) -> Self {
        Self { name, refusal: Some(foreign_text::tame(&why.to_string())), ..Self::default() }
    }

    /// Records that a task was launched, and is ready.
    pub(super) fn recover(&mut self) {
        (self.failures, self.failure, self.obstacle) = (Setbacks::default(), None, None);
    }
}

impl PoolStates {
    /// Reads them. Without the file, or with one that is damaged, nothing is known.
    pub(super) fn read(directory: &Path) -> Self {
        let read = private_file::read_up_to(&directory.join(FILE), LONGEST);
        read.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written. The old one is still there then.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(FILE);
        let new = path.with_extension("pools.new");
        let mut file = private_file::create_new(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)
    }

    /// Goes on where an earlier process ended. Pools that launch other tasks than before begin anew.
    pub(super) fn go_on(&mut self, earlier: Self, now: Timestamp) {
        self.refusals = earlier.refusals.until_now(now);
        for before in earlier.pools {
            let is_same = |pool: &&mut PoolState| {
                pool.name == before.name && pool.launch.is_some() && pool.launch == before.launch
            };
            if let Some(pool) = self.pools.iter_mut().find(is_same) {
                let failures = before.failures.until_now(now);
                *pool = PoolState { refusal: None, failures, ..before };
            }
        }
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
        let failing = |count| PoolState {
            failures: Setbacks { count, last: Some(NOW) },
            failure: Some(StopReason::Asked("it".to_owned())),
            ..state()
        };
        assert_eq!(failing(2).problem(NOW), None);
        let problem = failing(3).problem(NOW).unwrap();
        assert!(problem.starts_with("Its last 3 tasks did not start: "), "{problem}");
    }

    #[test]
    fn a_process_goes_on_with_the_setbacks_of_pools_that_launch_the_same() {
        let failed = |name: &str, launch: Option<&str>| PoolState {
            name: name.to_owned(),
            launch: launch.map(str::to_owned),
            failures: Setbacks { count: 4, last: Some(NOW) },
            ..PoolState::default()
        };
        let begun = |name: &str, launch: Option<&str>| PoolState {
            failures: Setbacks::default(),
            ..failed(name, launch)
        };
        let refusals = Setbacks { count: 2, last: Some(NOW) };
        let earlier = PoolStates {
            pools: vec![
                failed("same", Some("a")),
                failed("other", Some("a")),
                failed("refused", None),
                failed("gone", Some("a")),
            ],
            refusals,
        };
        let mut states = PoolStates {
            pools: vec![
                begun("new", Some("a")),
                begun("refused", None),
                begun("other", Some("b")),
                begun("same", Some("a")),
            ],
            refusals: Setbacks::default(),
        };
        let fresh = states.clone();
        states.go_on(earlier.clone(), NOW + PATIENCE);
        assert_eq!((&states.pools[..3], states.refusals), (&fresh.pools[..3], refusals));
        assert_eq!(states.pools[3], failed("same", Some("a")));

        // The clock was set back: no wait is longer than from now on.
        let before = Timestamp::from_millis(NOW.as_millis() - 1);
        let mut states = fresh;
        states.go_on(earlier, before);
        assert_eq!(states.refusals.last, Some(before));
        assert_eq!(states.pools[3].failures.last, Some(before));
    }

    #[test]
    fn states_are_kept_in_a_file_and_a_damaged_one_is_none() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(PoolState::read_all(place.path()), []);
        let states =
            PoolStates { pools: vec![state()], refusals: Setbacks { count: 2, last: Some(NOW) } };
        states.write(place.path()).unwrap();
        assert_eq!(PoolStates::read(place.path()), states);
        assert_eq!(PoolState::read_all(place.path()), [state()]);
        fs::write(place.path().join(FILE), "[{").unwrap();
        assert_eq!(PoolState::read_all(place.path()), []);
    }
}
