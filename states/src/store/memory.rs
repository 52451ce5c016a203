//! A snapshot store in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::StoreError;
use crate::{AnyJob, EndingJob, JobId, RunId, Snapshot, SnapshotStore};

/// A [`DirectoryStore`](crate::DirectoryStore) in memory, for tests, simulations and benchmarks.
/// Clones share their snapshots, as processes share a directory. Every call takes effect at once.
#[derive(Debug, Clone, Default)]
pub struct InMemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
    /// Notified when a lease ends.
    released: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    snapshots: HashMap<JobId, Snapshot>,
    archived: Vec<Snapshot>,
    marks: HashMap<JobId, (RunId, u64)>,
    ending: BTreeMap<JobId, EndingJob>,
    /// The first of them to return next.
    turn: usize,
    /// The purpose of each lease.
    leases: HashMap<JobId, String>,
}

/// The right to work on a job of an [`InMemoryStore`].
#[derive(Debug)]
pub struct InMemoryLease {
    shared: Arc<Shared>,
    job: JobId,
}

impl Drop for InMemoryLease {
    fn drop(&mut self) {
        self.shared.kept().leases.remove(&self.job);
        self.shared.released.notify_waiters();
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // It is consistent after every step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InMemoryStore {
    /// Returns the job's snapshot, unless it is archived.
    #[must_use]
    pub fn snapshot(&self, job: &JobId) -> Option<Snapshot> {
        self.shared.kept().snapshots.get(job).cloned()
    }

    /// The jobs that have a snapshot, in no order.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobId> {
        self.shared.kept().snapshots.keys().cloned().collect()
    }

    /// The archived snapshots, the oldest first.
    #[must_use]
    pub fn archived(&self) -> Vec<Snapshot> {
        self.shared.kept().archived.clone()
    }

    /// Removes only the job's snapshot, as a person may.
    pub fn remove(&self, job: &JobId) {
        self.shared.kept().snapshots.remove(job);
    }

    fn try_lease(&self, job: &JobId, purpose: &str) -> Result<InMemoryLease, StoreError> {
        let mut kept = self.shared.kept();
        if let Some(purpose) = kept.leases.get(job) {
            let holder = format!("process {} ({purpose})", std::process::id());
            return Err(StoreError::Busy { job: job.clone(), holder });
        }
        kept.leases.insert(job.clone(), purpose.to_owned());
        Ok(InMemoryLease { shared: Arc::clone(&self.shared), job: job.clone() })
    }
}

impl SnapshotStore for InMemoryStore {
    type Lease = InMemoryLease;

    async fn lease(
        &self,
        job: &JobId,
        purpose: &str,
        wait: Duration,
    ) -> Result<InMemoryLease, StoreError> {
        let until = Instant::now() + wait;
        loop {
            // Before the attempt, so as not to miss a lease that ends right after it.
            let released = self.shared.released.notified();
            match self.try_lease(job, purpose) {
                Err(busy) => timeout_at(until, released).await.map_err(|_| busy)?,
                taken => return taken,
            }
        }
    }

    async fn load(&self, job: &JobId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.snapshot(job))
    }

    async fn save(&self, _: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        let job = snapshot.job.header().id.clone();
        self.shared.kept().snapshots.insert(job, snapshot.clone());
        Ok(())
    }

    async fn mark(
        &self,
        lease: &InMemoryLease,
        run: &RunId,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.shared.kept().marks.insert(lease.job.clone(), (run.clone(), offset));
        Ok(())
    }

    async fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        let kept = self.shared.kept();
        kept.marks.get(job).filter(|(marked, _)| marked == run).map(|(_, offset)| *offset)
    }

    async fn note_ending(&self, _: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        if let AnyJob::Stopping(job) = &snapshot.job {
            let noted = EndingJob {
                job: job.header.id.clone(),
                cluster: job.header.spec.cluster.clone(),
                tasks: job.state.tasks().cloned().collect(),
            };
            self.shared.kept().ending.insert(noted.job.clone(), noted);
        }
        Ok(())
    }

    async fn ending_jobs(&self, most: usize) -> Vec<EndingJob> {
        let mut kept = self.shared.kept();
        let all = kept.ending.len();
        let first = if all > most { kept.turn % all } else { 0 };
        kept.turn = first + most;
        kept.ending.values().cycle().skip(first).take(most.min(all)).cloned().collect()
    }

    async fn forget_ending(&self, _: &InMemoryLease, job: &JobId) {
        self.shared.kept().ending.remove(job);
    }

    async fn archive(&self, _: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        let job = &snapshot.job.header().id;
        let mut kept = self.shared.kept();
        kept.snapshots.remove(job);
        kept.marks.remove(job);
        kept.ending.remove(job);
        kept.archived.push(snapshot.clone());
        Ok(())
    }
}
