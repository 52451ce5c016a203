//! The task stopped, or never ran: failure modes 6, 7, 8, 13, 14.

use states::{
    ContainerReport, Observation, RunOutcome, StateName, StopReason, TaskReport,
    stop_reason::explain_stop,
};

use super::{Case, Cause, Diagnosis};
use crate::replay::words;

pub(super) fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    match case.reason()? {
        StopReason::TaskStopped { .. } => Some(stopped(case)),
        StopReason::TaskVanished => Some(case.diagnosis(
            Cause::TaskVanished,
            "ECS does not know the task any more: it was deleted, or stopped more than an hour ago.",
            case.entries(|saw| matches!(saw, Observation::Missing)),
            &["CloudTrail's StopTask event names who ended it.", "Check that fargate.toml still names the cluster that the task ran in."],
        )),
        StopReason::Deadline { state: StateName::Pending, limit, problem } => Some(case.diagnosis(
            Cause::NeverRan,
            format!("The task was launched but did not come to RUNNING within {}: {problem}", words::span(*limit)),
            case.entries(|saw| matches!(saw, Observation::Described(_) | Observation::Missing | Observation::Addressed(_))),
            &[
                "Most of this time is the image's pull: a smaller image, a registry in the same region, or a lazily loaded one (SOCI) make it shorter.",
                "Raise [Deadlines] Pending in fargate.toml if images are that large.",
            ],
        )),
        _ => ended_under_a_lost_script(case).then(|| stopped(case)),
    }
}

/// Whether the last script's processes were gone before anybody saw that the task ended by itself.
fn ended_under_a_lost_script(case: &Case<'_>) -> bool {
    let last = case.story.visits.iter().rev().find_map(|visit| visit.outcome.as_ref());
    let by_itself = |report: &TaskReport| {
        let code = report.stopped.as_ref().and_then(|stopped| stopped.code.as_deref());
        code.is_some_and(|code| code != "UserInitiated")
    };
    matches!(last, Some(RunOutcome::Lost(_))) && last_report(case).is_some_and(by_itself)
}

fn stopped(case: &Case<'_>) -> Diagnosis {
    let container = &case.snapshot.job.header().spec.container;
    let Some(report) = last_report(case) else {
        // Its reason is recorded, its report was left out of a long journal.
        return case.diagnosis(
            Cause::Unknown,
            case.reason().map(ToString::to_string).unwrap_or_default(),
            case.newest(3),
            &[],
        );
    };
    let (what, advice) = explain_stop(report, container);
    let cause = cause(report, container);
    let answered =
        case.story.observations.iter().any(|(_, _, saw)| matches!(saw, Observation::Answered(_)));
    let under_a_script = case.decisive() == StateName::Executing || ended_under_a_lost_script(case);
    let when = match (under_a_script, answered) {
        (true, _) => {
            let stage = case
                .story
                .visits
                .iter()
                .rev()
                .find_map(|visit| visit.stage.as_deref())
                .unwrap_or("a stage");
            format!("while {stage} ran")
        }
        (_, false) => "before its container could be reached".to_owned(),
        (_, true) => "between two stages".to_owned(),
    };
    let more = match cause {
        Cause::ContainerExited if !answered => {
            "Run the image by hand with SSH_PUBLIC_KEY set (docker run -e SSH_PUBLIC_KEY=…) and see whether its entry point keeps sshd in the foreground."
        }
        Cause::SpotInterruption | Cause::StoppedByOthers => {
            "`retry: { when: runner_system_failure }` in .gitlab-ci.yml starts such a job again by itself."
        }
        Cause::OutOfMemory => {
            "The task's memory metric in CloudWatch (Container Insights) shows how much it needed."
        }
        _ => "",
    };
    let evidence =
        case.entries(|saw| matches!(saw, Observation::Described(report) if tells(report)));
    case.diagnosis(cause, format!("The task stopped {when}. {what}"), evidence, &[&advice, more])
}

/// The last report that says why the task stops.
fn last_report<'a>(case: &'a Case<'_>) -> Option<&'a TaskReport> {
    let reports = case.snapshot.journal.entries.iter().rev().filter_map(|entry| match &entry.saw {
        Observation::Described(report) => Some(report),
        _ => None,
    });
    reports
        .clone()
        .find(|report| tells(report))
        .or_else(|| reports.clone().find(|report| report.stop_desired || report.status.is_ending()))
}

fn tells(report: &TaskReport) -> bool {
    report
        .stopped
        .as_ref()
        .is_some_and(|stopped| stopped.code.is_some() || stopped.reason.is_some())
        || report
            .containers
            .iter()
            .any(|container| container.exit_code.is_some() || container.reason.is_some())
}

/// The failure mode that a stopped task shows.
fn cause(report: &TaskReport, container: &str) -> Cause {
    let code =
        report.stopped.as_ref().and_then(|stopped| stopped.code.as_deref()).unwrap_or_default();
    let said: Vec<&str> = report
        .stopped
        .iter()
        .filter_map(|stopped| stopped.reason.as_deref())
        .chain(report.containers.iter().filter_map(|container| container.reason.as_deref()))
        .collect();
    let says =
        |words: &[&str]| said.iter().any(|text| words.iter().any(|word| text.contains(word)));
    let ended: Vec<i32> = ended(report, container).collect();
    if says(&["CannotPullContainer", "CannotPullImage", "CannotPullECRContainer"]) {
        Cause::ImagePull
    } else if says(&["ResourceInitializationError", "CannotCreateVolumeError"]) {
        Cause::Initialisation
    } else if says(&["OutOfMemory"]) {
        Cause::OutOfMemory
    } else if code == "SpotInterruption" || says(&["Spot Task was interrupted"]) {
        Cause::SpotInterruption
    } else if says(&["Capacity is unavailable"]) {
        Cause::Capacity
    } else if matches!(code, "UserInitiated" | "TerminationNotice" | "ServiceSchedulerInitiated")
        || says(&["Host EC2", "Fargate platform version"])
    {
        Cause::StoppedByOthers
    } else if ended.contains(&137) {
        Cause::OutOfMemory
    } else if !ended.is_empty()
        || code == "EssentialContainerExited"
        || says(&["CannotStartContainer", "ContainerRuntime"])
    {
        Cause::ContainerExited
    } else {
        Cause::Unknown
    }
}

/// Exit codes, the scripts' container first.
fn ended<'a>(report: &'a TaskReport, container: &'a str) -> impl Iterator<Item = i32> + 'a {
    let own = move |report: &&ContainerReport| report.name == container;
    let main = report.containers.iter().filter(own);
    main.chain(report.containers.iter().filter(move |report| !own(report)))
        .filter_map(|container| container.exit_code)
}
