//! Files of jobs without a snapshot, and damaged snapshots.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use states::{DirectoryStore, JobId, StoreError, private_file};

use super::{
    Reaper,
    report::{Summary, report},
};
use crate::{host::JobEngine, runner::Identity, telemetry};

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

    /// Exports what telemetry has of jobs without a snapshot, and what a service could not send, if
    /// no process has touched it for [`Reaper::older_than`]. With telemetry off, removes it.
    pub(super) fn export_pending(&self, store: &DirectoryStore) -> Result<(), StoreError> {
        let directory = store.directory();
        let is_old = |path: &Path| path.exists() && age(path) >= self.older_than;
        // A service writes its own every half minute as long as it has unsent data.
        let service = directory.join(telemetry::SERVICE_SPOOL);
        if is_old(&service) && !telemetry::take_over(&service) {
            remove(&service);
        }
        let jobs = store.jobs_with(&["trace", "otlp"])?;
        let left = jobs
            .iter()
            .filter(|job| Identity::could_name(job) && !store.snapshot_path(job).exists());
        for job in left {
            // Without the lease, a process works on the job, or is about to.
            let Ok(_lease) = store.try_lease(job, "reap") else { continue };
            let [trace, unsent] = ["trace", "otlp"].map(|of| directory.join(format!("{job}.{of}")));
            if is_old(&trace) {
                telemetry::abandon(directory, job);
                // A malformed one was not exported.
                remove(&trace);
            }
            if is_old(&unsent) && !telemetry::take_over(&unsent) {
                remove(&unsent);
            }
        }
        Ok(())
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
        if !task_has_ended || age(&path) < self.older_than || self.manager.is_some() {
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

/// Returns how long ago a file was written.
fn age(path: &Path) -> Duration {
    let changed = fs::metadata(path).and_then(|about| about.modified()).ok();
    changed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

fn remove(path: &Path) {
    if let Err(e) = private_file::remove(path) {
        tracing::warn!("{} cannot be removed: {e}", path.display());
    }
}
