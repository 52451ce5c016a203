//! Claims: a job takes over a warm task's files.
//!
//! Four steps, under the leases of both. Exactly one snapshot names the task after each of them:
//!
//! ```text
//!                                               <warm>.ron   <job>.ron   <job>.key
//! before                                        the task's
//! 1  key and sessions are copied to the job's   the task's                there
//! 2  <warm>.ron is replaced: the claim          the job's                 there
//! 3  <warm>.ron is renamed to <job>.ron                      the job's    there
//! 4  the other files of the warm task are removed
//! ```
//!
//! Between 2 and 3, the job's snapshot lies under the warm task's name. If the process dies there,
//! the next process that takes the job's lease renames the file before it looks at the job.

use std::{fs, io};

use super::{DirectoryStore, StoreError, durable};
use crate::{AnyJob, BadSnapshot, JobId, MAX_BYTES, Snapshot, TaskArn, private_file};

/// The longest beginning of a snapshot up to its job's id, in bytes.
const HEAD: u64 = 512;
/// The files of a warm task that a job takes over: its key, and sessions that are to be ended.
const COPIED: [&str; 2] = ["key", "session"];
/// The largest of these files, in bytes.
const LONGEST_COPIED: u64 = 64 * 1024;

impl DirectoryStore {
    /// Returns the ids of the warm tasks that have a snapshot, in the order of their names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn warm_ids(&self) -> Result<Vec<JobId>, StoreError> {
        let mut ids = self.jobs()?;
        ids.retain(JobId::is_warm);
        Ok(ids)
    }

    /// Returns the jobs whose claims are unfinished: their snapshots lie under the names of the warm
    /// tasks. A process may be about to finish some of them. Taking such a job's lease finishes its
    /// claim.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn unfinished_claims(&self) -> Result<Vec<JobId>, StoreError> {
        let claimed = |warm| match self.read(&warm) {
            Err(StoreError::Foreign { found, .. }) => Some(found),
            _ => None,
        };
        Ok(self.warm_ids()?.into_iter().filter_map(claimed).collect())
    }

    /// Returns the job, or the warm task, whose snapshot names the task now; `None` if none does. It
    /// may change at any time.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn owner_of(&self, task: &TaskArn) -> Result<Option<JobId>, StoreError> {
        // A directory is not read at one moment: a file that is renamed meanwhile may be missed. A
        // task's snapshot is renamed once in its life, so one of two passes sees it.
        for _ in 0..2 {
            let owner = self.jobs()?.into_iter().find(|job| self.names(job, task));
            if owner.is_some() {
                return Ok(owner);
            }
        }
        Ok(None)
    }

    /// Whether the snapshot under this name names the task, whichever job it is of.
    fn names(&self, job: &JobId, task: &TaskArn) -> bool {
        let Ok(bytes) = private_file::read_up_to(&self.snapshot_path(job), MAX_BYTES + 1) else {
            return false;
        };
        let is_mentioned =
            bytes.windows(task.as_str().len()).any(|part| part == task.as_str().as_bytes());
        is_mentioned
            && match Snapshot::from_bytes(bytes) {
                Ok(Snapshot { job: AnyJob::Stopping(job), .. }) => {
                    job.state.tasks().any(|other| other == task)
                }
                Ok(snapshot) => snapshot.job.task() == Some(task),
                // It may be a running job of a newer driver.
                Err(BadSnapshot::Newer(_)) => true,
                Err(BadSnapshot::Damaged(_) | BadSnapshot::TooLarge) => false,
            }
    }

    /// Performs the steps of a claim. The caller holds both leases.
    pub(super) fn take_over(&self, warm: &JobId, snapshot: &Snapshot) -> Result<(), StoreError> {
        let job = &snapshot.job.header().id;
        let path = self.snapshot_path(job);
        if path.exists() {
            return Err(StoreError::io("claim a warm task for", &path)(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        self.copy_beside(warm, job)?;
        self.write_as(&self.snapshot_path(warm), snapshot)?;
        self.rename_claimed(warm, job)?;
        if let Err(e) = self.remove_beside(warm, &[]) {
            // `fargate reap` removes them.
            tracing::debug!("{e}");
        }
        Ok(())
    }

    /// Finishes the job's claim if a process died in the middle of it. The caller holds the job's
    /// lease.
    pub(super) fn finish_claim(&self, job: &JobId) -> Result<(), StoreError> {
        if job.is_warm() || self.snapshot_path(job).exists() {
            return Ok(());
        }
        for warm in self.warm_ids()? {
            if !self.may_be_of(&warm, job) {
                continue;
            }
            if let Err(StoreError::Foreign { found, .. }) = self.read(&warm)
                && found == *job
            {
                tracing::info!(%job, %warm, "finishing the claim of a warm task");
                return self.rename_claimed(&warm, job);
            }
        }
        Ok(())
    }

    /// Whether the snapshot under the warm task's name may be the job's. Reads only its beginning.
    fn may_be_of(&self, warm: &JobId, job: &JobId) -> bool {
        private_file::read_up_to(&self.snapshot_path(warm), HEAD)
            .is_ok_and(|head| String::from_utf8_lossy(&head).contains(&format!("\"{job}\"")))
    }

    fn rename_claimed(&self, warm: &JobId, job: &JobId) -> Result<(), StoreError> {
        let (from, to) = (self.snapshot_path(warm), self.snapshot_path(job));
        fs::rename(&from, &to).map_err(StoreError::io("rename the snapshot", &from))?;
        durable::sync_directory(&to)
    }

    /// Copies the files that the job still needs. A transport may need neither.
    fn copy_beside(&self, warm: &JobId, job: &JobId) -> Result<(), StoreError> {
        for kind in COPIED {
            let named = |id: &JobId| self.directory.join(format!("{id}.{kind}"));
            let (from, to) = (named(warm), named(job));
            match private_file::read_up_to(&from, LONGEST_COPIED) {
                Ok(content) => durable::write(&to, &content)?,
                // An earlier attempt of the job may have left one.
                Err(e) if e.kind() == io::ErrorKind::NotFound => durable::remove(&to)?,
                Err(e) => return Err(StoreError::io("read", &from)(e)),
            }
        }
        Ok(())
    }
}
