//! The driver's stages: they call the engine as `src/stages` and `src/reap.rs` do.

use std::time::Duration;

use bytes::Bytes;
use states::*;

use crate::world::{
    containers::Wire,
    manager::{Io, Manager, Process, header},
};

/// How long a stage waits for another process.
const LEASE_WAIT: Duration = Duration::from_secs(90);

/// A stage's result for gitlab-runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// The script's exit status.
    Exit(i32),
    Cancelled,
    /// The job must end.
    MustEnd(StopReason),
    /// The run was lost.
    Lost,
    /// What remains after `cleanup`.
    Unfinished,
    /// The snapshot cannot be used or kept.
    Disk(String),
    /// Another process works on the job.
    Busy,
    /// There is no job, or it is not ready.
    NoJob,
    NotReady(StateName),
    /// An error that no stage should have.
    Impossible(String),
    /// The process was killed.
    Killed,
}

/// The result of a stage's function.
pub type StageResult = Result<Verdict, EngineError>;

pub fn verdict(result: Option<StageResult>) -> Verdict {
    match result {
        None => Verdict::Killed,
        Some(Ok(verdict)) => verdict,
        Some(Err(EngineError::Store(StoreError::Busy { .. }))) => Verdict::Busy,
        Some(Err(EngineError::Store(error))) => Verdict::Disk(error.to_string()),
        Some(Err(error)) => Verdict::Impossible(error.to_string()),
    }
}

/// The header of this job's attempt number `number`: each attempt has its own token.
fn attempt(manager: &Manager, created: Timestamp, number: usize) -> Header {
    let mut header = header(&manager.job);
    header.created = created;
    header.token = ClientToken::new(format!("t-{number}")).unwrap();
    header.spec.subnets = vec!["s-1".into(), "s-2".into()];
    // Short, so that a wait in vain does not take a simulated hour.
    header.limits = Limits {
        provisioning: Duration::from_secs(60),
        pending: Duration::from_secs(60),
        running: Duration::from_secs(30),
        reconnect: Duration::from_secs(40),
        grace: Duration::from_secs(5),
        stop: Duration::from_secs(45),
    };
    header
}

/// Launches a warm task, as the service does for a pool.
pub async fn warm(manager: &Manager, io: &mut Io) -> StageResult {
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "warm", LEASE_WAIT).await?;
    let mut header = attempt(manager, engine.clock().now(), 0);
    header.token = ClientToken::new("w").unwrap();
    let origin = WarmOrigin { pool: "p".to_owned(), max_age: Duration::from_secs(3600) };
    header.pool = Some(PoolRole::Warm(origin));
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, "warm").await;
    let outcome = engine.drive(&mut work, Goal::Reach, io).await?;
    work.close().await;
    Ok(prepared(outcome, io))
}

fn prepared(outcome: Outcome, io: &Io) -> Verdict {
    match outcome {
        _ if io.was_cancelled => Verdict::Cancelled,
        Outcome::Reachable(_) => Verdict::Success,
        Outcome::MustEnd(reason) | Outcome::Stopping(reason) | Outcome::Ended(reason) => {
            Verdict::MustEnd(reason)
        }
        Outcome::Unfinished => Verdict::Unfinished,
    }
}

type Work = states::Work<<Wire as Transport>::Session, InMemoryLease>;

/// Ends an attempt of the job. Returns the lease, or the stage's verdict.
async fn end_attempt(
    engine: &Process,
    mut work: Work,
    reason: StopReason,
    io: &mut Io,
) -> Result<Result<InMemoryLease, Verdict>, EngineError> {
    let has_ended = matches!(&work.snapshot.job, AnyJob::Stopping(job) if job.state.all_accepted());
    let outcome = if has_ended {
        Outcome::Stopping(StopReason::Cleanup)
    } else {
        engine.request_stop(&mut work, reason);
        engine.drive(&mut work, Goal::Stop, io).await?
    };
    match outcome {
        Outcome::Ended(_) => {}
        Outcome::Stopping(_) => engine.store().archive(&work.lease, &work.snapshot).await?,
        Outcome::Unfinished => return Ok(Err(Verdict::Unfinished)),
        other => return Ok(Err(Verdict::Impossible(format!("{other:?}")))),
    }
    Ok(if io.was_cancelled { Err(Verdict::Cancelled) } else { Ok(work.close().await) })
}

/// Begins an attempt of the job: with the warm task, if it is ready and answers, or with a launch.
async fn begin(
    manager: &Manager,
    engine: &Process,
    number: usize,
    mut lease: InMemoryLease,
    io: &mut Io,
) -> Result<Result<Work, Verdict>, EngineError> {
    let header = attempt(manager, engine.clock().now(), number);
    match engine.claim(&header, lease, "prepare").await? {
        Claiming::None(free) => lease = free,
        Claiming::Claimed(work) => match confirm(engine, *work, io).await? {
            Attempt::Ended(free) => lease = free,
            Attempt::Failed(verdict) => return Ok(Err(verdict)),
            Attempt::GoesOn(work) => return Ok(Ok(*work)),
        },
    }
    let mut work = engine.begin(attempt(manager, engine.clock().now(), number), lease);
    engine.open(&mut work, "prepare").await;
    Ok(Ok(work))
}

/// What becomes of an attempt that was begun before.
enum Attempt {
    GoesOn(Box<Work>),
    /// It is over, and another one may begin.
    Ended(InMemoryLease),
    Failed(Verdict),
}

