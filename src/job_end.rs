//! The end of a job: whether ECS has accepted it, and what is left to do.

use states::{AnyJob, Snapshot};

/// Whether ECS has accepted to stop every task of the job, so that only their end is missing.
pub(crate) fn has_ended(snapshot: &Snapshot) -> bool {
    matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.all_accepted())
}

/// Describes what a process leaves unfinished when its time is up.
pub(crate) fn remains(snapshot: &Snapshot) -> String {
    match &snapshot.job {
        AnyJob::Stopping(job) => diagnosis::remains(job),
        // No other state is left unfinished.
        job => format!("the job is {}.", job.name()),
    }
}
