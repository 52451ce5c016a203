//! `cleanup`: ECS accepts to stop the job's task. Safe at any time, any number of times.
//!
//! GitLab shows the job as running until this stage ends, so it does not wait for the task's end:
//! ECS does not revoke an accepted stop. The snapshot stays, and a later process archives it (see
//! `docs/decisions/0040-cleanup-does-not-wait.md`).

use states::{
    ControlError, Goal, Outcome, SnapshotStore, StopAnswer, StopReason, StoreError, TaskControl,
};

use super::{JobLog, LEASE_WAIT, Session, costs};
use crate::{control::JOB_TAG, job_end::remains, launch, runner::Verdict, telemetry};

/// Ends the job; with `wait`, also waits for its task's end.
pub async fn cleanup(session: &Session, wait: bool, log: &mut JobLog) -> Verdict {
    let goal = if wait { Goal::End } else { Goal::Stop };
    match end(session, goal, log).await {
        Ok(verdict) => verdict,
        Err(e) => Verdict::SystemFailure(format!("fargate: cleanup: {e}")),
    }
}

async fn end(
    session: &Session,
    goal: Goal,
    log: &mut JobLog,
) -> Result<Verdict, states::EngineError> {
    let engine = session.engine();
    let id = &session.identity.id;
    let lease = engine.store().lease(id, "cleanup", LEASE_WAIT).await?;
    let snapshot = match engine.store().load(id).await {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => {
            engine.store().sweep(id, &lease)?;
            tracing::info!(job = %id, "nothing to clean up");
            telemetry::job::ended(None, &session.identity.about);
            return Ok(Verdict::Success);
        }
        Err(e @ (StoreError::Bad { .. } | StoreError::Foreign { .. })) => {
            return Ok(stop_by_name(session, &e).await);
        }
        Err(e) => return Err(e.into()),
    };
    let mut work = engine.work(snapshot, lease);
    session.end_connection().await;
    engine.open(&mut work, "cleanup").await;
    engine.request_stop(&mut work, StopReason::Cleanup);
    session.state_log.entered(work.snapshot.job.name());
    let outcome = engine.drive(&mut work, goal, log).await?;
    if let Outcome::Ended(_) | Outcome::Stopping(_) = outcome {
        telemetry::job::ended(Some(&work.snapshot), &session.identity.about);
        costs::note(session, &work.snapshot);
    }
    let snapshot = work.snapshot.clone();
    work.close().await;
    Ok(match outcome {
        Outcome::Ended(reason) => {
            tracing::info!(
                job = %id,
                reason = diagnosis::stop_reason(&reason),
                "the job is over"
            );
            session.state_log.entered(super::state_log::ARCHIVED);
            Verdict::Success
        }
        Outcome::Stopping(reason) => {
            tracing::info!(
                job = %id,
                reason = diagnosis::stop_reason(&reason),
                "the job is over; ECS has accepted to stop its task"
            );
            Verdict::Success
        }
        Outcome::Unfinished => Verdict::SystemFailure(format!(
            "fargate: cleanup: {} The snapshot {} is kept: the next `cleanup` of this job, or `fargate reap`, continues.",
            remains(&snapshot),
            engine.store().snapshot_path(id).display()
        )),
        other => Verdict::SystemFailure(format!("fargate: cleanup ended unexpectedly: {other:?}")),
    })
}

/// Stops the job's tasks although its snapshot cannot be read: `startedBy` follows from the job
/// alone. A task that it claimed has another one, and the job's tag if that was permitted.
async fn stop_by_name(session: &Session, why: &StoreError) -> Verdict {
    let control = session.engine().control();
    let cluster = &session.configuration().fargate.cluster;
    let started_by = launch::started_by(&session.identity);
    let mut said = format!("fargate: cleanup: {why}.");
    let id = session.identity.id.as_str();
    let found = async {
        let mut tasks = control.find(cluster, &started_by).await?;
        if tasks.is_empty() && !session.configuration().warm.is_empty() {
            let launched = control.launched(cluster).await?;
            tasks.extend(launched.into_iter().filter(|of| of.tag(JOB_TAG) == id).map(|of| of.task));
        }
        Ok::<_, ControlError>(tasks)
    };
    let tasks = match found.await {
        Ok(tasks) => tasks,
        Err(e) => {
            return Verdict::SystemFailure(format!(
                "{said} Whether a task of it still runs is not known: {} `fargate reap` ends it, once it is old enough.",
                diagnosis::explain_control(&e)
            ));
        }
    };
    if tasks.is_empty() {
        said.push_str(&format!(
            " No task of it runs: there is none with startedBy {started_by} in cluster {cluster}."
        ));
    }
    let unreadable = StopReason::Asked("cleanup of a job whose snapshot cannot be read".to_owned());
    for task in &tasks {
        match control.stop(cluster, task, &unreadable).await {
            Ok(StopAnswer::Accepted) => said.push_str(&format!(" Its task {task} was stopped.")),
            Ok(StopAnswer::Missing) => {
                said.push_str(&format!(" ECS does not know its task {task} any more."))
            }
            Err(e) => said.push_str(&format!(
                " Its task {task} could not be stopped: {} `fargate reap` ends it.",
                diagnosis::explain_control(&e)
            )),
        }
    }
    Verdict::SystemFailure(said)
}
