//! Nothing happens, although nothing failed: failure modes 16, 17, 18, 20. Also how scripts ended.

use std::time::Duration;

use states::{AnyJob, Link, Observation, RunError, RunOutcome, StateName, StopReason};

use super::{Case, Diagnosis, Evidence};
use crate::{
    Cause, Holder, control_remedy, lost_run,
    words::{self, span},
};

/// How long a script may write nothing before that is a problem.
const SILENT_AFTER: Duration = Duration::from_secs(10 * 60);
/// How long gitlab-runner may take between two stages. It usually takes a second or so.
const NEXT_STAGE_WITHIN: Duration = Duration::from_secs(2 * 60);
/// How often a driver that waits for a task journals something, at least. Its longest interval is
/// 30 s.
const HEARTBEAT: Duration = Duration::from_secs(2 * 60);
/// How long a task may take to end after ECS has accepted StopTask. Fargate takes 13 to 66 s, or up
/// to two minutes with a `stopTimeout`.
const STOPS_WITHIN: Duration = Duration::from_secs(3 * 60);
/// How long a manager may be without a job that checks, or a timer for `fargate reap`. ECS forgets
/// a stopped task by then.
const CHECKED_WITHIN: Duration = Duration::from_secs(60 * 60);
/// With less free space than this, in bytes, writing a snapshot may fail.
const LOW_SPACE: u64 = 1024 * 1024;

/// Failure mode 20, on the manager.
pub(super) fn manager_disk(case: &Case<'_>) -> Option<Diagnosis> {
    let free = case.around.free.filter(|free| *free < LOW_SPACE && !case.timeline.over)?;
    Some(case.diagnosis(
        Cause::DiskFull,
        "The disk of the metadata directory is full: the driver cannot save what it does, so it begins nothing more.",
        vec![Evidence::seen(format!("{} can still be written there", words::bytes(free)))],
        &[
            "Make room: `du -xh --max-depth=2` on that file system; gitlab-runner's builds and caches are the usual ones.",
            concat!(
                "`fargate-replay prune` removes archived snapshots; ",
                setting!(keep),
                " and ",
                setting!(keep_count),
                " bound them."
            ),
        ],
    ))
}

/// Failure mode 20, in the container.
pub(super) fn container_disk(case: &Case<'_>) -> Option<Diagnosis> {
    // Shells and ECS Exec's agent spell the error differently.
    let full = |text: &str| {
        text.to_lowercase().contains("no space left")
            || text.contains("disk full")
            || text.contains("ENOSPC")
    };
    let seen = case.entries(|saw| match saw {
        Observation::RunFailed(RunError::NotStarted(why) | RunError::NoStatus(why)) => full(why),
        Observation::Unreachable(error) => full(&error.message),
        _ => false,
    });
    if seen.is_empty() {
        return None;
    }
    Some(case.diagnosis(
        Cause::DiskFull,
        "The container's disk is full: a script could not be put there, or its output not be kept.",
        seen,
        &[
            "Raise ephemeralStorage in the task definition (20 GiB is Fargate's default, 200 GiB the most).",
            "Make earlier stages need less: caches, artifacts, docker layers. `fargate-replay shell JOB` and `df -h` show what is used.",
        ],
    ))
}

/// 18.
pub(super) fn stop_unfinished(case: &Case<'_>) -> Option<Diagnosis> {
    let AnyJob::Stopping(job) = &case.snapshot.job else { return None };
    if words::ends(&case.snapshot.job) {
        return task_outlives_its_stop(case, job);
    }
    let waited = case.now.since(job.state.since);
    if case.timeline.over || waited < job.header.limits.stop {
        return None;
    }
    let summary = match job.state.task() {
        Some(task) => format!("Task {} could not be stopped so far: it may still run and cost money.", task.task_id()),
        None => "It is not known whether RunTask launched a task: its answer was lost, and ListTasks has not settled it.".to_owned(),
    };
    let advice = job.state.problem.as_ref().map_or("", control_remedy);
    Some(unfinished(
        case,
        summary,
        advice,
        "`fargate-replay resume JOB` asks again; `fargate reap` does it for all jobs, from a timer.",
    ))
}

