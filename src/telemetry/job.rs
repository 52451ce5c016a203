//! The spans of a job that are exported when it ends: its states, from the journal, and its own.

use std::path::Path;

use states::{
    AnyJob, EngineError, Finished, Goal, Header, Job, Outcome, RunOutcome, Snapshot, StateName,
    StopReason, Timestamp,
};

use super::{
    Purpose, recorder,
    recorder::JobEnd,
    settings::origin,
    span::{self, Attributes},
};
use crate::{job_end::has_ended, runner::Verdict};

/// Returns a job's attributes, the same in every process.
#[must_use]
pub fn about(about: &states::About) -> Attributes {
    vec![
        ("cicd.pipeline.task.name", about.job_name.as_str().into()),
        ("cicd.pipeline.task.run.id", about.job_id.as_str().into()),
        ("cicd.pipeline.run.id", about.pipeline_id.as_str().into()),
        (
            "cicd.pipeline.task.run.url.full",
            format!("{}/-/jobs/{}", without_secrets(&about.project_url), about.job_id).into(),
        ),
    ]
}

/// Opens the span of a process other than a stage: `reap`, `resume`, `stop`, `archive`. Until
/// [`closed`], everything that is recorded belongs to this job.
pub fn opened(directory: &Path, snapshot: &Snapshot, purpose: &str) {
    let Some(recorder) = recorder() else { return };
    let header = snapshot.job.header();
    let purpose = Purpose {
        directory: directory.to_owned(),
        job: header.id.to_string(),
        name: purpose.to_owned(),
        may_begin: false,
        only: header.trace.clone(),
    };
    // The trace of an ended job was exported, unless the process that ended it was killed. Then its
    // process log still exists.
    let kept = header.trace.as_deref().filter(|_| !has_ended(snapshot));
    recorder.enter(&purpose, kept, (None, None), about(&header.about));
}

/// Closes the span opened by [`opened`]. If the job has ended, exports its root span too, which no
/// other process does. `drove` is the result of driving it to `goal`.
pub fn closed(drove: &Result<Outcome, EngineError>, goal: Goal, snapshot: &Snapshot) {
    let Some(recorder) = recorder() else { return };
    if let Ok(Outcome::Ended(_)) = drove {
        ended(Some(snapshot), &snapshot.job.header().about);
    }
    let verdict = match drove {
        // The script was followed to its end: its verdict is the job's.
        Ok(Outcome::Reachable(Some(Finished {
            outcome: RunOutcome::Exited { code, .. }, ..
        }))) if goal == Goal::Run && *code != 0 => {
            Verdict::BuildFailure { code: Some(*code), message: None }
        }
        Ok(Outcome::Unfinished | Outcome::MustEnd(_)) | Err(_) => {
            Verdict::SystemFailure(String::new())
        }
        Ok(_) => Verdict::Success,
    };
    recorder.leave(&verdict, false);
}

/// Records the end of a job: ECS has accepted to stop its task, or it is archived. It has no
/// snapshot if it never began. A snapshot with another trace is of an earlier attempt, which was
/// exported when it ended.
pub fn ended(snapshot: Option<&Snapshot>, who: &states::About) {
    let Some(recorder) = recorder() else { return };
    let snapshot = snapshot.filter(|snapshot| is_exported_here(recorder, snapshot));
    let mut end = JobEnd { attributes: about(who), ..JobEnd::default() };
    if let Some(snapshot) = snapshot {
        states_of(snapshot);
        end.attributes.extend(placed(snapshot));
        if let AnyJob::Stopping(job) = &snapshot.job {
            match &job.state.reason {
                StopReason::Cleanup => {}
                StopReason::Cancelled => end.cancelled = true,
                reason => end.error = Some(diagnosis::error_type(reason)),
            }
        }
    }
    recorder.end(end);
}

/// Whether this process exports the trace that the snapshot names.
fn is_exported_here(recorder: &super::Recorder, snapshot: &Snapshot) -> bool {
    snapshot.job.header().trace == recorder.root()
}

