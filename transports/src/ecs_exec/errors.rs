//! What can go wrong on the way into a container by ECS Exec, in words for whoever reads the job
//! log.

use states::{ConnectError, ConnectErrorKind as Kind, Target};

use tokio_tungstenite::tungstenite::http::StatusCode;

use super::{channel::Closed, socket::DialError};
use crate::delivery::terminal::BootError;

const ENDPOINT: &str = "The runner manager must reach the region's ssmmessages endpoint by HTTPS (port 443): by a NAT gateway, or by an interface VPC endpoint whose security group lets it in.";
const SHELL: &str = "The image needs /bin/sh, stty, head, base64, setsid and the usual small tools (coreutils and util-linux, or busybox). For an image without a shell there is no transport.";

fn error(kind: Kind, message: String, advice: &str) -> ConnectError {
    ConnectError { kind, message, advice: advice.to_owned() }
}

pub(super) fn identity_changed(target: &Target, pinned: &str, found: &str) -> ConnectError {
    error(
        Kind::IdentityChanged,
        format!(
            "the container {} of the task is another one: its runtime id is {found}, this job's container had {pinned}",
            target.container
        ),
        "It is not the same container, so nothing was sent to it. ECS restarted it (a restart policy in the task definition?), and what ran in it is gone.",
    )
}

/// `waits_for` is what the attempt was waiting for, if that is known.
pub(super) fn too_slow(target: &Target, waits_for: Option<String>) -> ConnectError {
    let (why, advice) = match &waits_for {
        Some(what) => (
            format!(": {}", what.trim_end_matches('.')),
            "It is waited for, as another session could block the container's exec agent.",
        ),
        None => (
            String::new(),
            "The container may be starved of CPU or memory, or its exec agent have no route to the ssmmessages endpoint.",
        ),
    };
    error(
        Kind::TimedOut,
        format!(
            "a session in the container {} was not ready within {} s{why}",
            target.container,
            target.attempt_timeout.as_secs()
        ),
        advice,
    )
}

pub(super) fn too_slow_to_dial() -> ConnectError {
    error(
        Kind::TimedOut,
        "the ssmmessages endpoint did not open the session's connection in time".to_owned(),
        ENDPOINT,
    )
}

/// A session that was given up before it said anything.
pub(super) fn never_began(target: &Target, why: String) -> ConnectError {
    error(
        Kind::TimedOut,
        format!("the session in the container {} never began: {why}", target.container),
        "The container may be starved of CPU or memory, or its exec agent be gone.",
    )
}

pub(super) fn dial(e: &DialError) -> ConnectError {
    match e {
        DialError::Address(..) => error(
            Kind::NotOurProtocol,
            e.to_string(),
            "It is what ECS answered to ExecuteCommand: report it.",
        ),
        DialError::Unreachable(..) => error(Kind::Unreachable, e.to_string(), ENDPOINT),
        DialError::Rejected(_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => error(
            Kind::AuthRefused,
            e.to_string(),
            "Allow the runner manager's role ssmmessages:OpenDataChannel on its sessions (docs/iam.md), and look at the VPC endpoint's policy.",
        ),
        DialError::Rejected(..) | DialError::Refused(..) => error(
            Kind::Interrupted,
            e.to_string(),
            "If it stays so: is the way to the ssmmessages endpoint open (proxy, VPC endpoint)?",
        ),
    }
}

/// A task of ours that ended before the call was answered: the process ends.
pub(super) fn unasked(target: &Target, e: &tokio::task::JoinError) -> ConnectError {
    error(
        Kind::Interrupted,
        format!("no session was asked for in the container {}: {e}", target.container),
        "This is a fault of the driver: please report it.",
    )
}

/// A refusal that meets a job whose container was reached before is believed only when it lasts, as
/// refused keys are: changed permissions are not the same everywhere at once, and one odd answer
/// must not end a script that runs.
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
            format!(
                "the image of the container {container} has no {}",
                programs.replace(' ', ", ")
            ),
            SHELL,
        ),
        (BootError::Unusable(said), _) => error(
            Kind::NoShell,
            format!(
                "the shell in the container {container} cannot be used over a terminal: {said}"
            ),
            SHELL,
        ),
        (BootError::Lost(why), Some(Closed::Refused(_))) => {
            ended(container, &why, Some(Kind::Denied))
        }
        (BootError::Lost(why), Some(Closed::Ended(_))) => ended(container, &why, None),
        // What is only lost may come back, whatever words are in the text.
        (BootError::Lost(why), Some(Closed::Lost(_)) | None) => {
            ended(container, &why, Some(Kind::Interrupted))
        }
    }
}

const KMS: &str = "The cluster encrypts its sessions with a KMS key: allow the runner manager's role kms:GenerateDataKey and the task role kms:Decrypt on it, and the former ecs:DescribeClusters (docs/iam.md).";
const LOGS: &str = "The cluster's executeCommandConfiguration logs sessions to a place that the task role cannot write to, or that is not encrypted as it demands.";
/// What services say when the same call will be refused again.
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

