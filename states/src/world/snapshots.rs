//! Where snapshots are kept.

use std::{future::Future, time::Duration};

use crate::{JobId, RunId, Snapshot, TaskArn, store::StoreError};

/// A job of which ECS has accepted to stop every task: only their end is waited for, by no process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingJob {
    /// The job.
    pub job: JobId,
    /// Its tasks' cluster.
    pub cluster: String,
    /// Its tasks.
    pub tasks: Vec<TaskArn>,
}

/// Keeps snapshots. The machine's word is only as good as this: [`SnapshotStore::save`] completes
/// when the snapshot would survive a power cut, and a reader sees the old or the new one, never
/// half.
///
/// No method blocks the runtime's thread while another job of this process could use it.
///
/// Dropping a future is safe: what it was to write is written whole or not at all. What is written
/// under one lease is written in the order of the calls, also when the future of an earlier call
/// was dropped, and the lease is not given to anybody else before that is done.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Held while a process works on a job; dropping it lets the next one in.
    type Lease: Send + Sync;

    /// Becomes the only one who works on the job, waiting at most `wait` for whoever does.
    /// `purpose` is what others are told while they wait.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names the holder; others when the store cannot be used.
    fn lease(
        &self,
        job: &JobId,
        purpose: &str,
        wait: Duration,
    ) -> impl Future<Output = Result<Self::Lease, StoreError>> + Send;

    /// The job's snapshot; `None` when there is none.
    ///
    /// # Errors
    /// A torn, foreign or newer snapshot is an error, never `None`.
    fn load(
        &self,
        job: &JobId,
    ) -> impl Future<Output = Result<Option<Snapshot>, StoreError>> + Send;

    /// Replaces the job's snapshot, durably. The lease is the job's.
    ///
    /// # Errors
    /// When it cannot be made durable; the old one is then still there.
    fn save(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Notes how far a run's output has been handed on. Cheap enough for every piece of output: it
    /// survives the process, though not necessarily a power cut (the snapshot's offset does).
    ///
    /// # Errors
    /// When it cannot be noted. Then the snapshot's offset, noted every second, is what the next
    /// process has.
    fn mark(
        &self,
        lease: &Self::Lease,
        run: &RunId,
        offset: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The last mark of the job, if it is of this run.
    fn marked(&self, job: &JobId, run: &RunId) -> impl Future<Output = Option<u64>> + Send;

    /// Notes that the job's tasks will end and that no process waits for it, so that the next
    /// process that asks ECS about tasks asks about these too. A hint: when it is lost, the job
    /// stays where it is until somebody reads its snapshot.
    ///
    /// # Errors
    /// When it cannot be noted.
    fn note_ending(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The jobs that were noted so, at most `most`, in another order each time. Reads no snapshot:
    /// what is noted may be out of date.
    fn ending_jobs(&self, most: usize) -> impl Future<Output = Vec<EndingJob>> + Send;

    /// Removes the note of a job that is not there any more.
    fn forget_ending(&self, lease: &Self::Lease, job: &JobId) -> impl Future<Output = ()> + Send;

    /// Moves a finished job's snapshot to the archive and removes its key and its note.
    ///
    /// # Errors
    /// When it cannot be moved; it is then still where it was.
    fn archive(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
