//! A disk with faults, used by processes that crash. Every fourth read parses the snapshot's text:
//! more often would take longer than the rest of a job.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use states::{
    EndingJob, InMemoryLease, InMemoryStore, JobId, RunId, Snapshot, SnapshotStore, StoreError,
};

use super::{
    cloud::Cloud,
    crash_point::CrashPoint,
    fault_plan::{Fault, Odds},
};

/// The content of the disk, and counters.
#[derive(Default)]
pub struct Disk {
    pub store: InMemoryStore,
    reads: AtomicU32,
    /// Saves of an unchanged snapshot.
    pub saved_again: AtomicU32,
}

/// The store of one process.
#[derive(Clone)]
pub struct FaultyStore {
    pub disk: Arc<Disk>,
    pub cloud: Arc<Cloud>,
    pub crash: Arc<CrashPoint>,
}

/// Writes and parses a snapshot.
fn read(snapshot: &Snapshot) -> Snapshot {
    let read = Snapshot::parse(&snapshot.to_ron().unwrap()).unwrap();
    assert_eq!(read, *snapshot, "a snapshot does not survive the disk");
    read
}

impl FaultyStore {
    fn refuses(&self, share: impl Fn(&Odds) -> f64, fault: Fault) -> Result<(), StoreError> {
        let mut state = self.cloud.state.lock().unwrap();
        let share = share(&state.faults.odds);
        if !state.faults.inject(share, fault) {
            return Ok(());
        }
        let source = io::Error::other("no space left on device");
        Err(StoreError::Io { what: "write", path: PathBuf::new(), source })
    }

    /// Counts a save of an unchanged snapshot.
    fn count(&self, snapshot: &Snapshot) {
        let before = self.disk.store.snapshot(&snapshot.job.header().id);
        let again = u32::from(before.as_ref() == Some(snapshot));
        self.disk.saved_again.fetch_add(again, Ordering::Relaxed);
    }
}

impl SnapshotStore for FaultyStore {
    type Lease = InMemoryLease;

    async fn lease(
        &self,
        job: &JobId,
        purpose: &str,
        wait: Duration,
    ) -> Result<InMemoryLease, StoreError> {
        self.disk.store.lease(job, purpose, wait).await
    }

    async fn load(&self, job: &JobId) -> Result<Option<Snapshot>, StoreError> {
        let through_text = self.disk.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(4);
        let snapshot = self.disk.store.snapshot(job);
        Ok(if through_text { snapshot.as_ref().map(read) } else { snapshot })
    }

    async fn save(&self, lease: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.crash.step().await;
        self.refuses(|odds| odds.unsaved, Fault::Unsaved)?;
        self.count(snapshot);
        self.disk.store.save(lease, snapshot).await?;
        self.refuses(|odds| odds.saved_yet_failed, Fault::SavedYetFailed)?;
        self.crash.step().await;
        Ok(())
    }

    async fn mark(
        &self,
        lease: &InMemoryLease,
        run: &RunId,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.crash.step().await;
        self.refuses(|odds| odds.unmarked, Fault::Unmarked)?;
        self.disk.store.mark(lease, run, offset).await?;
        self.crash.step().await;
        Ok(())
    }

    async fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        self.disk.store.marked(job, run).await
    }

    async fn note_ending(
        &self,
        lease: &InMemoryLease,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        self.crash.step().await;
        self.disk.store.note_ending(lease, snapshot).await?;
        self.crash.step().await;
        Ok(())
    }

    async fn ending_jobs(&self, most: usize) -> Vec<EndingJob> {
        self.disk.store.ending_jobs(most).await
    }

    async fn forget_ending(&self, lease: &InMemoryLease, job: &JobId) {
        self.disk.store.forget_ending(lease, job).await;
    }

    async fn warm_tasks(&self) -> Result<Vec<JobId>, StoreError> {
        self.disk.store.warm_tasks().await
    }

    async fn claim(
        &self,
        leases: (&InMemoryLease, &InMemoryLease),
        warm: &JobId,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        self.crash.step().await;
        self.refuses(|odds| odds.unsaved, Fault::Unsaved)?;
        self.disk.store.claim(leases, warm, snapshot).await?;
        self.refuses(|odds| odds.saved_yet_failed, Fault::SavedYetFailed)?;
        self.crash.step().await;
        Ok(())
    }

    async fn archive(&self, lease: &InMemoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.crash.step().await;
        self.refuses(|odds| odds.unarchived, Fault::Unarchived)?;
        // Archiving saves the snapshot, too, as on disk.
        self.count(snapshot);
        self.disk.store.archive(lease, snapshot).await?;
        self.crash.step().await;
        Ok(())
    }
}