/// ECS has accepted the stop, but the task is not known to have ended.
fn task_outlives_its_stop(
    case: &Case<'_>,
    job: &states::Job<states::Stopping>,
) -> Option<Diagnosis> {
    let observations = &case.timeline.observations;
    let accepted = observations.iter().rposition(|(_, _, saw)| *saw == Observation::StopAccepted);
    let waited = case.now.since(accepted.map_or(job.state.since, |index| observations[index].0));
    let later = observations[accepted.map_or(0, |index| index + 1)..].iter().rev();
    let seen = later.clone().find_map(|(_, _, saw)| {
        if let Observation::Described(report) = saw { Some(&report.status) } else { None }
    });
    let was = seen.map(|status| format!("showed it as {status} when it was last asked"));
    let (what, is_long) = match (was, case.around.is_here()) {
        (Some(was), true) => (was, waited >= STOPS_WITHIN),
        // A copy of the snapshot does not show whether a process has waited as long as it may.
        (Some(was), false) => (was, case.now.since(job.state.since) >= job.header.limits.stop),
        (None, true) => (
            "no process has checked since whether it has ended".to_owned(),
            waited >= CHECKED_WITHIN,
        ),
        (None, false) => return None,
    };
    if !is_long {
        return None;
    }
    let task = job.state.task().map_or("", states::TaskArn::task_id);
    let summary = format!("ECS accepted to stop task {task} {} ago, and {what}.", span(waited));
    let remedy = "`fargate reap` archives the job once its task has ended, or asks for its end again; let a timer run it.";
    Some(unfinished(case, summary, "", remedy))
}

fn unfinished(case: &Case<'_>, summary: String, advice: &str, remedy: &str) -> Diagnosis {
    let mut evidence = case.entries(|saw| {
        matches!(
            saw,
            Observation::StopAccepted | Observation::StopFailed(_) | Observation::FindFailed(_)
        )
    });
    evidence
        .extend(case.last(|saw| matches!(saw, Observation::Described(_) | Observation::Found(_))));
    case.diagnosis(
        Cause::StopUnfinished,
        summary,
        evidence,
        &[
            advice,
            remedy,
            "A container that ignores SIGTERM gets its stopTimeout (30 s, 120 s at most); a task that stays in DEPROVISIONING is AWS's: it is not billed any more.",
        ],
    )
}

/// 17.
pub(super) fn driver_gone(case: &Case<'_>) -> Option<Diagnosis> {
    let idle = case.now.since(case.timeline.newest);
    let job = &case.snapshot.job;
    let opened = || case.last(|saw| matches!(saw, Observation::Opened { .. }));
    let (summary, evidence) = match (&case.around.holder, job) {
        (Holder::NoProcess(last), _) if case.around.process_is_gone(job) => {
            let mut evidence = opened();
            let who = last.as_deref().unwrap_or("the process that held it");
            evidence.push(Evidence::seen(format!(
                "no process holds the job's lock; the last was {who}"
            )));
            (
                format!(
                    "The driver's process is gone while the job was {}: killed, or the manager was restarted.",
                    job.name()
                ),
                evidence,
            )
        }
        (Holder::NoProcess(_), AnyJob::Reachable(job))
            if idle >= NEXT_STAGE_WITHIN && job.header.warm().is_none() =>
        {
            let mut evidence = case.newest(2);
            evidence.push(Evidence::seen("no process holds the job's lock".to_owned()));
            (
                format!(
                    "No stage has been called for {}: gitlab-runner is gone, or gave the job up without `cleanup`.",
                    span(idle)
                ),
                evidence,
            )
        }
        (
            Holder::Elsewhere(host),
            AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_),
        ) if idle >= HEARTBEAT => {
            let summary = format!(
                "The journal ends {} ago, in a state in which a driver writes every few seconds: it was killed then, or this file was copied then.",
                span(idle)
            );
            let mut evidence = case.newest(1);
            evidence.push(Evidence::seen(format!(
                "whether a process works on the job can be seen on {host} only: `fargate-replay list` there"
            )));
            (summary, evidence)
        }
        _ => return ended_under_a_script(case),
    };
    Some(case.diagnosis(
        Cause::DriverGone,
        summary,
        evidence,
        &[
            if matches!(job, AnyJob::Executing(_)) {
                "The script runs on in the container: `fargate-replay resume JOB` attaches to it, and streams the rest of its output."
            } else {
                "`fargate-replay resume JOB` continues where it stopped."
            },
            "`fargate-replay stop JOB` ends the task if the job is not needed any more; GitLab has most likely failed it already.",
            "Why it was killed: `journalctl -k | grep -i oom`, `journalctl -u gitlab-runner`; a runner that is restarted kills its drivers.",
        ],
    ))
}

