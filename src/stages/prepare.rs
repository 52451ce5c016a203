//! `prepare`: claims a warm task for the job or launches one, and waits until its container answers.

use std::time::Duration;

use diagnosis::words;
use states::{
    AnyJob, Claiming, DirectoryLease, Goal, Outcome, PoolRole, Retirement, SnapshotStore,
    StopReason, TaskArn, TaskControl as _, foreign_text,
};
use tokio::{task::JoinHandle, time::timeout};

use super::{JobLog, LEASE_WAIT, Session, stopped};
use crate::{
    control::JOB_TAG,
    host::Work,
    job_end::{has_ended, remains},
    launch::{
        self, Plan, PlanError,
        key::{self, JobKeyError},
        pool,
    },
    runner::Verdict,
    telemetry, transport,
};

/// The purpose under which this stage works on a job.
const PURPOSE: &str = "prepare";
/// How long the container of a claimed task may take to answer: longer than a new session by ECS
/// Exec takes, and far less than a launch.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long a process waits for tags before it ends. The call is under way meanwhile.
const TAGGED_WITHIN: Duration = Duration::from_millis(500);

/// Prepares the job's task.
pub async fn prepare(session: &Session, log: &mut JobLog) -> Verdict {
    match reach(session, log).await {
        Ok(verdict) => verdict,
        Err(e) => Verdict::SystemFailure(format!("fargate: prepare: {e}")),
    }
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Engine(#[from] states::EngineError),
    #[error(transparent)]
    Store(#[from] states::StoreError),
    #[error(transparent)]
    Key(#[from] JobKeyError),
}

/// The job's work, or the verdict with which the stage ends instead.
type Begun = Result<Work, Verdict>;

async fn reach(session: &Session, log: &mut JobLog) -> Result<Verdict, PrepareError> {
    let plan = match Plan::of(session.configuration(), &session.flags, session.environment()) {
        Ok(plan) => plan,
        Err(unknown @ PlanError::Unknown(_)) => {
            return Ok(Verdict::SystemFailure(format!("fargate: prepare: {unknown}")));
        }
        Err(refusal) => {
            let message = Some(format!("fargate: {refusal}"));
            return Ok(Verdict::BuildFailure { code: None, message });
        }
    };
    let engine = session.engine();
    let id = &session.identity.id;
    let lease = engine.store().lease(id, PURPOSE, LEASE_WAIT).await?;
    // A task that cannot be recorded must not be launched.
    engine.store().check_writable(&lease, id).await?;
    if session.configuration().images.allowed.is_none()
        && let Some(line) =
            services(&session.environment().job_variable("CI_JOB_SERVICES").unwrap_or_default())
    {
        log.say(&line);
    }
    plan.granted.notes.iter().for_each(|note| log.say(note));
    let begun = match engine.store().load(id).await? {
        None => Box::pin(begin(session, plan, lease, log)).await?,
        Some(snapshot) => {
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, PURPOSE).await;
            if can_go_on(session, &work) || is_continued(session, &work) {
                tracing::info!(state = %work.snapshot.job.name(), "continuing with the task of an earlier prepare");
                Box::pin(go_on(session, plan, work, log)).await?
            } else {
                let reason = StopReason::Asked("prepare was called again".to_owned());
                match Box::pin(end_attempt(session, work, reason, log)).await? {
                    Ok(lease) => Box::pin(begin(session, plan, lease, log)).await?,
                    Err(verdict) => Err(verdict),
                }
            }
        }
    };
    let mut work = match begun {
        Ok(work) => work,
        Err(verdict) => return Ok(verdict),
    };
    log.begins(work.snapshot.job.header().token.as_str(), 0).await;
    session.state_log.entered(work.snapshot.job.name());
    let outcome = engine.drive(&mut work, Goal::Reach, log).await?;
    let snapshot = work.snapshot.clone();
    session.leave(work);
    Ok(match outcome {
        _ if log.was_cancelled() => {
            Verdict::SystemFailure("fargate: prepare was cancelled.".to_owned())
        }
        Outcome::Reachable(_) => Verdict::Success,
        Outcome::MustEnd(reason) | Outcome::Stopping(reason) | Outcome::Ended(reason) => {
            stopped(&reason, snapshot.job.header())
        }
        Outcome::Unfinished => {
            Verdict::SystemFailure(format!("fargate: prepare: {}", remains(&snapshot)))
        }
    })
}

/// Warns the CI user that the job's `services:` are not started. They are JSON, as in
/// `.gitlab-ci.yml`.
fn services(wanted: &str) -> Option<String> {
    const SHOWN: usize = 5;
    let wanted: Vec<Service> = serde_json::from_str(wanted).ok()?;
    let name =
        |service: &Service| foreign_text::tame(&service.name).chars().take(100).collect::<String>();
    let mut names = wanted.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if wanted.len() > SHOWN {
        names.push_str(", …");
    }
    (!wanted.is_empty()).then(|| {
        format!(
            "This driver does not start services ({names}): a container beside the job's, in its task definition, answers at localhost. The runner's administrator can allow services with Allowed in [Images] of fargate.toml."
        )
    })
}

#[derive(serde::Deserialize)]
struct Service {
    #[serde(default)]
    name: String,
}

/// Whether the task of an earlier `prepare` can be used: it is starting, or was claimed, and its key
/// exists. One that was reachable otherwise may have run scripts, so a new attempt gets a fresh task.
fn can_go_on(session: &Session, work: &Work) -> bool {
    let is_unused = match &work.snapshot.job {
        AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_) => true,
        AnyJob::Reachable(job) => job.state.runs == 0 && work.snapshot.claim().is_some(),
        AnyJob::Executing(_) | AnyJob::Stopping(_) => false,
    };
    let transport = transport::named(&work.snapshot.job.header().transport().name);
    let needs_key = transport.is_none_or(|transport| transport.needs_login);
    is_unused && (!needs_key || session.engine().store().key_path(&session.identity.id).exists())
}

/// Whether another process has begun this attempt, for this very stage. It may have finished it, too.
fn is_continued(session: &Session, work: &Work) -> bool {
    let token = &work.snapshot.job.header().token;
    session.continues.as_ref().is_some_and(|attempt| attempt.key == token.as_str())
}

/// Begins an attempt of the job: with a warm task if one fits and answers, else with a launch.
async fn begin(
    session: &Session,
    plan: Plan,
    mut lease: DirectoryLease,
    log: &mut JobLog,
) -> Result<Begun, PrepareError> {
    let engine = session.engine();
    let (config, identity) = (session.configuration(), &session.identity);
    loop {
        if log.is_cancelled().await {
            return Ok(Err(Verdict::SystemFailure(
                "fargate: prepare was cancelled before a task was launched.".to_owned(),
            )));
        }
        let mut header = launch::header(config, identity, plan.clone(), engine.clock().now());
        header.trace = telemetry::root();
        // Services get their variables at the launch, so no warm task has them.
        if plan.granted.service_environment.is_empty() {
            let claimed = engine.claim(&header, lease, PURPOSE).await?;
            if matches!(claimed, Claiming::Claimed(_)) {
                session.host.claimed.notify_one();
            }
            match claimed {
                Claiming::None(free) => lease = free,
                Claiming::Claimed(work) => match Box::pin(confirm(session, *work, log)).await? {
                    Confirmed::Answers(work) => return Ok(Ok(*work)),
                    Confirmed::Failed(verdict) => return Ok(Err(verdict)),
                    Confirmed::GivenUp(free) => {
                        lease = free;
                        continue;
                    }
                },
            }
            header.pool = pool::matching(config, &header).map(|pool| PoolRole::Missed { pool });
        }
        key::make(engine.store(), &mut header)?;
        let mut work = engine.begin(header, lease);
        engine.open(&mut work, PURPOSE).await;
        return Ok(Ok(work));
    }
}

/// Continues an attempt that an earlier process began. A claimed task must answer again.
async fn go_on(
    session: &Session,
    plan: Plan,
    work: Work,
    log: &mut JobLog,
) -> Result<Begun, PrepareError> {
    if !matches!(work.snapshot.job, AnyJob::Reachable(_)) {
        return Ok(Ok(work));
    }
    match confirm(session, work, log).await? {
        Confirmed::Answers(work) => Ok(Ok(*work)),
        Confirmed::Failed(verdict) => Ok(Err(verdict)),
        Confirmed::GivenUp(lease) => begin(session, plan, lease, log).await,
    }
}

/// Whether a claimed task can be used.
enum Confirmed {
    /// Its container answers.
    Answers(Box<Work>),
    /// It does not. The task is being stopped, and the job may begin anew.
    GivenUp(DirectoryLease),
    /// It does not, and the task could not be stopped.
    Failed(Verdict),
}

/// Checks that the container of a claimed task answers, and gives the task the job's tags meanwhile.
/// The connection is kept for the job.
async fn confirm(
    session: &Session,
    mut work: Work,
    log: &mut JobLog,
) -> Result<Confirmed, PrepareError> {
    let Some(claim) = work.snapshot.claim().cloned() else {
        return Ok(Confirmed::Answers(Box::new(work)));
    };
    let tagging = tag(session, claim.task.clone());
    let answers = session.engine().answers(&mut work, ANSWERS_WITHIN).await;
    if session.host.connections().is_none() {
        // The service goes on with it; this process is about to end.
        let _ = timeout(TAGGED_WITHIN, tagging).await;
    }
    // Sees a cancel that has come meanwhile.
    log.is_cancelled().await;
    if answers {
        let ready = words::span(work.snapshot.job.header().created.since(claim.ready));
        let task = claim.task.task_id();
        log.say(&format!("Claimed Fargate task {task}, which has been warm for {ready}."));
        return Ok(Confirmed::Answers(Box::new(work)));
    }
    log.say(&format!(
        "The warm Fargate task {} does not answer: stopping it.",
        claim.task.task_id()
    ));
    let reason = StopReason::Retired(Retirement::Unusable);
    Ok(match end_attempt(session, work, reason, log).await? {
        Ok(lease) => Confirmed::GivenUp(lease),
        Err(verdict) => Confirmed::Failed(verdict),
    })
}

/// Adds the job's tags to a claimed task, in the background. The job does not depend on them.
fn tag(session: &Session, task: TaskArn) -> JoinHandle<()> {
    let control = session.engine().control().clone();
    let mut tags = launch::task_tags(session.configuration(), &session.identity);
    // The others are the same for all tasks of this manager.
    tags.retain(|(key, _)| key == JOB_TAG || key.starts_with("gitlab:"));
    tokio::spawn(async move {
        if let Err(e) = control.tag(&task, &tags).await {
            tracing::debug!("the claimed task keeps the tags of its pool: {e}");
        }
    })
}

/// Ends an attempt of the job, so that another one can begin. Returns the lease, or why the stage
/// ends instead.
async fn end_attempt(
    session: &Session,
    mut work: Work,
    reason: StopReason,
    log: &mut JobLog,
) -> Result<Result<DirectoryLease, Verdict>, PrepareError> {
    let engine = session.engine();
    let outcome = if has_ended(&work.snapshot) {
        Outcome::Stopping(StopReason::Cleanup)
    } else {
        engine.request_stop(&mut work, reason);
        engine.drive(&mut work, Goal::Stop, log).await?
    };
    match outcome {
        Outcome::Ended(_) => {}
        // ECS ends that task in any case; its snapshot's file is needed.
        Outcome::Stopping(_) => engine.store().archive(&work.lease, &work.snapshot).await?,
        Outcome::Unfinished => {
            return Ok(Err(Verdict::SystemFailure(format!(
                "fargate: prepare: of an earlier attempt, {}",
                remains(&work.snapshot)
            ))));
        }
        other => {
            return Ok(Err(Verdict::SystemFailure(format!(
                "fargate: prepare: an earlier attempt cannot be ended: {other:?}"
            ))));
        }
    }
    telemetry::job::states_of(&work.snapshot);
    Ok(Ok(work.close().await))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unstarted_services_are_named() {
        let message = services(
            r#"[{"name":"postgres:17","alias":"db","entrypoint":null},{"name":"re\u001b[31mdis"}]"#,
        )
        .unwrap();
        assert!(message.contains("(postgres:17, re\u{fffd}[31mdis)"), "{message}");
        for none in ["", "[]", "null", "{}", "what"] {
            assert_eq!(services(none), None, "{none}");
        }
    }
}
