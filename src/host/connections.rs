//! Connections that stay open between a job's stages, in the service.
//!
//! A stage gives the job's lease back, so another process may work on the job meanwhile. A kept
//! connection is to a task, not to a state: it is used if the job still has that task.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use states::{AnyJob, Greeting, JobId, Session as _, TaskArn};
use tokio::time::{Instant, timeout};
use transports::delivery;

/// For how long a connection that has not ended needs no answer to show that it works. The next
/// stage usually follows within milliseconds.
const FRESH: Duration = Duration::from_secs(2);
/// How long a connection is kept without a stage.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How long a container may take to show that a connection still works. A new one takes less.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a job waits for its connection to be closed.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A connection with the container's greeting.
pub(crate) type Connection = (delivery::Session, Greeting);

/// The connections of jobs that have no stage at the moment.
pub(crate) struct Connections {
    kept: Mutex<HashMap<JobId, Kept>>,
    most: usize,
}

struct Kept {
    task: TaskArn,
    transport: String,
    connection: Connection,
    since: Instant,
}

impl Connections {
    /// Keeps up to `most`. Each is a socket here and a process in its container.
    pub(super) fn new(most: usize) -> Self {
        Self { kept: Mutex::default(), most }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<JobId, Kept>> {
        // The map is consistent after every step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job's connection, if there is one to its task, by its transport, that works.
    pub(crate) async fn take(&self, job: &AnyJob) -> Option<Connection> {
        let kept = self.kept().remove(&job.header().id)?;
        let is_of_job =
            Some(&kept.task) == job.task() && kept.transport == job.header().transport().name;
        let job = &job.header().id;
        if !is_of_job {
            close(kept);
            return None;
        }
        let session = &kept.connection.0;
        if (kept.since.elapsed() < FRESH && session.is_open())
            || timeout(ANSWERS_WITHIN, session.answers()).await == Ok(true)
        {
            return Some(kept.connection);
        }
        tracing::debug!(%job, "the connection that was kept is broken; a new one is made");
        None
    }

    /// Keeps a connection for the job's next stage.
    pub(crate) fn keep(&self, job: &AnyJob, connection: Connection) {
        let Some(task) = job.task().cloned() else { return };
        let transport = job.header().transport().name.clone().into_owned();
        let one = Kept { task, transport, connection, since: Instant::now() };
        let mut kept = self.kept();
        let replaced = kept.insert(job.header().id.clone(), one);
        let one_too_many = (kept.len() > self.most)
            .then(|| kept.iter().min_by_key(|(_, kept)| kept.since).map(|(job, _)| job.clone()))
            .flatten()
            .and_then(|oldest| kept.remove(&oldest));
        drop(kept);
        one_too_many.into_iter().chain(replaced).for_each(close);
    }

    /// Closes the job's connection. Waits only a moment: the task is about to be stopped.
    pub(crate) async fn end(&self, job: &JobId) {
        let kept = self.kept().remove(job);
        if let Some(kept) = kept {
            let closing = tokio::spawn(kept.connection.0.close());
            // It continues if it takes longer.
            let _ = timeout(ENDS_WITHIN, closing).await;
        }
    }

    /// Closes connections that no stage has used for long.
    pub(crate) fn close_idle(&self) {
        let mut kept = self.kept();
        let idle: Vec<JobId> = kept
            .iter()
            .filter(|(_, kept)| kept.since.elapsed() >= IDLE)
            .map(|(job, _)| job.clone())
            .collect();
        let idle: Vec<Kept> = idle.iter().filter_map(|job| kept.remove(job)).collect();
        drop(kept);
        idle.into_iter().for_each(close);
    }

    /// Closes all connections.
    pub(crate) async fn close_all(&self) {
        let all: Vec<Kept> = self.kept().drain().map(|(_, kept)| kept).collect();
        let mut closing = tokio::task::JoinSet::new();
        for kept in all {
            closing.spawn(kept.connection.0.close());
        }
        closing.join_all().await;
    }
}

/// Closes a connection in the background: no stage waits for that.
fn close(kept: Kept) {
    tokio::spawn(kept.connection.0.close());
}