/// The job was ended by another command while a script ran that no process followed.
fn ended_under_a_script(case: &Case<'_>) -> Option<Diagnosis> {
    if !matches!(case.reason(), Some(StopReason::Cleanup | StopReason::Asked(_)))
        || case.decisive() != StateName::Executing
    {
        return None;
    }
    let stage = case.last_stage();
    Some(case.diagnosis(
        Cause::DriverGone,
        format!("The job was ended while {stage} still ran: the driver that followed it had been killed before."),
        case.entries(|saw| matches!(saw, Observation::Opened { .. } | Observation::StopRequested(_))),
        &["Why it was killed: `journalctl -k | grep -i oom`, `journalctl -u gitlab-runner`; a runner that is restarted kills its drivers."],
    ))
}

/// Failure mode 16, and the ordinary ends of scripts.
pub(super) fn script(case: &Case<'_>) -> Option<Diagnosis> {
    if let AnyJob::Executing(job) = &case.snapshot.job
        && job.state.link == Link::Up
        && job.state.started
    {
        let silent = case.now.since(case.timeline.newest);
        return (silent >= SILENT_AFTER).then(|| silence(case, silent, job.state.offset));
    }
    let cancelled = matches!(case.reason(), Some(StopReason::Cancelled))
        || case
            .timeline
            .observations
            .iter()
            .any(|(_, _, saw)| *saw == Observation::CancelRequested);
    if cancelled {
        let evidence = case
            .entries(|saw| matches!(saw, Observation::CancelRequested | Observation::Signalled(_)));
        let summary = "gitlab-runner ended the stage: the job was cancelled in GitLab, or ran into its time-out.";
        return Some(case.diagnosis(
            Cause::Cancelled,
            summary,
            evidence,
            &["If it was not cancelled in GitLab, compare the job's length with its `timeout` and the project's and runner's limits."],
        ));
    }
    match case.timeline.failed_run()? {
        (stage, RunOutcome::Exited { code, .. }) if *code != 0 => Some(case.diagnosis(
            Cause::ScriptFailed,
            format!("Stage {stage} ended with exit code {code}: that is the script's own verdict, and no fault of the driver or of AWS."),
            case.last(|saw| matches!(saw, Observation::Exited { code: said, .. } if said == code)),
            &["The job log in GitLab says what the script did last."],
        )),
        (stage, outcome) => Some(case.diagnosis(
            Cause::ScriptLost,
            format!("The outcome of stage {stage} is lost: {}.", lost_run(outcome)?),
            case.entries(|saw| matches!(saw, Observation::RunFailed(_))),
            &[
                "Processes that leave no exit status were killed with SIGKILL: most often because of too little memory. Compare the task's memory with what the script needs.",
                "A script that deletes everything in TMPDIR deletes its own spool.",
            ],
        )),
    }
}

