//! The threads for file work: an fsync takes milliseconds, and no job waits for another job's.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::DirectoryLease;

/// The number of threads for file work. Fsyncs that overlap share a commit of the file system's
/// journal; more threads would only queue there.
const THREADS: usize = 8;
/// Leases up to which a process does its file work itself: a stage has its own job's and, while it
/// archives another job, that one's. It needs no thread for it, and delays no one.
const A_STAGES_LEASES: usize = 2;

/// Does the file work of all clones of one store.
#[derive(Debug, Clone)]
pub(super) struct FileWork {
    /// Leases that this process holds.
    leases: Arc<AtomicUsize>,
    threads: Arc<Semaphore>,
}

/// Counts a lease as long as it is held.
#[derive(Debug)]
pub(super) struct CountedLease(Arc<AtomicUsize>);

impl Drop for CountedLease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileWork {
    pub(super) fn new() -> Self {
        Self { leases: Arc::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }

    pub(super) fn count_lease(&self) -> CountedLease {
        self.leases.fetch_add(1, Ordering::Relaxed);
        CountedLease(Arc::clone(&self.leases))
    }

    /// Does this work after all earlier work under the same lease: on another thread, if the process
    /// works on more jobs than a stage does.
    ///
    /// Work that has begun is finished even if this future is dropped. The job's lock is held until
    /// then.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        lease: Option<&DirectoryLease>,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let turn = match lease {
            Some(lease) => Some(lease.turn().await),
            None => None,
        };
        if self.leases.load(Ordering::Relaxed) <= A_STAGES_LEASES {
            return work();
        }
        // The semaphore is never closed. If that changes, the work is still done.
        let thread = Arc::clone(&self.threads).acquire_owned().await.ok();
        let done = spawn_blocking(move || {
            let done = work();
            drop((turn, thread));
            done
        });
        match done.await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is shutting down, and is about to drop this future.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
