//! The warm tasks that there are.

use std::time::Duration;

use states::{AnyJob, DirectoryStore, Fit, JobId, StateName, StoreError, TaskArn, Timestamp};

/// The purpose under which a claim is finished.
const PURPOSE: &str = "warm";

/// A warm task that no job has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmTask {
    /// Its id, which names its files.
    pub id: JobId,
    /// The name of the pool that launched it.
    pub pool: String,
    /// Its state: ready in `Reachable`, on its way before that, retired in `Stopping`.
    pub state: StateName,
    /// When its launch began.
    pub created: Timestamp,
    /// Since when it is ready for a job.
    pub ready: Option<Timestamp>,
    /// How long its pool keeps it, from [`WarmTask::created`] on.
    pub max_age: Duration,
    /// Its cluster.
    pub cluster: String,
    /// The ECS task, once there is one.
    pub task: Option<TaskArn>,
    /// What it is for a job. A task of today's configuration has the [`fit`](crate::launch::pool::fit)
    /// of its pool.
    pub fit: Fit,
}

/// Returns the warm tasks, in the order of their ids. Takes no lease, so another process may be
/// working on some of them, or claim one at any moment. A snapshot that cannot be read is left out:
/// `reap` reports it.
///
/// # Errors
/// When the directory cannot be read.
pub fn look(store: &DirectoryStore) -> Result<Vec<WarmTask>, StoreError> {
    let read = |id: JobId| match store.read(&id) {
        Ok(snapshot) => {
            let job = snapshot?.job;
            let header = job.header();
            let origin = header.warm()?;
            Some(WarmTask {
                pool: origin.pool.clone(),
                state: job.name(),
                created: header.created,
                ready: if let AnyJob::Reachable(job) = &job { Some(job.state.since) } else { None },
                max_age: origin.max_age,
                cluster: header.spec.cluster.clone(),
                task: job.task().cloned(),
                fit: Fit::of(header),
                id,
            })
        }
        // A job is claiming it.
        Err(StoreError::Foreign { .. }) => None,
        Err(e) => {
            tracing::debug!("{e}");
            None
        }
    };
    Ok(store.warm_ids()?.into_iter().filter_map(read).collect())
}

/// Finishes claims in the middle of which a process was killed. Their jobs are then abandoned like
/// others without a process.
///
/// # Errors
/// When the directory cannot be read.
pub fn finish_claims(store: &DirectoryStore) -> Result<(), StoreError> {
    for job in store.unfinished_claims()? {
        // A job's lease finishes its claim. A process that has it is about to do so.
        if let Err(e) = store.try_lease(&job, PURPOSE) {
            tracing::debug!("{e}");
        }
    }
    Ok(())
}
