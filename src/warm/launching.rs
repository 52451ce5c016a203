//! Launches a pool's task as a job's is launched, and retires it.

use std::{io, time::Duration};

use bytes::Bytes;
use states::{
    AnyJob, ControlError, ControlErrorKind, Goal, JobId, JobIo, Note, Observation, Outcome,
    Retirement, Snapshot, SnapshotStore as _, StopReason, StoreError,
};

use crate::{
    config::Warm,
    host::{Background, Host, JobEngine, Work},
    launch::{
        PlanError,
        key::{self, JobKeyError},
        pool,
    },
};

/// The purpose under which a process launches a warm task.
const LAUNCHING: &str = "warm";
/// The purpose under which a process retires one.
const RETIRING: &str = "retire";

/// Why a pool's task was not launched, or what became of it is not known.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The configuration does not grant what the pool asks for.
    #[error("the pool's image or size: {0}")]
    Refused(#[from] PlanError),
    /// Its snapshot cannot be read or saved.
    #[error(transparent)]
    Engine(#[from] states::EngineError),
    /// The metadata directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its key cannot be made.
    #[error(transparent)]
    Key(#[from] JobKeyError),
}

/// What became of a warm task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launched {
    /// It is ready for a job.
    Ready(JobId),
    /// It had to end, for this reason, and ECS has accepted to stop its task if it had one.
    Failed(JobId, StopReason),
    /// Its stop is not settled yet. [`resume`] continues.
    Unsettled(JobId),
    /// ECS refused the launch with an error for which waiting helps: jobs that wait for theirs come
    /// first, so it is over.
    Refused(JobId, ControlError),
    /// Another process works on it, or a job has claimed it.
    Gone(JobId),
}

/// Launches a task for a pool under this id, which is new. Waits until it is ready for a job or has
/// failed. If this future is dropped, [`resume`] continues.
///
/// # Errors
/// [`LaunchError`]. A task that was launched has a snapshot then.
pub async fn launch(host: &Host, settings: &Warm, id: JobId) -> Result<Launched, LaunchError> {
    let engine = &host.engine;
    let mut header = pool::header(&host.config, settings, id.clone(), engine.clock().now())?;
    let lease = engine.store().lease(&id, LAUNCHING, Duration::ZERO).await?;
    // A task that cannot be recorded must not be launched.
    engine.store().check_writable(&lease, &id).await?;
    key::make(engine.store(), &mut header)?;
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, LAUNCHING).await;
    Ok(finish(engine, work).await?)
}

/// Continues the launch or the end of a warm task that a killed process began.
///
/// # Errors
/// [`LaunchError`].
pub async fn resume(host: &Host, id: &JobId) -> Result<Launched, LaunchError> {
    let engine = &host.engine;
    let Some(mut work) = take(engine, id, LAUNCHING).await? else {
        return Ok(Launched::Gone(id.clone()));
    };
    engine.open(&mut work, LAUNCHING).await;
    Ok(finish(engine, work).await?)
}

/// Ends a warm task that no job has claimed: returns once ECS has accepted to stop it. A process that
/// watches ending tasks archives it.
///
/// # Errors
/// [`LaunchError`].
pub async fn retire(host: &Host, id: &JobId, reason: Retirement) -> Result<Launched, LaunchError> {
    let engine = &host.engine;
    let Some(mut work) = take(engine, id, RETIRING).await? else {
        return Ok(Launched::Gone(id.clone()));
    };
    engine.open(&mut work, RETIRING).await;
    engine.request_stop(&mut work, StopReason::Retired(reason));
    Ok(finish(engine, work).await?)
}

/// Takes the lease of a warm task. `None`: another process has it, a job has claimed the task, or
/// the id is a job's.
async fn take(engine: &JobEngine, id: &JobId, purpose: &str) -> Result<Option<Work>, StoreError> {
    let taken = async {
        let lease = engine.store().lease(id, purpose, Duration::ZERO).await?;
        let snapshot = engine.store().load(id).await?;
        let is_warm = |snapshot: &Snapshot| snapshot.job.header().warm().is_some();
        Ok(snapshot.filter(is_warm).map(|snapshot| engine.work(snapshot, lease)))
    };
    match taken.await {
        Err(StoreError::Busy { .. } | StoreError::Foreign { .. }) => Ok(None),
        settled => settled,
    }
}

/// Drives a warm task until it is ready, or until ECS has accepted to stop it.
async fn finish(engine: &JobEngine, mut work: Work) -> Result<Launched, states::EngineError> {
    let id = work.snapshot.job.header().id.clone();
    let mut io = Launching::default();
    if !matches!(work.snapshot.job, AnyJob::Stopping(_)) {
        engine.drive(&mut work, Goal::Reach, &mut io).await?;
    }
    let launched = if let AnyJob::Stopping(job) = &work.snapshot.job {
        let reason = job.state.reason.clone();
        match (engine.drive(&mut work, Goal::Stop, &mut io).await?, io.refusal) {
            (Outcome::Stopping(_) | Outcome::Ended(_), Some(error)) => Launched::Refused(id, error),
            (Outcome::Stopping(_) | Outcome::Ended(_), None) => Launched::Failed(id, reason),
            _ => Launched::Unsettled(id),
        }
    } else {
        Launched::Ready(id)
    };
    work.close().await;
    Ok(launched)
}

/// The channel of a launch. It ends the launch at the first refusal for which waiting helps.
#[derive(Default)]
struct Launching {
    refusal: Option<ControlError>,
    is_cancelled: bool,
}

impl JobIo for Launching {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        Background(LAUNCHING).output(bytes).await
    }

    fn note(&mut self, note: Note<'_>) {
        if let Note::Observed(Observation::LaunchFailed(error)) = &note
            && matches!(
                error.kind,
                ControlErrorKind::Throttled
                    | ControlErrorKind::Capacity
                    | ControlErrorKind::AccountLimit
            )
        {
            self.refusal = Some(error.clone());
        }
        Background(LAUNCHING).note(note);
    }

    async fn cancelled(&mut self) {
        if self.refusal.is_none() || self.is_cancelled {
            std::future::pending::<()>().await;
        }
        self.is_cancelled = true;
    }
}
