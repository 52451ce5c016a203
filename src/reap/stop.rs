//! Stops tasks and archives jobs.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use states::{
    Concluded, Described, DirectoryLease, EngineError, Goal, JobId, Outcome, Seen, Snapshot,
    StopReason, TaskControl as _,
};

use super::{
    Reaper,
    judge::{Judgment, OwnedTasks, owned_tasks},
    report::{Summary, describe, report},
    retry,
};
use crate::{
    config::Config,
    control::{DIRECTORY_TAG, JOB_TAG, Launched, MANAGER_TAG},
    host::{Background, JobEngine},
    job_end::remains,
    ownership::manager,
    tags,
    telemetry::{self, metric},
};

impl Reaper {
    /// Whether the task was launched for the manager, and from the directory, that are reaped.
    pub(super) fn concerns(&self, config: &Config, task: &Launched) -> bool {
        match &self.manager {
            Some(manager) => task.tag(MANAGER_TAG) == tags::value(manager),
            None => {
                task.tag(MANAGER_TAG) == manager(config)
                    && task.tag(DIRECTORY_TAG)
                        == tags::value(&config.metadata.directory.display().to_string())
            }
        }
    }

    /// Stops a task if no job owns it and it is old enough. Returns whether it has ended, is
    /// ending, or would be stopped in a dry run.
    pub(super) async fn stop_orphan(
        &self,
        engine: &JobEngine,
        config: &Config,
        task: &Launched,
        owners: &HashMap<JobId, OwnedTasks>,
        summary: &mut Summary,
    ) -> bool {
        match JobId::new(task.tag(JOB_TAG)).ok().and_then(|job| owners.get(&job)) {
            Some(OwnedTasks::Any) => return false,
            Some(OwnedTasks::Task(owned)) if *owned == task.task => return false,
            _ => {}
        }
        let age = task
            .created
            .and_then(|at| SystemTime::now().duration_since(at).ok())
            .unwrap_or_default();
        if age < self.older_than {
            return false;
        }
        // A task's tags may name the warm task that it was: what counts is the snapshot that names it
        // now. A claim may have moved it since the snapshots were read.
        match engine.store().owner_of(&task.task) {
            Ok(None) => {}
            Ok(Some(_)) => return false,
            Err(e) => {
                summary.record_failure(&format!("task {}", task.task), &e);
                return false;
            }
        }
        let cluster = &config.fargate.cluster;
        // Since the tasks were listed, its job may have stopped it.
        match retry(|| engine.control().describe(cluster, std::slice::from_ref(&task.task))).await {
            Ok(described) => match described.first().map(|described| &described.seen) {
                Some(Seen::Task(report)) if !report.stop_desired && !report.status.is_ending() => {}
                _ => return true,
            },
            Err(e) => {
                summary.record_failure(
                    &format!("task {}", task.task),
                    &diagnosis::explain_control(&e),
                );
                return false;
            }
        }
        let unowned = StopReason::Asked("reaped, no job owns it".to_owned());
        if !self.dry_run
            && let Err(e) = retry(|| engine.control().stop(cluster, &task.task, &unowned)).await
        {
            summary.record_failure(
                &format!("task {}", task.task),
                &format!("it was not stopped: {}", diagnosis::explain_control(&e)),
            );
            return false;
        }
        if !self.dry_run {
            metric!(monotonic_counter.fargate.reaped = 1_u64, fargate.reaped.kind = "orphan");
        }
        let done = if self.dry_run { "would be stopped" } else { "stopped" };
        let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
        report(format_args!(
            "task {} ({}, job {}), launched {age} ago: no job owns it; {done}",
            task.task,
            task.tag("gitlab:project"),
            task.tag("gitlab:job")
        ));
        summary.orphans += 1;
        true
    }

    /// Archives a job whose stop ECS had accepted, and whose tasks have ended.
    pub(super) async fn archive_ended(
        &self,
        engine: &JobEngine,
        job: &JobId,
        snapshot: &Snapshot,
        why: &str,
        answers: &[Described],
        summary: &mut Summary,
    ) -> Judgment {
        if self.dry_run {
            report(format_args!("{}: {why}; would be archived", describe(snapshot)));
            summary.jobs += 1;
            return Judgment::Gone;
        }
        let stage = telemetry::job::opened(engine.store().directory(), snapshot, "reap");
        let concluded = stage.run(engine.conclude(job, "reap", answers)).await;
        let outcome: Result<Outcome, EngineError> = match &concluded {
            Ok(Concluded::Archived) => Ok(Outcome::Ended(StopReason::Cleanup)),
            _ => Ok(Outcome::Unfinished),
        };
        telemetry::job::closed(stage, &outcome, Goal::End, snapshot);
        match concluded {
            Ok(Concluded::Archived) => {
                report(format_args!("{}: {why}; archived", describe(snapshot)));
                summary.jobs += 1;
                Judgment::Gone
            }
            Ok(Concluded::Gone) => Judgment::Gone,
            Ok(Concluded::Busy | Concluded::NotYet) => Judgment::Alive(owned_tasks(snapshot)),
            Err(e) => Judgment::Unknown(e.to_string()),
        }
    }
}

/// Stops a job's task and archives the job. Returns a line for people, or the job and why it
/// failed.
pub(super) async fn end_job(
    engine: &JobEngine,
    snapshot: Snapshot,
    lease: DirectoryLease,
    why: &str,
) -> Result<String, (JobId, String)> {
    let (job, id) = (describe(&snapshot), snapshot.job.header().id.clone());
    let stage = telemetry::job::opened(engine.store().directory(), &snapshot, "reap");
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, "reap").await;
    engine.request_stop(&mut work, StopReason::Asked(format!("reaped: {why}")));
    let ended = stage.run(engine.drive(&mut work, Goal::End, &mut Background("reap"))).await;
    telemetry::job::closed(stage, &ended, Goal::End, &work.snapshot);
    match ended {
        Ok(Outcome::Ended(_)) => {
            metric!(monotonic_counter.fargate.reaped = 1_u64, fargate.reaped.kind = "job");
            Ok(format!("{job}: {why}; ended"))
        }
        Ok(Outcome::Unfinished) => {
            let what = remains(&work.snapshot);
            Err((id, format!("{what} Its snapshot is kept: the next reap continues.")))
        }
        Ok(other) => Err((id, format!("it did not end: {other:?}"))),
        Err(e) => Err((id, e.to_string())),
    }
}
