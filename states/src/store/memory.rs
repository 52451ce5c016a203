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
    contents: Mutex<Contents>,
    /// Notified when a lease ends.
    released: Notify,
}

#[derive(Debug, Default)]
struct Contents {
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
        self.shared.contents().leases.remove(&self.job);
        self.shared.released.notify_waiters();
    }
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // It is consistent after every step.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InMemoryStore {
    /// Returns the job's snapshot, unless it is archived.
    #[must_use]
    pub fn snapshot(&self, job: &JobId) -> Option<Snapshot> {
        self.shared.contents().snapshots.get(job).cloned()
    }

    /// The jobs that have a snapshot, in no order.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobId> {
        self.shared.contents().snapshots.keys().cloned().collect()
    }

    /// The archived snapshots, the oldest first.
    #[must_use]
    pub fn archived(&self) -> Vec<Snapshot> {
        self.shared.contents().archived.clone()
    }

    /// Removes only the job's snapshot, as a person may.
    pub fn remove(&self, job: &JobId) {
        self.shared.contents().snapshots.remove(job);
    }

    fn try_lease(&self, job: &JobId, purpose: &str) -> Result<InMemoryLease, StoreError> {
        let mut contents = self.shared.contents();
        if let Some(purpose) = contents.leases.get(job) {
            let holder = format!("process {} ({purpose})", std::process::id());
            return Err(StoreError::Busy { job: job.clone(), holder });
        }
        contents.leases.insert(job.clone(), purpose.to_owned());
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
        self.shared.contents().snapshots.insert(job, snapshot.clone());
        Ok(())
    }

    async fn mark(
        &self,
        lease: &InMemoryLease,
        run: &RunId,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.shared.contents().marks.insert(lease.job.clone(), (run.clone(), offset));
        Ok(())
    }

    async fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        let contents = self.shared.contents();
        contents.marks.get(job).filter(|(marked, _)| marked == run).map(|(_, offset)| *offset)
    }

    async fn note_ending(&self, _: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        if let AnyJob::Stopping(job) = &snapshot.job {
            let noted = EndingJob {
                job: job.header.id.clone(),
                cluster: job.header.spec.cluster.clone(),
                tasks: job.state.tasks().cloned().collect(),
            };
            self.shared.contents().ending.insert(noted.job.clone(), noted);
        }
        Ok(())
    }

    async fn ending_jobs(&self, most: usize) -> Vec<EndingJob> {
        let mut contents = self.shared.contents();
        let all = contents.ending.len();
        let first = if all > most { contents.turn % all } else { 0 };
        contents.turn = first + most;
        contents.ending.values().cycle().skip(first).take(most.min(all)).cloned().collect()
    }

    async fn forget_ending(&self, _: &InMemoryLease, job: &JobId) {
        self.shared.contents().ending.remove(job);
    }

    async fn warm_tasks(&self) -> Result<Vec<JobId>, StoreError> {
        Ok(self.jobs().into_iter().filter(JobId::is_warm).collect())
    }

    async fn claim(
        &self,
        _: (&InMemoryLease, &InMemoryLease),
        warm: &JobId,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        let mut contents = self.shared.contents();
        contents.snapshots.remove(warm);
        contents.snapshots.insert(snapshot.job.header().id.clone(), snapshot.clone());
        Ok(())
    }

    async fn archive(&self, _: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        let job = &snapshot.job.header().id;
        let mut contents = self.shared.contents();
        contents.snapshots.remove(job);
        contents.marks.remove(job);
        contents.ending.remove(job);
        contents.archived.push(snapshot.clone());
        Ok(())
    }
}
