//! `run SCRIPT STAGE`: delivers one script once, and follows it to its end.

use std::{fs, path::Path};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use states::{
    AnyJob, Finished, Goal, LaunchSpec, Outcome, RunContainer, RunOutcome, Script, SnapshotStore,
};

use super::{JobLog, LEASE_WAIT, Session, costs, prelude, services, stopped};
use crate::{host::Work, job_end::remains, runner::Verdict, telemetry};

/// The stage of the job's `script:`.
const MAIN_SCRIPT: &str = "build_script";

/// Reads the script's file, which gitlab-runner wrote for this stage.
///
/// # Errors
/// The stage's verdict, if it cannot be read.
pub fn read_script(script: &Path, stage: &str) -> Result<Bytes, Verdict> {
    fs::read(script).map(Bytes::from).map_err(|e| {
        Verdict::SystemFailure(format!(
            "fargate: the script {} of stage {stage} cannot be read: {e}",
            script.display()
        ))
    })
}

/// Runs the script.
pub async fn run(session: &Session, text: Bytes, stage: &str, log: &mut JobLog) -> Verdict {
    // The digest covers gitlab-runner's own script only. The lines added below name this process's
    // span, and a process that repeats the stage must find the same run.
    let digest = hex::encode(Sha256::digest(&text));
    let script = Script { digest, text: telemetry::propagated(text) };
    match execute(session, script, stage, log).await {
        Ok(verdict) => verdict,
        Err(e) => Verdict::SystemFailure(format!("fargate: stage {stage}: {e}")),
    }
}

async fn execute(
    session: &Session,
    script: Script,
    stage: &str,
    log: &mut JobLog,
) -> Result<Verdict, states::EngineError> {
    let engine = session.engine();
    let id = &session.identity.id;
    let lease = engine.store().lease(id, &format!("run {stage}"), LEASE_WAIT).await?;
    let Some(snapshot) = engine.store().load(id).await? else {
        return Ok(Verdict::SystemFailure(format!(
            "fargate: there is no task for this job: {} does not exist. `prepare` did not run, or `cleanup` has already ended the job.",
            engine.store().snapshot_path(id).display()
        )));
    };
    let mut work = engine.work(snapshot, lease);
    work.settle_later();
    session.take_connection(&mut work).await;
    engine.open(&mut work, &format!("run {stage}")).await;
    let continues = continued(session, &mut work);
    if let Continued::Over(last) = continues {
        session.leave(work);
        return Ok(if log.is_cancelled().await {
            cancelled(stage)
        } else {
            verdict_on(last.outcome, stage)
        });
    }
    if let AnyJob::Executing(job) = &work.snapshot.job
        && (job.state.order.stage != stage || job.state.digest != script.digest)
    {
        // A driver was killed, and gitlab-runner continued with another stage. The old script must
        // not run beside the new one.
        tracing::warn!(
            stage = job.state.order.stage,
            "ending the run that an earlier process left behind"
        );
        engine.request_cancel(&mut work);
        engine.drive(&mut work, Goal::Run, log).await?;
    }
    if matches!(continues, Continued::No) && log.is_cancelled().await {
        session.leave(work);
        return Ok(Verdict::SystemFailure(format!(
            "fargate: stage {stage} was cancelled before its script was started."
        )));
    }
    let spec = &work.snapshot.job.header().spec;
    let container = container_of(stage, spec);
    let script = Script {
        text: prelude::added(
            script.text,
            spec,
            container,
            is_own_script(stage),
            session.configuration().services.wait,
        ),
        ..script
    };
    let outcome = match &work.snapshot.job {
        AnyJob::Stopping(job) => Outcome::MustEnd(job.state.reason.clone()),
        AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_) => {
            return Ok(Verdict::SystemFailure(format!(
                "fargate: the job's task is not ready: it is {}. `prepare` did not finish.",
                work.snapshot.job.name()
            )));
        }
        AnyJob::Reachable(_) | AnyJob::Executing(_) => {
            engine.request_run(&mut work, stage, script, container)?;
            if let AnyJob::Executing(job) = &work.snapshot.job {
                log.begins(job.state.order.run.as_str(), job.state.offset).await;
            }
            session.state_log.entered(work.snapshot.job.name());
            engine.drive(&mut work, Goal::Run, log).await?
        }
    };
    let snapshot = work.snapshot.clone();
    session.leave(work);
    if stage == MAIN_SCRIPT && matches!(outcome, Outcome::Reachable(_)) {
        services::report(session, &snapshot, log).await;
    }
    if stage == costs::LAST_STAGE {
        costs::report(session, &snapshot, log);
    }
    Ok(match outcome {
        _ if log.was_cancelled() => cancelled(stage),
        Outcome::Reachable(Some(last)) => verdict_on(last.outcome, stage),
        Outcome::MustEnd(reason) | Outcome::Stopping(reason) | Outcome::Ended(reason) => {
            stopped(&reason, snapshot.job.header())
        }
        Outcome::Reachable(None) => {
            Verdict::SystemFailure(format!("fargate: stage {stage}: the script was not run"))
        }
        Outcome::Unfinished => {
            Verdict::SystemFailure(format!("fargate: stage {stage}: {}", remains(&snapshot)))
        }
    })
}

