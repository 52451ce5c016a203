//! Errors of connections by ECS Exec: their kind, their cause, and AWS's and the exec agent's own
//! words.

use states::{ConnectCause, ConnectError, ConnectErrorKind as Kind, Target};

use tokio_tungstenite::tungstenite::http::StatusCode;

use super::{channel::Closed, socket::DialError};
use crate::delivery::terminal::BootError;

fn error(kind: Kind, cause: ConnectCause, message: String) -> ConnectError {
    ConnectError { kind, message, cause }
}

pub(super) fn identity_changed(target: &Target, pinned: &str, found: &str) -> ConnectError {
    error(
        Kind::IdentityChanged,
        ConnectCause::OtherContainer,
        format!(
            "the container {} of the task is another one: its runtime id is {found}, this job's container had {pinned}",
            target.container
        ),
    )
}

/// The attempt timed out while it waited for `waits_for`, if that is known.
pub(super) fn too_slow(target: &Target, waits_for: Option<String>) -> ConnectError {
    let (why, cause) = match &waits_for {
        Some(what) => (format!(": {}", what.trim_end_matches('.')), ConnectCause::SessionQueued),
        None => (String::new(), ConnectCause::SessionSlow),
    };
    error(
        Kind::TimedOut,
        cause,
        format!(
            "a session in the container {} was not ready within {} s{why}",
            target.container,
            target.attempt_timeout.as_secs()
        ),
    )
}

pub(super) fn too_slow_to_dial() -> ConnectError {
    error(
        Kind::TimedOut,
        ConnectCause::EndpointUnreachable,
        "the ssmmessages endpoint did not open the session's connection in time".to_owned(),
    )
}

/// A session was given up before it said anything.
pub(super) fn never_began(target: &Target, why: String) -> ConnectError {
    error(
        Kind::TimedOut,
        ConnectCause::SessionSilent,
        format!("the session in the container {} never began: {why}", target.container),
    )
}

pub(super) fn dial(e: &DialError) -> ConnectError {
    match e {
        DialError::Address(..) => {
            error(Kind::NotOurProtocol, ConnectCause::SessionAddress, e.to_string())
        }
        DialError::Unreachable(..) => {
            error(Kind::Unreachable, ConnectCause::EndpointUnreachable, e.to_string())
        }
        DialError::Rejected(_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            error(Kind::AuthRefused, ConnectCause::DataChannelDenied, e.to_string())
        }
        DialError::Rejected(..) | DialError::Refused(..) => {
            error(Kind::Interrupted, ConnectCause::EndpointClosed, e.to_string())
        }
    }
}

/// The runtime ended before the call was answered: the process ends.
pub(super) fn unasked(target: &Target, e: &tokio::task::JoinError) -> ConnectError {
    error(
        Kind::Interrupted,
        ConnectCause::DriverFault,
        format!("no session was requested in the container {}: {e}", target.container),
    )
}

/// Softens a refusal for a job whose container was reached before: it counts only when it lasts, as
/// for refused keys. Changed permissions do not take effect everywhere at once. One odd answer must
/// not end a running script.
pub(super) fn as_of_a_job(target: &Target, e: ConnectError) -> ConnectError {
    if target.pinned.is_some() && e.kind == Kind::Denied {
        ConnectError { kind: Kind::AuthRefused, ..e }
    } else {
        e
    }
}

/// `end` is the session's, if it has ended.
pub(super) fn boot(target: &Target, e: BootError, end: Option<&Closed>) -> ConnectError {
    let container = &target.container;
    match (e, end) {
        (BootError::Missing(programs), _) => error(
            Kind::NoShell,
            ConnectCause::NoPrograms,
            format!(
                "the image of the container {container} has no {}",
                programs.replace(' ', ", ")
            ),
        ),
        (BootError::Unusable(said), _) => error(
            Kind::NoShell,
            ConnectCause::NoPrograms,
            format!(
                "the shell in the container {container} cannot be used over a terminal: {said}"
            ),
        ),
        (BootError::Lost(why), Some(Closed::Refused(_))) => {
            ended(container, &why, Some(Kind::Denied))
        }
        (BootError::Lost(why), Some(Closed::Ended(_))) => ended(container, &why, None),
        // A lost connection may come back, regardless of the text.
        (BootError::Lost(why), Some(Closed::Lost(_)) | None) => {
            ended(container, &why, Some(Kind::Interrupted))
        }
    }
}

/// Error codes of refusals that a repeated call would get again.
const FOR_GOOD: [&str; 8] = [
    "accessdenied",
    "access denied",
    "not authorized",
    "unauthorized",
    "invalidciphertext",
    "disabled",
    "notfound",
    "encryption is not set up",
];

