//! How much the service takes on at once. Each stage needs files, and a process may have only so
//! many. A stage that is not admitted does its work itself, as without a service.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Stages at once, at most. Each takes some memory.
const STAGES: u64 = 2000;
/// Connections that are kept between stages, at most. Each is a process in its container, too.
const KEPT: u64 = 500;
/// Connections whose request is awaited, at most.
const ASKING: u64 = 256;
/// Files of a stage: its client, the job's lock, a connection to the container, one to AWS, and two
/// that are open for a moment (the snapshot, its directory).
const FILES: u64 = 6;
/// Files for everything else: the log, signals, the page's connections, reaping.
const RESERVED: u64 = 128;

/// What the service admits, by its limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Stages at once.
    pub(super) stages: usize,
    /// Connections that are kept between stages.
    pub(super) kept: usize,
    /// Connections without a request yet.
    pub(super) asking: usize,
    /// Open files.
    pub(super) files: Option<u64>,
}

impl Capacity {
    /// Raises this process's limit of open files as far as it may, and returns what fits.
    pub(super) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        // Service managers have a low limit, for programs that use `select`, and a high one to raise
        // it to (systemd: 1024 and 524288).
        let raised = Rlimit { current: limit.maximum, ..limit };
        let files =
            if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
        Self::of(files)
    }

    /// Returns what fits into so many files; `None` is any number.
    fn of(files: Option<u64>) -> Self {
        let all = files.unwrap_or(u64::MAX);
        let (kept, asking) = (KEPT.min(all / 8), ASKING.min(all / 8));
        let stages = STAGES.min(all.saturating_sub(RESERVED + kept + asking) / FILES);
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self { stages: count(stages), kept: count(kept), asking: count(asking), files }
    }
}

/// The places that are left.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    stages: Arc<Semaphore>,
    asking: Arc<Semaphore>,
}

/// A place, until it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Admission {
    pub(super) fn new(capacity: Capacity) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { stages: places(capacity.stages), asking: places(capacity.asking) }
    }

    /// Admits a stage, if there is a place.
    pub(super) fn stage(&self) -> Option<Place> {
        Arc::clone(&self.stages).try_acquire_owned().ok()
    }

    /// Admits a connection until it has asked, if there is a place.
    pub(super) fn asking(&self) -> Option<Place> {
        Arc::clone(&self.asking).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_admitted_never_needs_more_files_than_there_are() {
        for files in (0..4096).chain([65_536, 524_288, u64::MAX]) {
            let Capacity { stages, kept, asking, .. } = Capacity::of(Some(files));
            let needed = stages as u64 * FILES + (kept + asking) as u64;
            assert!(needed <= files && (stages == 0 || needed + RESERVED <= files), "{files}");
        }
    }

    #[test]
    fn limits_of_1024_and_4096_files_admit_fewer_stages() {
        let of = |files| Capacity::of(files);
        assert_eq!((of(Some(1024)).stages, of(Some(1024)).kept), (106, 128));
        assert_eq!(of(Some(4096)).stages, 535);
        for many in [Some(524_288), None] {
            let Capacity { stages, kept, asking, .. } = of(many);
            assert_eq!((stages, kept, asking), (2000, 500, 256));
        }
    }
}
