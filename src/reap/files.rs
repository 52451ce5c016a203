//! Files of jobs without a snapshot, and damaged snapshots.

use states::{JobId, StoreError};

use super::{
    Reaper,
    report::{Summary, report},
};
use crate::host::JobEngine;

impl Reaper {
    /// Removes the files of a job without a snapshot, which a killed driver left. If the job has a
    /// task, it is an orphan.
    pub(super) fn sweep(&self, engine: &JobEngine, job: &JobId, summary: &mut Summary) {
        let store = engine.store();
        let removed = match store.try_lease(job, "reap") {
            // A process works on it, and is about to write the snapshot.
            Err(StoreError::Busy { .. }) => return,
            Ok(_) if self.dry_run => {
                return report(format_args!(
                    "job {job}: it has no snapshot; its files would be removed"
                ));
            }
            Ok(lease) => store.sweep(job, &lease),
            Err(e) => Err(e),
        };
        match removed {
            Ok(()) => report(format_args!("job {job}: it has no snapshot; its files were removed")),
            Err(e) => summary.record_failure(&format!("job {job}"), &e),
        }
    }

    /// Moves a damaged snapshot to the archive, once its task has ended and no process has written
    /// it for [`Reaper::older_than`].
    pub(super) fn set_aside(
        &self,
        engine: &JobEngine,
        job: &JobId,
        error: &StoreError,
        task_has_ended: bool,
        summary: &mut Summary,
    ) {
        let path = engine.store().snapshot_path(job);
        let age = std::fs::metadata(&path)
            .and_then(|about| about.modified())
            .ok()
            .and_then(|at| at.elapsed().ok())
            .unwrap_or_default();
        if !task_has_ended || age < self.older_than || self.manager.is_some() {
            return summary.record_failure(&format!("job {job}"), error);
        }
        if self.dry_run {
            report(format_args!(
                "job {job}: its snapshot is damaged, and it has no task; would be set aside"
            ));
        } else {
            match engine.store().set_aside(job) {
                Ok(kept) => report(format_args!(
                    "job {job}: its snapshot is damaged, and it has no task; kept as {}",
                    kept.display()
                )),
                Err(e) => return summary.record_failure(&format!("job {job}"), &e),
            }
        }
        summary.jobs += 1;
    }
}
