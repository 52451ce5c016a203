//! The task stopped, or never ran: failure modes 6, 7, 8, 13, 14.

use states::{Observation, StateName, StopReason, TaskEnd, TaskReport};

use super::{Case, Diagnosis};
use crate::{Cause, TaskEndWords, explain_task_end, lost_run, stop_reason::obstacle, words};

pub(super) fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    match case.reason()? {
        StopReason::TaskStopped { end } => Some(stopped(case, end)),
        StopReason::TaskVanished => Some(case.diagnosis(
            Cause::TaskVanished,
            "ECS does not know the task any more: it was deleted, or stopped more than an hour ago.",
            case.entries(|saw| matches!(saw, Observation::Missing)),
            &["CloudTrail's StopTask event names who ended it.", "Check that fargate.toml still names the cluster that the task ran in."],
        )),
        StopReason::Deadline { state: StateName::Pending, limit, last } => Some(case.diagnosis(
            Cause::NeverRan,
            format!("The task was launched but did not come to RUNNING within {}: {}", words::span(*limit), obstacle(last)),
            case.entries(|saw| matches!(saw, Observation::Described(_) | Observation::Missing | Observation::Addressed(_))),
            &[
                "Most of this time is the image's pull: a smaller image, a registry in the same region, or a lazily loaded one (SOCI) make it shorter.",
                concat!("Raise ", setting!(pending), " in fargate.toml if images are that large."),
            ],
        )),
        _ => ended_under_a_lost_script(case).map(|end| stopped(case, &end)),
    }
}

/// The task's end, if it ended by itself and the last script's processes were gone before the
/// driver saw that.
fn ended_under_a_lost_script(case: &Case<'_>) -> Option<TaskEnd> {
    let last = case.timeline.spans.iter().rev().find_map(|span| span.outcome.as_ref())?;
    lost_run(last)?;
    let end = last_end(case)?;
    end.code.as_deref().is_some_and(|code| code != "UserInitiated").then_some(end)
}

/// `recorded` is what the machine decided by. ECS may have reported more since.
fn stopped(case: &Case<'_>, recorded: &TaskEnd) -> Diagnosis {
    let TaskEndWords { cause, what, remedy } =
        explain_task_end(&last_end(case).unwrap_or_else(|| recorded.clone()));
    let answered = case
        .timeline
        .observations
        .iter()
        .any(|(_, _, saw)| matches!(saw, Observation::Answered(_)));
    let under_a_script =
        case.decisive() == StateName::Executing || ended_under_a_lost_script(case).is_some();
    let when = match (under_a_script, answered) {
        (true, _) => {
            let stage = case.last_stage();
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
    case.diagnosis(cause, format!("The task stopped {when}. {what}"), evidence, &[remedy, more])
}

/// The task's end, according to the last report that shows why.
fn last_end(case: &Case<'_>) -> Option<TaskEnd> {
    let reports = case.snapshot.journal.entries.iter().rev().filter_map(|entry| match &entry.saw {
        Observation::Described(report) => Some(report),
        _ => None,
    });
    let last = reports.clone().find(|report| tells(report)).or_else(|| {
        reports.clone().find(|report| report.stop_desired || report.status.is_ending())
    })?;
    Some(TaskEnd::of(last, &case.snapshot.job.header().spec.container))
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