/// Records the states of a finished job, as spans and metrics.
pub fn states_of(snapshot: &Snapshot) {
    let Some(recorder) = recorder().filter(|recorder| is_exported_here(recorder, snapshot)) else {
        return;
    };
    let header = snapshot.job.header();
    let mut job = AnyJob::from(Job::new(header.clone()));
    let mut since = header.created;
    let mut latest = since;
    for (at, saw) in snapshot.journal.unfold() {
        let before = job.clone();
        job = job.observe(&saw, at);
        job.plan(at);
        latest = latest.max(at);
        if job.name() != before.name() {
            state(recorder, &before, &job, since, at);
            since = at;
        }
    }
    state(recorder, &job, &job, since, latest.max(Timestamp::now()));
}

fn state(
    recorder: &super::Recorder,
    was: &AnyJob,
    next: &AnyJob,
    since: Timestamp,
    until: Timestamp,
) {
    let name = was.name();
    let mut attributes: Attributes = vec![("fargate.state", name.to_string().into())];
    let mut error = None;
    if let AnyJob::Executing(job) = was {
        attributes.push(("fargate.stage", job.state.order.stage.as_str().into()));
    }
    match (was, next) {
        (AnyJob::Executing(_), AnyJob::Reachable(next)) => {
            match next.state.last.as_ref().map(|last| &last.outcome) {
                Some(RunOutcome::Exited { code, total }) => {
                    attributes.push(("process.exit.code", i64::from(*code).into()));
                    attributes
                        .push(("fargate.output", i64::try_from(*total).unwrap_or(i64::MAX).into()));
                    error = (*code != 0).then(|| format!("exit_status_{code}"));
                }
                Some(_) => error = Some("run_lost".to_owned()),
                None => {}
            }
        }
        (was, AnyJob::Stopping(next)) if was.name() != StateName::Stopping => {
            error = failure(&next.state.reason)
        }
        _ => {}
    }
    let counted = vec![("fargate.state", name.to_string().into())];
    recorder.measure("fargate.state.duration", counted, until.since(since).as_secs_f64());
    recorder.state(format!("state {name}"), (span::of(since), span::of(until)), attributes, error);
}

fn failure(reason: &StopReason) -> Option<String> {
    (!matches!(reason, StopReason::Cleanup | StopReason::Cancelled))
        .then(|| diagnosis::error_type(reason))
}

/// Returns attributes of the task's location.
fn placed(snapshot: &Snapshot) -> Attributes {
    let Header { spec, .. } = snapshot.job.header();
    let mut attributes: Attributes =
        vec![("cloud.provider", "aws".into()), ("cloud.platform", "aws_ecs".into())];
    if let Some(task) = snapshot.job.task() {
        attributes.push(("aws.ecs.task.arn", task.as_str().into()));
        attributes.push(("aws.ecs.task.id", task.task_id().into()));
        // arn:aws:ecs:<region>:<account>:task/<cluster>/<id>
        let mut parts = task.as_str().split(':').skip(3);
        if let (Some(region), Some(account)) = (parts.next(), parts.next()) {
            attributes.push(("cloud.region", region.into()));
            attributes.push(("cloud.account.id", account.into()));
        }
    }
    let definition = spec.task_definition.rsplit('/').next().unwrap_or_default();
    let (family, revision) = definition
        .split_once(':')
        .map_or((definition, None), |(family, revision)| (family, Some(revision)));
    attributes.push(("aws.ecs.task.family", family.into()));
    attributes.extend(revision.map(|revision| ("aws.ecs.task.revision", revision.into())));
    attributes.push(("aws.ecs.launchtype", "fargate".into()));
    let named = spec.cluster.starts_with("arn:").then(|| spec.cluster.clone());
    attributes.extend(
        named
            .or_else(|| snapshot.job.task()?.cluster_arn())
            .map(|arn| ("aws.ecs.cluster.arn", arn.into())),
    );
    attributes
}

/// Removes the parts of an address that may be secret: user, password, query, fragment.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((_, rest)) = url.split_once("://") else { return url.to_owned() };
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    format!("{}/{path}", origin(url)).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_from_addresses() {
        assert_eq!(
            without_secrets("https://user:pass@gitlab.example/g/p?private_token=x#y"),
            "https://gitlab.example/g/p"
        );
        assert_eq!(without_secrets("https://gitlab.example/g/p"), "https://gitlab.example/g/p");
    }
}