/// A session ended before it was ready. If `kind` is `None`, the agent's words decide it.
fn ended(container: &str, why: &str, kind: Option<Kind>) -> ConnectError {
    let lower = why.to_lowercase();
    let message = format!(
        "the session in the container {container} ended before a command could be run: {why}"
    );
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // The agent reports a failure of its own, transient or permanent.
    let refused = || {
        if says(&FOR_GOOD) && !says(&["timed out", "timeout"]) {
            Kind::Denied
        } else {
            Kind::Interrupted
        }
    };
    let (otherwise, cause) = if says(&["kms", "encryption challenge", "data key"]) {
        (refused(), ConnectCause::SessionKey)
    } else if says(&["read-only file system"]) {
        (Kind::Denied, ConnectCause::ReadOnlyRoot)
    } else if says(&["executable file not found", "no such file or directory", "exec format error"])
    {
        (Kind::NoShell, ConnectCause::NoPrograms)
    } else if says(&["no space left"]) {
        (Kind::Interrupted, ConnectCause::AgentDiskFull)
    } else if says(&["log group", "cloudwatch", "s3 bucket"]) {
        (refused(), ConnectCause::SessionLog)
    } else if kind == Some(Kind::Denied) {
        (Kind::Denied, ConnectCause::AgentProtocol)
    } else {
        (Kind::Interrupted, ConnectCause::EndpointClosed)
    };
    error(kind.unwrap_or(otherwise), cause, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_errors_are_classified() {
        for (said, kind, cause) in [
            (
                "fork/exec /bin/sh: no such file or directory",
                Kind::NoShell,
                ConnectCause::NoPrograms,
            ),
            (
                "mkdir /var/lib/amazon: read-only file system",
                Kind::Denied,
                ConnectCause::ReadOnlyRoot,
            ),
            (
                "write /tmp/x: no space left on device",
                Kind::Interrupted,
                ConnectCause::AgentDiskFull,
            ),
            ("Fetching data key failed: KMS AccessDenied", Kind::Denied, ConnectCause::SessionKey),
            (
                "Fetching data key failed: InvalidCiphertextException",
                Kind::Denied,
                ConnectCause::SessionKey,
            ),
            (
                "Fetching data key failed: Error calling KMS: ThrottlingException: Rate exceeded",
                Kind::Interrupted,
                ConnectCause::SessionKey,
            ),
            (
                "Fetching data key failed: KMS: RequestError: send request failed, i/o timeout",
                Kind::Interrupted,
                ConnectCause::SessionKey,
            ),
            (
                "Timed out waiting for encryption challenge.",
                Kind::Interrupted,
                ConnectCause::SessionKey,
            ),
            (
                "Handshake timed out. Please ensure that you have the latest version.",
                Kind::Interrupted,
                ConnectCause::EndpointClosed,
            ),
            (
                "We couldn't start the session because encryption is not set up on the selected CloudWatch Logs log group.",
                Kind::Denied,
                ConnectCause::SessionLog,
            ),
            (
                "unable to validate encryption on the S3 bucket: ServiceUnavailable",
                Kind::Interrupted,
                ConnectCause::SessionLog,
            ),
            ("connection reset by peer", Kind::Interrupted, ConnectCause::EndpointClosed),
        ] {
            let explained = ended("ci-coordinator", said, None);
            assert_eq!(explained.kind, kind, "{said}");
            assert!(explained.message.contains(said) && explained.cause == cause, "{explained:?}");
        }
    }

    fn target(pinned: bool) -> Target {
        Target {
            transport: "ecs-exec".into(),
            destination: states::Destination::Task,
            cluster: "ci".to_owned(),
            task: states::TaskArn::new(
                "arn:aws:ecs:eu-west-1:111122223333:task/ci/0123456789abcdef0123456789abcdef",
            )
            .unwrap(),
            container: "ci-coordinator".to_owned(),
            key: "/none".into(),
            pinned: pinned.then(|| states::HostIdentity("x".to_owned())),
            host_proof: None,
            facts: None,
            shared: None,
            connect_timeout: std::time::Duration::ZERO,
            attempt_timeout: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_transient_key_failure_is_not_a_refusal() {
        let why = "the session is encrypted with the KMS key k, and no data key could be made: AccessDenied".to_owned();
        let lost = |end: Closed| boot(&target(true), BootError::Lost(why.clone()), Some(&end)).kind;
        assert_eq!(lost(Closed::Lost(why.clone())), Kind::Interrupted);
        assert_eq!(lost(Closed::Refused(why.clone())), Kind::Denied);
    }

    /// The machine accepts a refused key as final only when it lasts: `KEY_INSTALLED_WITHIN`.
    #[test]
    fn a_refusal_in_a_running_job_is_not_final() {
        let refused = || error(Kind::Denied, ConnectCause::SessionKey, "no".to_owned());
        assert!(!as_of_a_job(&target(false), refused()).kind.is_transient());
        let later = as_of_a_job(&target(true), refused());
        assert!(
            later.kind.is_transient()
                && later.message == "no"
                && later.cause == ConnectCause::SessionKey
        );
        let other = as_of_a_job(
            &target(true),
            error(Kind::IdentityChanged, ConnectCause::General, String::new()),
        );
        assert_eq!(other.kind, Kind::IdentityChanged);
    }
}
