//! The trait that keeps snapshots.

use std::{future::Future, time::Duration};

use crate::{JobId, RunId, Snapshot, TaskArn, store::StoreError};

/// A job whose tasks ECS has accepted to stop. No process waits for their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingJob {
    /// The job.
    pub job: JobId,
    /// Its tasks' cluster.
    pub cluster: String,
    /// Its tasks.
    pub tasks: Vec<TaskArn>,
}

/// Keeps snapshots. [`SnapshotStore::save`] completes when the snapshot would survive a power cut.
/// A reader sees the old or the new one, never a part. The machine relies on this.
///
/// No method blocks the runtime's thread if another job of this process could use it.
///
/// Dropping a future is safe: its data is written completely or not at all. Writes under one lease
/// happen in the order of the calls, even if the future of an earlier call was dropped. No other
/// process gets the lease before they are done.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Held while a process works on a job. Dropping it releases the job.
    type Lease: Send + Sync;

    /// Takes the job's lease, so that no other process works on it. Waits at most `wait` for the
    /// present holder. Processes that wait see `purpose`.
    ///
    /// # Errors
    /// [`StoreError::Busy`] names the holder. Other errors: the store cannot be used.
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

    /// Replaces the job's snapshot durably. `lease` is the job's.
    ///
    /// # Errors
    /// When it cannot be made durable. The old one is then still there.
    fn save(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Marks how far a run's output has been handed on. It is cheap enough for every piece of
    /// output. The mark survives the process, though not necessarily a power cut (the snapshot's
    /// offset does).
    ///
    /// # Errors
    /// When it cannot be written. The next process then has the snapshot's offset, which is saved
    /// every second.
    fn mark(
        &self,
        lease: &Self::Lease,
        run: &RunId,
        offset: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns the job's last mark, if it is of this run.
    fn marked(&self, job: &JobId, run: &RunId) -> impl Future<Output = Option<u64>> + Send;

    /// Writes a note that the job's tasks will end and that no process waits for that. The next
    /// process that describes tasks then describes these too. The note is a hint: if it is lost,
    /// the job stays until a process reads its snapshot.
    ///
    /// # Errors
    /// When the note cannot be written.
    fn note_ending(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns at most `most` jobs with such notes, in a different order each time. Reads no
    /// snapshot, so the notes may be out of date.
    fn ending_jobs(&self, most: usize) -> impl Future<Output = Vec<EndingJob>> + Send;

    /// Removes the note of a job that no longer exists.
    fn forget_ending(&self, lease: &Self::Lease, job: &JobId) -> impl Future<Output = ()> + Send;

    /// Returns the ids of the warm tasks that have a snapshot, in no order. Reads no snapshot, and
    /// costs next to nothing if there is none.
    ///
    /// # Errors
    /// When the store cannot be listed.
    fn warm_tasks(&self) -> impl Future<Output = Result<Vec<JobId>, StoreError>> + Send;

    /// Gives a warm task and its key to a job that has no snapshot yet. Replaces the snapshot of
    /// `warm` by the job's own, which names the same task. The leases are the job's and the warm
    /// task's.
    ///
    /// At every moment, exactly one snapshot names the task. If the process dies in the middle, the
    /// task is the one's or the other's. In the latter case, the next lease of the job finishes the
    /// claim.
    ///
    /// # Errors
    /// When it cannot be made durable. The task may be the job's then: its next lease shows that.
    fn claim(
        &self,
        leases: (&Self::Lease, &Self::Lease),
        warm: &JobId,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Moves a finished job's snapshot to the archive, and removes its key and its note.
    ///
    /// # Errors
    /// When it cannot be moved. It is then still in its place.
    fn archive(
        &self,
        lease: &Self::Lease,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}