impl From<Result<InMemoryLease, Verdict>> for Attempt {
    fn from(ended: Result<InMemoryLease, Verdict>) -> Self {
        ended.map_or_else(Self::Failed, Self::Ended)
    }
}

/// Checks that a claimed task answers. Ends the attempt otherwise.
async fn confirm(engine: &Process, mut work: Work, io: &mut Io) -> Result<Attempt, EngineError> {
    if engine.answers(&mut work, Duration::from_secs(10)).await {
        return Ok(Attempt::GoesOn(Box::new(work)));
    }
    let reason = StopReason::Retired(Retirement::Unusable);
    Ok(end_attempt(engine, work, reason, io).await?.into())
}

pub async fn prepare(manager: &Manager, number: usize, io: &mut Io) -> StageResult {
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "prepare", LEASE_WAIT).await?;
    let begun = match engine.store().load(&manager.job).await? {
        None => begin(manager, &engine, number, lease, io).await?,
        Some(snapshot) => {
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, "prepare").await;
            let earlier = match &work.snapshot.job {
                AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_) => {
                    Attempt::GoesOn(Box::new(work))
                }
                AnyJob::Reachable(job)
                    if job.state.runs == 0 && work.snapshot.claim().is_some() =>
                {
                    confirm(&engine, work, io).await?
                }
                _ => {
                    let reason = StopReason::Asked("prepare was called again".to_owned());
                    end_attempt(&engine, work, reason, io).await?.into()
                }
            };
            match earlier {
                Attempt::GoesOn(work) => Ok(*work),
                Attempt::Ended(lease) => begin(manager, &engine, number, lease, io).await?,
                Attempt::Failed(verdict) => Err(verdict),
            }
        }
    };
    let mut work = match begun {
        Ok(work) => work,
        Err(verdict) => return Ok(verdict),
    };
    let outcome = engine.drive(&mut work, Goal::Reach, io).await?;
    work.close().await;
    Ok(prepared(outcome, io))
}

pub async fn run(manager: &Manager, stage: &str, text: &Bytes, io: &mut Io) -> StageResult {
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, stage, LEASE_WAIT).await?;
    let Some(snapshot) = engine.store().load(&manager.job).await? else {
        return Ok(Verdict::NoJob);
    };
    let script = Script { digest: String::from_utf8(text.to_vec()).unwrap(), text: text.clone() };
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, stage).await;
    if let AnyJob::Executing(job) = &work.snapshot.job
        && (job.state.order.stage != stage || job.state.digest != script.digest)
    {
        engine.request_cancel(&mut work);
        io.is_stale = true;
        engine.drive(&mut work, Goal::Run, io).await?;
        io.is_stale = false;
    }
    if io.was_cancelled {
        work.close().await;
        return Ok(Verdict::Cancelled);
    }
    let outcome = match &work.snapshot.job {
        AnyJob::Stopping(job) => Outcome::MustEnd(job.state.reason.clone()),
        AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_) => {
            return Ok(Verdict::NotReady(work.snapshot.job.name()));
        }
        AnyJob::Reachable(_) | AnyJob::Executing(_) => {
            engine.request_run(&mut work, stage, script, RunContainer::Coordinator)?;
            engine.drive(&mut work, Goal::Run, io).await?
        }
    };
    work.close().await;
    Ok(match outcome {
        _ if io.was_cancelled => Verdict::Cancelled,
        Outcome::Reachable(Some(last)) => match last.outcome {
            RunOutcome::Exited { code: 0, .. } => Verdict::Success,
            RunOutcome::Exited { code, .. } => Verdict::Exit(code),
            RunOutcome::Failed(_) | RunOutcome::NeverSent | RunOutcome::Lost(_) => Verdict::Lost,
        },
        Outcome::MustEnd(reason) | Outcome::Stopping(reason) | Outcome::Ended(reason) => {
            Verdict::MustEnd(reason)
        }
        Outcome::Reachable(None) => Verdict::Impossible("the script was not run".to_owned()),
        Outcome::Unfinished => Verdict::Unfinished,
    })
}

/// `cleanup` with `Goal::Stop`. `Goal::End` also waits for the task's end, as `reap` does with an
/// abandoned job.
pub async fn end(manager: &Manager, goal: Goal, reason: StopReason, io: &mut Io) -> StageResult {
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "cleanup", LEASE_WAIT).await?;
    let Some(snapshot) = engine.store().load(&manager.job).await? else {
        return Ok(Verdict::NoJob);
    };
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, "cleanup").await;
    engine.request_stop(&mut work, reason);
    let outcome = engine.drive(&mut work, goal, io).await?;
    work.close().await;
    Ok(match outcome {
        Outcome::Ended(_) | Outcome::Stopping(_) => Verdict::Success,
        Outcome::Unfinished => Verdict::Unfinished,
        other => Verdict::Impossible(format!("{other:?}")),
    })
}

/// Archives ending jobs, as another job's stage does with the call that it makes anyway.
pub async fn look(manager: &Manager) -> StageResult {
    let engine = manager.process();
    for ending in engine.store().ending_jobs(100).await {
        // A failed call is no failure of this stage.
        let Ok(answers) = engine.control().describe(&ending.cluster, &ending.tasks).await else {
            continue;
        };
        let has_ended = |answer: &Described| match &answer.seen {
            Seen::Task(report) => report.status.has_ended(),
            Seen::Missing => true,
        };
        if answers.iter().all(has_ended) {
            engine.conclude(&ending.job, "archive", &answers).await?;
        }
    }
    Ok(Verdict::Success)
}
