//! The container does not answer, or no longer answers: failure modes 9 to 12, 15, 19.

use states::{
    AnyJob, ConnectError, ConnectErrorKind as Kind, ConnectTo, JOB_CONTAINER, Link, Observation,
    RunError, StateName, StopReason, TaskStatus,
};

use super::{Case, Diagnosis};
use crate::{Cause, connect_remedy, words};

pub(super) fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    let error = error(case)?;
    let executing = case.decisive() == StateName::Executing;
    let mut evidence =
        case.entries(|saw| matches!(saw, Observation::Unreachable(e) if e.kind == error.kind));
    if executing && !matches!(error.kind, Kind::IdentityChanged | Kind::IdentityUnproven) {
        return Some(lost(case, error, evidence));
    }
    let user = concat!("the user in ", setting!(username));
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
                "From the manager: `nc -vz {address} <port>`. The security groups of the task ({}) must let the manager in; {} must fit where the manager is.",
                groups(case),
                setting!(use_public_ip)
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
        Kind::JobContainerNotUp => (
            Cause::NotUsable,
            "The container with the job's image never took a script.".to_owned(),
            format!("It is the container {JOB_CONTAINER} of the task."),
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
    Some(case.diagnosis(cause, summary, evidence, &[connect_remedy(error), &more]))
}

/// The error that keeps the driver from the container.
fn error<'a>(case: &'a Case<'_>) -> Option<&'a ConnectError> {
    let last = || {
        case.snapshot.journal.entries.iter().rev().find_map(|entry| match &entry.saw {
            Observation::Unreachable(error) => Some(error),
            _ => None,
        })
    };
    match (&case.snapshot.job, case.reason()) {
        // In snapshots of version 1, a connection that stays lost for too long is a time-out, which
        // says less than the errors before it.
        (_, Some(StopReason::Unusable(error))) => {
            if error.kind == Kind::TimedOut {
                last().or(Some(error))
            } else {
                Some(error)
            }
        }
        (
            _,
            Some(StopReason::Deadline { state: StateName::Running | StateName::Executing, .. }),
        ) => last(),
        // A container refuses connections for some seconds while it starts: that is no problem yet.
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

/// The connection was lost while a script ran, and the task lives.
fn lost(case: &Case<'_>, error: &ConnectError, unreachable: Vec<super::Evidence>) -> Diagnosis {
    let mut evidence =
        case.last(|saw| matches!(saw, Observation::RunFailed(RunError::ConnectionLost(_))));
    evidence.extend(unreachable);
    evidence.extend(case.last(|saw| matches!(saw, Observation::Described(_))));
    let ended = !case.is_in_flight();
    let stage = case.last_stage();
    let since = evidence.first().and_then(|first| first.at).unwrap_or(case.now);
    let lasted = words::span(if ended { case.timeline.newest } else { case.now }.since(since));
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
        "The driver goes on at the next byte as soon as the container answers: nothing is lost until then."
    };
    let by_address = case.snapshot.job.header().connect_to != ConnectTo::NoAddress;
    let remedy = match error.kind {
        Kind::Refused if by_address => {
            "Nothing listens any more: sshd ended in the container. Was it killed by the script, or because of too little memory?"
        }
        Kind::Interrupted if by_address => {
            "The connection is accepted and then closed: a proxy or firewall in between, or an sshd that cannot start sessions."
        }
        Kind::TimedOut | Kind::Unreachable if by_address => concat!(
            "Packets do not arrive any more: security group, route, a NAT's idle time-out (",
            setting!(keep_alive),
            "), an overloaded container."
        ),
        // A refusal is not the network's fault. ECS Exec does not use the network between the
        // runner manager and the task.
        _ => connect_remedy(error),
    };
    case.diagnosis(
        Cause::ConnectionLost,
        summary,
        evidence,
        &[
            remedy,
            waits,
            &format!("Raise {} (now {limit}) if outages may last longer.", setting!(reconnect)),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use states::{ConnectCause, Snapshot, Timestamp};

    use super::*;
    use crate::{Holder, Surroundings, diagnose, timeline::Timeline};

    /// The remedies for a job by ECS Exec whose connection was lost while a script ran, with this
    /// error.
    fn remedies(kind: Kind, cause: ConnectCause) -> String {
        let path =
            format!("{}/../fixtures/snapshots/v1.3/executing.ron", env!("CARGO_MANIFEST_DIR"));
        let mut snapshot = Snapshot::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        if let AnyJob::Executing(job) = &mut snapshot.job {
            Arc::make_mut(&mut job.header).connect_to = ConnectTo::NoAddress;
        }
        let newest = Timeline::of(&snapshot, Timestamp::from_millis(0)).newest;
        snapshot.step(Observation::RunFailed(RunError::ConnectionLost("cut".into())), newest);
        let error = ConnectError { kind, message: "no".into(), cause };
        snapshot.step(Observation::Unreachable(error), newest);
        let around = Surroundings {
            holder: Holder::Working("process 17".into()),
            free: None,
            handed_on: None,
        };
        let found =
            diagnose(&snapshot, &Timeline::of(&snapshot, newest), &around, newest).remove(0);
        assert_eq!(found.cause, Cause::ConnectionLost, "{found:?}");
        found.remedy.join(" ")
    }

    #[test]
    fn refused_or_late_sessions_do_not_blame_the_network() {
        let refused = remedies(Kind::AuthRefused, ConnectCause::ExecuteDenied);
        assert!(refused.contains("ecs:ExecuteCommand"), "{refused}");
        let late = remedies(Kind::TimedOut, ConnectCause::SessionSlow);
        assert!(late.contains("exec agent"), "{late}");
        for text in [refused, late] {
            assert!(!text.contains("Packets") && !text.contains("sshd"), "{text}");
        }
    }
}
