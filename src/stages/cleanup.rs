//! `cleanup`: the task ends, the snapshot goes to the archive. Safe at any time, any number of times.

use states::{Goal, Outcome, SnapshotStore, StopReason};

use super::{JobLog, LEASE_WAIT, Session};
use crate::{runner::Verdict, telemetry};

/// Ends the job.
pub async fn cleanup(session: &Session, log: &mut JobLog) -> Verdict {
    match end(session, log).await {
        Ok(verdict) => verdict,
        Err(e) => Verdict::SystemFailure(format!("fargate: cleanup: {e}")),
    }
}

async fn end(session: &Session, log: &mut JobLog) -> Result<Verdict, states::EngineError> {
    let engine = &session.engine;
    let id = &session.identity.id;
    let lease = engine.store().lease(id, "cleanup", LEASE_WAIT)?;
    let Some(snapshot) = engine.store().load(id)? else {
        tracing::info!(job = %id, "nothing to clean up");
        telemetry::job::ended(None, &session.identity.about);
        return Ok(Verdict::Success);
    };
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, "cleanup");
    engine.request_stop(&mut work, StopReason::Cleanup);
    session.state_log.entered(work.snapshot.job.name());
    let outcome = engine.drive(&mut work, Goal::End, log).await?;
    if let Outcome::Ended(_) = outcome {
        telemetry::job::ended(Some(&work.snapshot), &session.identity.about);
    }
    work.close().await;
    Ok(match outcome {
        Outcome::Ended(reason) => {
            tracing::info!(job = %id, %reason, "the job is over");
            session.state_log.entered(super::state_log::ARCHIVED);
            Verdict::Success
        }
        Outcome::Unfinished(what) => Verdict::SystemFailure(format!(
            "fargate: cleanup: {what} The snapshot {} is kept: the next `cleanup` of this job goes on.",
            engine.store().snapshot_path(id).display()
        )),
        other => Verdict::SystemFailure(format!("fargate: cleanup ended unexpectedly: {other:?}")),
    })
}
