//! Observations, times and sizes in words.

use std::time::Duration;

use states::{
    Action, AnyJob, Destination, Observation, RunOutcome, Signal, TaskReport, Timestamp, Usage,
};

/// A duration for people, with at most two units: `3m 20s`, `450ms`.
#[must_use]
pub fn span(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    match seconds {
        0 => format!("{millis}ms"),
        1..10 if millis >= 100 => format!("{seconds}.{}s", millis / 100),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(large: u64, unit: &str, small: u64, smaller: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{smaller}") }
}

/// The time of day with seconds, UTC: `14:13:20`.
#[must_use]
pub fn clock(at: Timestamp) -> String {
    at.to_string().get(11..19).unwrap_or_default().to_owned()
}

/// Day and time to the second, UTC.
#[must_use]
pub fn date(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default())
}

/// Bytes for people.
#[must_use]
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", count / 1_048_576),
        _ => format!("{} GiB", count / 1_073_741_824),
    }
}

/// A project's path: its URL without the host.
#[must_use]
pub fn project(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(_, path)| path)
}

/// What the machine does next or waits for.
#[must_use]
pub fn next(job: &AnyJob, at: Timestamp) -> String {
    if ends(job) {
        return "a process that sees its task ended and archives it: the next `prepare` of any job here, or `fargate reap`".to_owned();
    }
    match job.clone().plan(at) {
        Action::Launch { .. } => "RunTask's answer".to_owned(),
        Action::Watch(watch) => {
            let describe = watch.describe.map(|_| "DescribeTasks".to_owned());
            let address = watch.address.map(|_| "the public address from EC2".to_owned());
            let probe = watch.probe.map(|(destination, _)| match destination {
                Destination::Task => "an answer of the container".to_owned(),
                Destination::Address { host, .. } => format!("an answer of {host}"),
            });
            let things: Vec<String> = [describe, address, probe].into_iter().flatten().collect();
            let things =
                if things.is_empty() { "its next attempt".to_owned() } else { things.join(" or ") };
            format!("{things}, until {}", clock(watch.until))
        }
        Action::Await if job.header().warm().is_some() => "a job that claims it".to_owned(),
        Action::Await => "gitlab-runner's next stage".to_owned(),
        Action::Follow(follow) if follow.started => {
            format!("output or the end of {}, from byte {}", follow.order.stage, follow.from)
        }
        Action::Follow(follow) => {
            format!("the container to take the script of {}", follow.order.stage)
        }
        Action::Signal { signal, .. } => match signal {
            Signal::Term => "the script to get SIGTERM".to_owned(),
            Signal::Kill => "the script to get SIGKILL".to_owned(),
        },
        Action::Find { .. } => "ListTasks, to find what may have been launched".to_owned(),
        Action::Stop { .. } => "StopTask's answer".to_owned(),
        Action::Archive => "nothing: the job is over".to_owned(),
        Action::GiveUp => "the next `cleanup` or `resume`: the last one's time was up".to_owned(),
    }
}

/// Whether the job only waits for its tasks' end: ECS has accepted to stop all of them.
#[must_use]
pub fn ends(job: &AnyJob) -> bool {
    matches!(job, AnyJob::Stopping(job) if job.state.all_accepted() && !job.state.is_over())
}

/// How a run ended.
#[must_use]
pub fn outcome(outcome: &RunOutcome) -> String {
    match outcome {
        RunOutcome::Exited { code: 0, .. } => "ok".to_owned(),
        RunOutcome::Exited { code, .. } => format!("exit {code}"),
        RunOutcome::Failed(_) | RunOutcome::NeverSent | RunOutcome::Lost(_) => "lost".to_owned(),
    }
}

