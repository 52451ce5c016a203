//! Why a job's task must end, in sentences and as telemetry's `error.type`.

use states::{
    ConnectErrorKind, ConnectTo, Job, Obstacle, Retirement, RunLoss, RunOutcome, StateName,
    StopPhase, StopReason, Stopping,
};

use crate::{explain_connect, explain_control, explain_task_end};

/// The longest `reason` for StopTask, in characters (ECS shows 255 of `stoppedReason`).
const NOTE_LENGTH: usize = 200;

/// Why the task must end and what to do, as one text for people.
#[must_use]
pub fn stop_reason(reason: &StopReason) -> String {
    match reason {
        StopReason::Cleanup => "the job is over".to_owned(),
        StopReason::Cancelled => "the job was cancelled or timed out".to_owned(),
        StopReason::Asked(who) => who.clone(),
        StopReason::Retired(why) => retirement(*why).to_owned(),
        StopReason::LaunchRefused(error) => {
            format!("ECS did not launch the task: {}", explain_control(error))
        }
        StopReason::ControlFailed(error) => explain_control(error),
        StopReason::TaskStopped { end } => {
            let words = explain_task_end(end);
            format!("{} {}", words.what, words.remedy).trim_end().to_owned()
        }
        StopReason::TaskVanished => "ECS does not know the task any more: it was deleted, or stopped more than an hour ago. Look for it in CloudTrail (StopTask).".to_owned(),
        StopReason::Deadline { state: StateName::Executing, limit, last } => format!(
            "the container could not be reached for {} although ECS shows its task running: {} Raise {} if outages last longer.",
            humantime::format_duration(*limit),
            obstacle(last),
            setting!(reconnect)
        ),
        StopReason::Deadline { state, limit, last } => format!(
            "the job was {state} for longer than {}: {}",
            humantime::format_duration(*limit),
            obstacle(last)
        ),
        StopReason::Unusable(error) => explain_connect(error),
        StopReason::RunAbandoned(loss) => run_loss(loss),
    }
}

/// Why a warm task is not kept.
fn retirement(why: Retirement) -> &'static str {
    match why {
        Retirement::Surplus => "the pool keeps fewer warm tasks now",
        Retirement::Aged => "the warm task is as old as its pool keeps tasks",
        Retirement::Outdated => {
            "a warm task of today would be another one: settings or the task definition have changed"
        }
        Retirement::NoPool => "the configuration has no such pool of warm tasks any more",
        Retirement::Drained => "the manager is being drained",
        Retirement::Unusable => "the warm task has ended, or does not answer",
    }
}

/// The `reason` for StopTask, for ECS's records.
#[must_use]
pub fn stop_note(reason: &StopReason) -> String {
    format!("fargate driver: {}", stop_reason(reason)).chars().take(NOTE_LENGTH).collect()
}

/// What a state that lasted too long waited for, and what to do.
#[must_use]
pub(crate) fn obstacle(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Launch => "RunTask did not answer.".to_owned(),
        Obstacle::Start => concat!(
            "ECS did not start it in that time. Usual causes: a large image or a slow registry; raise ",
            setting!(pending),
            ", or look at the task in the ECS console."
        )
        .to_owned(),
        Obstacle::Address(ConnectTo::PublicAddress) => concat!(
            "the task is RUNNING but has no public address. Set ",
            setting!(enable_public_ip),
            " = true, or use a subnet that assigns one."
        )
        .to_owned(),
        Obstacle::Address(_) => "the task is RUNNING but ECS shows no network interface of it. The task definition must use network mode awsvpc.".to_owned(),
        Obstacle::Connection(Some(error)) => explain_connect(error),
        Obstacle::Connection(None) => "no connection was tried yet.".to_owned(),
        Obstacle::Recorded(sentence) => sentence.clone(),
    }
}

fn run_loss(loss: &RunLoss) -> String {
    const LOOK: &str = "Look at the SSH server's log and the load in the container.";
    match loss {
        RunLoss::NoProgress { connections, within, error } => format!(
            "{connections} connections to the container in a row were lost before they had brought a byte of the script's output or worked for {}: {error}. {LOOK}",
            humantime::format_duration(*within)
        ),
        RunLoss::ShortLived { connections, within, error } => format!(
            "{connections} connections to the container in a row were lost within {} of their beginning: {error}. {LOOK}",
            humantime::format_duration(*within)
        ),
        RunLoss::Unknown { run_dir, error } => format!(
            "{error}: the container was replaced, or the script's files in {run_dir} were deleted."
        ),
        RunLoss::Recorded(sentence) => sentence.clone(),
    }
}

/// Why a run has no exit status; `None` where it has one.
#[must_use]
pub fn lost_run(outcome: &RunOutcome) -> Option<String> {
    match outcome {
        RunOutcome::Exited { .. } => None,
        RunOutcome::Failed(error) => Some(error.to_string()),
        RunOutcome::NeverSent => Some("cancelled before it was started".to_owned()),
        RunOutcome::Lost(sentence) => Some(sentence.clone()),
    }
}

/// What remains when a process gives up.
#[must_use]
pub fn remains(job: &Job<Stopping>) -> String {
    let state = &job.state;
    let problem = state
        .problem
        .as_ref()
        .map(|error| format!(" Last problem: {}", explain_control(error)))
        .unwrap_or_default();
    match &state.phase {
        StopPhase::Ending { task, .. } | StopPhase::Over { task: Some(task) } => format!(
            "ECS has accepted to stop task {task} but does not show it as STOPPED yet.{problem}"
        ),
        StopPhase::Checking { task, .. } | StopPhase::Requesting { task, .. } => {
            format!("task {task} could not be stopped.{problem}")
        }
        StopPhase::Searching { .. } | StopPhase::Over { task: None } => format!(
            "it is not known whether a task was launched: look for tasks with startedBy {} in cluster {}.{problem}",
            job.header.spec.started_by, job.header.spec.cluster
        ),
    }
}

/// The reason as telemetry's `error.type`: one of few values, without foreign text. Dashboards and
/// alerts depend on them. `None`: it is no failure.
#[must_use]
pub fn error_type(reason: &StopReason) -> Option<String> {
    Some(match reason {
        StopReason::Cleanup | StopReason::Cancelled | StopReason::Retired(_) => return None,
        StopReason::Asked(_) => "abandoned".to_owned(),
        StopReason::LaunchRefused(error) => format!("launch_refused.{}", error.kind.name()),
        StopReason::ControlFailed(error) => format!("control_failed.{}", error.kind.name()),
        StopReason::TaskStopped { .. } => "task_stopped".to_owned(),
        StopReason::TaskVanished => "task_vanished".to_owned(),
        // A lost connection has the same value as one that times out for good.
        StopReason::Deadline { state: StateName::Executing, .. } => {
            format!("container_unusable.{}", ConnectErrorKind::TimedOut.name())
        }
        StopReason::Deadline { .. } => "deadline".to_owned(),
        StopReason::Unusable(error) => format!("container_unusable.{}", error.kind.name()),
        StopReason::RunAbandoned(_) => "run_lost".to_owned(),
    })
}
