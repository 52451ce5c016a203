//! The container does not answer, or not any more: failure modes 9 to 12, 15, 19.

use states::{
    AnyJob, ConnectError, ConnectErrorKind as Kind, Link, Observation, RunError, StateName,
    StopReason, TaskStatus,
};

use super::{Case, Cause, Diagnosis};
use crate::replay::words;

pub(super) fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    let error = error(case)?;
    let executing = case.decisive() == StateName::Executing;
    let mut evidence =
        case.entries(|saw| matches!(saw, Observation::Unreachable(e) if e.kind == error.kind));
    if executing && !matches!(error.kind, Kind::IdentityChanged | Kind::IdentityUnproven) {
        return Some(lost(case, error, evidence));
    }
    let user = "the user in [SSH] Username";
    let address = address(case).unwrap_or("its address");
    let (cause, summary, more) = match error.kind {
        Kind::Refused => (
            Cause::ConnectionRefused,
            format!("The task runs, and {address} refuses connections: no SSH server came up in the container, or it listens on another port."),
            "Look at the container's log for what sshd says. Run the image by hand with SSH_PUBLIC_KEY set.".to_owned(),
        ),
        Kind::TimedOut | Kind::Unreachable => (
            Cause::ConnectionTimedOut,
            format!("The task runs, and nothing comes back from {address}: packets do not arrive."),
            format!(
                "From the manager: `nc -vz {address} <port>`. The security groups of the task ({}) must let the manager in; UsePublicIP must fit where the manager is.",
                groups(case)
            ),
        ),
        Kind::AuthRefused => (
            Cause::KeyRefused,
            format!("The container's SSH server answers and refuses the job's key: the image does not install SSH_PUBLIC_KEY for {user}, or it is another user."),
            format!(
                "The variable goes to container {} of the task definition: the scripts' container must have that name.",
                case.snapshot.job.header().spec.container
            ),
        ),
        Kind::IdentityChanged => (
            Cause::HostKeyChanged,
            format!("Another SSH server than at first contact answers at {address}. Nothing was sent to it."),
            "Look in the ECS console whether the task still runs and has this address. If it does, its container was restarted or made new host keys: an image makes them once, before sshd starts.".to_owned(),
        ),
        Kind::IdentityUnproven => (
            Cause::HostKeyUnproven,
            format!("The SSH server that answers at {address} does not prove that it is the container's. Nothing was sent to it."),
            "Run the image by hand with SSH_PUBLIC_KEY and FARGATE_HOST_PROOF_KEY set: `nc <address> <port>` shows the proof in the first line.".to_owned(),
        ),
        Kind::AgentNotConnected | Kind::Denied => (
            Cause::ExecAgent,
            "ECS Exec cannot reach the container: its agent never connected, or the session is not allowed.".to_owned(),
            "The task role needs ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel and OpenDataChannel; the subnet a route to ssmmessages (NAT gateway or VPC endpoint); the container a writable root file system.".to_owned(),
        ),
        Kind::Interrupted | Kind::NotOurProtocol | Kind::NoShell | Kind::KeyUnusable => {
            (Cause::NotUsable, format!("The container cannot be used: {error}."), String::new())
        }
    };
    if cause == Cause::ExecAgent {
        evidence.extend(
            case.last(|saw| matches!(saw, Observation::Described(report) if report.containers.iter().any(|c| c.exec_agent.is_some()))),
        );
    }
    evidence.extend(case.last(
        |saw| matches!(saw, Observation::Described(report) if report.status == TaskStatus::Running),
    ));
    Some(case.diagnosis(cause, summary, evidence, &[&error.advice, &more]))
}

/// What stands between the driver and the container.
fn error<'a>(case: &'a Case<'_>) -> Option<&'a ConnectError> {
    let last = || {
        case.snapshot.journal.entries.iter().rev().find_map(|entry| match &entry.saw {
            Observation::Unreachable(error) => Some(error),
            _ => None,
        })
    };
    match (&case.snapshot.job, case.reason()) {
        (_, Some(StopReason::Unusable(error))) => {
            // A time-out that the machine itself has set says less than what it met on the way.
            if error.kind == Kind::TimedOut { last().or(Some(error)) } else { Some(error) }
        }
        (_, Some(StopReason::Deadline { state: StateName::Running, .. })) => last(),
        // Connections are refused for some seconds while a container starts: that is no trouble
        // yet.
        (AnyJob::Running(job), _) => job
            .state
            .probing
            .problem
            .as_ref()
            .filter(|_| case.now.since(job.state.since).as_secs() >= 20),
        (AnyJob::Executing(job), _) => match &job.state.link {
            Link::Down { probing, .. } => probing.problem.as_ref(),
            Link::Up => None,
        },
        _ => None,
    }
}

/// The connection went while a script ran, and the task lives.
fn lost(case: &Case<'_>, error: &ConnectError, unreachable: Vec<super::Evidence>) -> Diagnosis {
    let mut evidence =
        case.last(|saw| matches!(saw, Observation::RunFailed(RunError::ConnectionLost(_))));
    evidence.extend(unreachable);
    evidence.extend(case.last(|saw| matches!(saw, Observation::Described(_))));
    let ended = !case.in_flight();
    let stage = case
        .story
        .visits
        .iter()
        .rev()
        .find_map(|visit| visit.stage.as_deref())
        .unwrap_or("a stage");
    let since = evidence.first().and_then(|first| first.at).unwrap_or(case.now);
    let lasted = words::span(if ended { case.story.newest } else { case.now }.since(since));
    let limit = words::span(case.snapshot.job.header().limits.reconnect);
    let summary = if ended {
        format!(
            "The connection was lost while {stage} ran, and did not come back within {limit} although ECS shows the task running."
        )
    } else {
        format!(
            "The connection was lost {lasted} ago while {stage} runs. The script runs on in the container; its output is kept there."
        )
    };
    let waits = if ended {
        ""
    } else {
        "The driver goes on at the next byte as soon as the container answers: bring the network or sshd back, nothing is lost until then."
    };
    let advice = match error.kind {
        Kind::Refused => {
            "Nothing listens any more: sshd ended in the container. Was it killed by the script, or for want of memory?"
        }
        Kind::Interrupted => {
            "Somebody answers and breaks off: a proxy or firewall in between, or an sshd that cannot start sessions."
        }
        _ => {
            "Packets do not arrive any more: security group, route, a NAT's idle time-out ([SSH] KeepAlive), an overloaded container."
        }
    };
    case.diagnosis(
        Cause::ConnectionLost,
        summary,
        evidence,
        &[
            advice,
            waits,
            &format!("Raise [Deadlines] Reconnect (now {limit}) if outages may last longer."),
        ],
    )
}

fn address<'a>(case: &'a Case<'_>) -> Option<&'a str> {
    let reported = || {
        case.snapshot.journal.entries.iter().rev().find_map(|entry| match &entry.saw {
            Observation::Addressed(address) => address.as_deref(),
            Observation::Described(report) => report.interface.as_ref()?.private_address.as_deref(),
            _ => None,
        })
    };
    match &case.snapshot.job {
        AnyJob::Running(job) => job.state.address.as_deref(),
        AnyJob::Executing(job) => job.state.place.address.as_deref(),
        _ => reported(),
    }
}

fn groups(case: &Case<'_>) -> String {
    let groups = &case.snapshot.job.header().spec.security_groups;
    if groups.is_empty() { "the VPC's default".to_owned() } else { groups.join(", ") }
}