/// An observation in one sentence, without advice.
#[must_use]
pub fn observation(saw: &Observation) -> String {
    match saw {
        Observation::Opened { process, purpose } => {
            format!("process {process} took the job up: {purpose}")
        }
        Observation::Claimed(claim) => format!(
            "the job claimed warm task {} of the pool {}, ready since {}",
            claim.task.task_id(),
            claim.pool,
            date(claim.ready)
        ),
        Observation::Launched(task) => {
            format!("RunTask launched task {} ({})", task.task.task_id(), task.status)
        }
        Observation::LaunchFailed(error)
        | Observation::DescribeFailed(error)
        | Observation::AddressFailed(error)
        | Observation::FindFailed(error)
        | Observation::StopFailed(error) => error.to_string(),
        Observation::Described(task) => format!("ECS: {}", report(task)),
        Observation::Missing => "ECS: task MISSING".to_owned(),
        Observation::Addressed(Some(address)) => format!("EC2: public address {address}"),
        Observation::Addressed(None) => "EC2: no public address yet".to_owned(),
        Observation::Answered(greeting) => {
            format!("the container answered ({})", key_kind(&greeting.identity.0))
        }
        Observation::Unreachable(error) => format!("no connection: {error}"),
        Observation::RunRequested { stage, .. } => format!("gitlab-runner wants stage {stage} run"),
        Observation::Delivered => "the container has the script and runs it".to_owned(),
        Observation::Progress { offset } => format!("output handed on up to byte {offset}"),
        Observation::Exited { code, total } => {
            format!("the script ended with exit code {code} after {total} bytes of output")
        }
        Observation::Measured { usage: Usage { memory, cpu }, .. } => {
            let memory = memory.map(|memory| format!("{} of memory at most", bytes(memory)));
            let cpu = cpu.map(|cpu| format!("{} of CPU time", span(Duration::from_micros(cpu))));
            let used: Vec<String> = memory.into_iter().chain(cpu).collect();
            format!("the container has used {}", used.join(", "))
        }
        Observation::RunFailed(error) => error.to_string(),
        Observation::Signalled(Signal::Term) => "the script got SIGTERM".to_owned(),
        Observation::Signalled(Signal::Kill) => "the script got SIGKILL".to_owned(),
        Observation::CancelRequested => "gitlab-runner ended the stage (SIGTERM)".to_owned(),
        Observation::StopRequested(reason) => {
            format!("the task is to end: {}", crate::stop_reason(reason))
        }
        Observation::Found(tasks) if tasks.is_empty() => {
            "ListTasks: no task of this job".to_owned()
        }
        Observation::Found(tasks) => {
            format!(
                "ListTasks: {}",
                tasks.iter().map(states::TaskArn::task_id).collect::<Vec<_>>().join(", ")
            )
        }
        Observation::StopAccepted => "StopTask was accepted".to_owned(),
        Observation::TimePassed => "time passed".to_owned(),
    }
}

/// ECS's report on a task, with all that shows why it stops.
fn report(task: &TaskReport) -> String {
    let mut text = format!("task {}", task.status);
    if task.stop_desired && !task.status.is_over() {
        text.push_str(", to be STOPPED");
    }
    let stopped =
        task.stopped.iter().flat_map(|stopped| [&stopped.code, &stopped.reason]).flatten();
    for part in stopped.filter(|part| !part.trim().is_empty()) {
        text.push_str(", ");
        text.push_str(part.trim());
    }
    for container in &task.containers {
        let code = container.exit_code.map(|code| format!("exit code {code}"));
        let reason = container.reason.clone().filter(|reason| !text.contains(reason.as_str()));
        let facts: Vec<String> = [code, reason].into_iter().flatten().collect();
        if !facts.is_empty() {
            text.push_str(&format!("; container {}: {}", container.name, facts.join(", ")));
        }
    }
    text
}

/// The type of a host key: `ssh-ed25519 AAAA…` without the key.
fn key_kind(identity: &str) -> &str {
    identity.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        for (ms, text) in [
            (0, "0ms"),
            (450, "450ms"),
            (1500, "1.5s"),
            (59_900, "59s"),
            (60_000, "1m"),
            (200_000, "3m 20s"),
            (7_260_000, "2h 1m"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
        assert_eq!(span(Duration::from_secs(90_000)), "1d 1h");
    }
}