/// A session that ended before it was of use. `kind` is `None` where only the agent's words tell
/// what kind of end it was.
fn ended(container: &str, why: &str, kind: Option<Kind>) -> ConnectError {
    let lower = why.to_lowercase();
    let message = format!(
        "the session in the container {container} ended before a command could be run: {why}"
    );
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // The agent's words about something that failed for it, once or for good.
    let refused = || {
        if says(&FOR_GOOD) && !says(&["timed out", "timeout"]) {
            Kind::Denied
        } else {
            Kind::Interrupted
        }
    };
    let (otherwise, advice) = if says(&["kms", "encryption challenge", "data key"]) {
        (refused(), KMS)
    } else if says(&["read-only file system"]) {
        let advice = "The exec agent writes to the container's root file system: it must not be read-only (readonlyRootFilesystem in the task definition). Or use the SSH transport.";
        (Kind::Denied, advice)
    } else if says(&["executable file not found", "no such file or directory", "exec format error"])
    {
        (Kind::NoShell, SHELL)
    } else if says(&["no space left"]) {
        (
            Kind::Interrupted,
            "The exec agent needs a little room in /tmp and /var/lib/amazon of the container.",
        )
    } else if says(&["log group", "cloudwatch", "s3 bucket"]) {
        (refused(), LOGS)
    } else if kind == Some(Kind::Denied) {
        (
            Kind::Denied,
            "The exec agent speaks in a way that the driver does not: report it, with the platform version.",
        )
    } else {
        (
            Kind::Interrupted,
            "If it stays so: is the way to the ssmmessages endpoint open (proxy, VPC endpoint)?",
        )
    };
    error(kind.unwrap_or(otherwise), message, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_says_leads_to_what_to_do() {
        for (said, kind, advice) in [
            ("fork/exec /bin/sh: no such file or directory", Kind::NoShell, "/bin/sh"),
            (
                "mkdir /var/lib/amazon: read-only file system",
                Kind::Denied,
                "readonlyRootFilesystem",
            ),
            ("write /tmp/x: no space left on device", Kind::Interrupted, "/tmp"),
            ("Fetching data key failed: KMS AccessDenied", Kind::Denied, "kms:Decrypt"),
            ("Fetching data key failed: InvalidCiphertextException", Kind::Denied, "kms:Decrypt"),
            (
                "Fetching data key failed: Error calling KMS: ThrottlingException: Rate exceeded",
                Kind::Interrupted,
                "kms:Decrypt",
            ),
            (
                "Fetching data key failed: KMS: RequestError: send request failed, i/o timeout",
                Kind::Interrupted,
                "kms:Decrypt",
            ),
            ("Timed out waiting for encryption challenge.", Kind::Interrupted, "kms:Decrypt"),
            (
                "Handshake timed out. Please ensure that you have the latest version.",
                Kind::Interrupted,
                "stays so",
            ),
            (
                "We couldn't start the session because encryption is not set up on the selected CloudWatch Logs log group.",
                Kind::Denied,
                "logs",
            ),
            (
                "unable to validate encryption on the S3 bucket: ServiceUnavailable",
                Kind::Interrupted,
                "logs",
            ),
            ("connection reset by peer", Kind::Interrupted, "stays so"),
        ] {
            let explained = ended("ci-coordinator", said, None);
            assert_eq!(explained.kind, kind, "{said}");
            assert!(
                explained.message.contains(said) && explained.advice.contains(advice),
                "{explained:?}"
            );
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
            connect_timeout: std::time::Duration::ZERO,
            attempt_timeout: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_key_that_may_be_there_next_time_is_no_refusal() {
        let why = "the session is encrypted with the KMS key k, and no data key could be made: AccessDenied".to_owned();
        let lost = |end: Closed| boot(&target(true), BootError::Lost(why.clone()), Some(&end)).kind;
        assert_eq!(lost(Closed::Lost(why.clone())), Kind::Interrupted);
        assert_eq!(lost(Closed::Refused(why.clone())), Kind::Denied);
    }

    /// A refused key is what the machine believes when it lasts: `KEY_INSTALLED_WITHIN`.
    #[test]
    fn in_mid_job_a_refusal_is_not_final_at_once() {
        let refused = || error(Kind::Denied, "no".to_owned(), "advice");
        assert!(!as_of_a_job(&target(false), refused()).kind.is_transient());
        let later = as_of_a_job(&target(true), refused());
        assert!(later.kind.is_transient() && later.message == "no" && later.advice == "advice");
        let other = as_of_a_job(&target(true), error(Kind::IdentityChanged, String::new(), ""));
        assert_eq!(other.kind, Kind::IdentityChanged);
    }
}