fn cancelled(stage: &str) -> Verdict {
    Verdict::SystemFailure(format!("fargate: stage {stage} was cancelled; its script was ended."))
}

/// Returns gitlab-runner's verdict on a run that is over.
fn verdict_on(outcome: RunOutcome, stage: &str) -> Verdict {
    match outcome {
        RunOutcome::Exited { code: 0, .. } => Verdict::Success,
        RunOutcome::Exited { code, .. } => {
            Verdict::BuildFailure { code: Some(code), message: None }
        }
        lost => Verdict::SystemFailure(format!(
            "fargate: stage {stage}: {}",
            diagnosis::lost_run(&lost).unwrap_or_default()
        )),
    }
}

/// How far the run is that another process has begun for this very stage.
enum Continued {
    /// Nothing was begun.
    No,
    /// It runs, or may run.
    Runs,
    /// It is over: the script must not run again.
    Over(Finished),
}

/// Finds the run that another process has begun for this stage. Its output continues behind what
/// was written.
fn continued(session: &Session, work: &mut Work) -> Continued {
    let Some(attempt) = &session.continues else { return Continued::No };
    match &work.snapshot.job {
        AnyJob::Executing(job) if job.state.order.run.as_str() == attempt.key => {
            session.engine().handed_on(work, attempt.offset);
            Continued::Runs
        }
        AnyJob::Reachable(job) => match &job.state.last {
            Some(last) if last.run.as_str() == attempt.key => Continued::Over(last.clone()),
            _ => Continued::No,
        },
        _ => Continued::No,
    }
}

/// Whether the stage runs a script of the project's own: `script:`, `after_script:`, a step. All
/// others are gitlab-runner's.
fn is_own_script(stage: &str) -> bool {
    matches!(stage, MAIN_SCRIPT | "after_script") || stage.starts_with("step_")
}

/// The container that a stage's script runs in: the project's own scripts in the one with its image,
/// as with GitLab's Kubernetes executor.
fn container_of(stage: &str, spec: &LaunchSpec) -> RunContainer {
    if is_own_script(stage) && spec.job_container().is_some() {
        RunContainer::Job
    } else {
        RunContainer::Coordinator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_scripts_are_recognized() {
        for own in ["build_script", "step_script", "step_release", "after_script"] {
            assert!(is_own_script(own), "{own}");
        }
        for other in [
            "prepare_script",
            "get_sources",
            "clear_worktree",
            "restore_cache",
            "download_artifacts",
            "archive_cache",
            "archive_cache_on_failure",
            "upload_artifacts_on_success",
            "upload_artifacts_on_failure",
            "cleanup_file_variables",
            "something_new",
        ] {
            assert!(!is_own_script(other), "{other}");
        }
    }
}