fn silence(case: &Case<'_>, silent: Duration, offset: u64) -> Diagnosis {
    let stage = case.timeline.current().stage.as_deref().unwrap_or("the stage");
    let mut evidence = case.last(|saw| *saw == Observation::Delivered);
    evidence.extend(case.last(|saw| matches!(saw, Observation::Progress { .. })));
    let (alive, check) = match &case.around.holder {
        Holder::Working(who) => {
            evidence.push(Evidence::seen(format!("the job's lock is held by {who}")));
            ("its driver is there and connected", String::new())
        }
        Holder::NoProcess(_) => ("no process follows it", String::new()),
        Holder::Elsewhere(host) => (
            "the connection was up when this file was written",
            format!(
                "Whether its driver lives can be seen on {host}: `fargate-replay list --stuck` there."
            ),
        ),
    };
    case.diagnosis(
        Cause::ScriptSilent,
        format!("{stage} has written nothing for {} (after {offset} bytes); {alive}. The driver waits for the script.", span(silent)),
        evidence,
        &[
            "`fargate-replay shell JOB` opens a terminal beside the script: `ps -ef --forest` shows what it does, `top` whether it works.",
            "Usual ones: a command that waits for input, a lock or a download without a time-out, a test that hangs.",
            &check,
        ],
    )
}

#[cfg(test)]
mod tests {
    use states::{Snapshot, TaskReport, TaskStatus};

    use super::{super::diagnose, *};
    use crate::{Surroundings, timeline::Timeline};

    /// A job whose stop was accepted, and whose task was described in this status since.
    fn ended(looked_at: Option<TaskStatus>) -> Snapshot {
        let path =
            format!("{}/../fixtures/snapshots/v1.3/stopping.ron", env!("CARGO_MANIFEST_DIR"));
        let mut snapshot = Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        if let Some(status) = looked_at {
            let (task, at) =
                (snapshot.job.task().unwrap().clone(), newest(&snapshot) + Duration::from_secs(60));
            let report = TaskReport {
                task,
                status,
                stop_desired: true,
                interface: None,
                containers: Vec::new(),
                stopped: None,
                billing: None,
            };
            snapshot.step(Observation::Described(report.into()), at);
        }
        snapshot
    }

    fn newest(snapshot: &Snapshot) -> states::Timestamp {
        snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max().unwrap()
    }

    /// The diagnosis this long after the stop was accepted, on the job's own host.
    fn diagnosed(looked_at: Option<TaskStatus>, after: Duration) -> (Cause, String) {
        let (accepted, snapshot) = (newest(&ended(None)), ended(looked_at));
        let around = Surroundings { holder: Holder::NoProcess(None), free: None, handed_on: None };
        let now = accepted + after;
        let found = diagnose(&snapshot, &Timeline::of(&snapshot, now), &around, now).remove(0);
        (found.cause, found.summary)
    }

    #[test]
    fn an_ending_job_is_no_problem_before_its_task_should_have_ended() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (looked_at, after) in
            [(None, minutes(1)), (None, minutes(50)), (Some(TaskStatus::Deactivating), minutes(2))]
        {
            let (cause, summary) = diagnosed(looked_at, after);
            assert_eq!(cause, Cause::Nothing, "after {after:?}: {summary}");
            assert!(summary.contains("ECS has accepted to stop its task"), "{summary}");
        }
        let (cause, summary) = diagnosed(Some(TaskStatus::Deactivating), minutes(4));
        assert!(cause == Cause::StopUnfinished && summary.contains("DEACTIVATING"), "{summary}");
        let (cause, summary) = diagnosed(None, minutes(61));
        assert!(
            cause == Cause::StopUnfinished && summary.contains("no process has checked"),
            "{summary}"
        );
    }

    #[test]
    fn a_late_archival_does_not_lengthen_a_job() {
        let (mut snapshot, accepted) = (ended(None), newest(&ended(None)));
        let late = accepted + Duration::from_secs(7200);
        let length = Timeline::of(&snapshot, late).length();
        snapshot.step(Observation::Opened { process: 1, purpose: "archive".into() }, late);
        let (task, status) = (snapshot.job.task().unwrap().clone(), TaskStatus::Stopped);
        let report = TaskReport {
            task,
            status,
            stop_desired: true,
            interface: None,
            containers: Vec::new(),
            stopped: None,
            billing: None,
        };
        snapshot.step(Observation::Described(report.into()), late);
        let timeline = Timeline::of(&snapshot, late);
        assert!(
            timeline.over && timeline.length() == length && length < Duration::from_secs(60),
            "{:?}",
            timeline.length()
        );
    }
}
