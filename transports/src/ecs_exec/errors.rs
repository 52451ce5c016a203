//! What can go wrong on the way into a container by ECS Exec, in words for whoever reads the job log.

use states::{ConnectError, ConnectErrorKind as Kind, Target};

use super::socket::DialError;
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

pub(super) fn too_slow(target: &Target) -> ConnectError {
    error(
        Kind::TimedOut,
        format!("a session in the container {} was not ready within {} s", target.container, target.attempt_timeout.as_secs()),
        "The container may be starved of CPU or memory, or its exec agent have no route to the ssmmessages endpoint.",
    )
}

pub(super) fn dial(e: &DialError) -> ConnectError {
    match e {
        DialError::Address(..) => error(Kind::NotOurProtocol, e.to_string(), "It is what ECS answered to ExecuteCommand: report it."),
        DialError::Unreachable(..) => error(Kind::Unreachable, e.to_string(), ENDPOINT),
        DialError::Forbidden(_) => error(
            Kind::AuthRefused,
            e.to_string(),
            "Allow the runner manager's role ssmmessages:OpenDataChannel on its sessions (docs/iam.md), and look at the VPC endpoint's policy.",
        ),
        DialError::Refused(..) => {
            error(Kind::Interrupted, e.to_string(), "If it stays so: is the way to the ssmmessages endpoint open (proxy, VPC endpoint)?")
        }
    }
}

pub(super) fn boot(target: &Target, e: BootError) -> ConnectError {
    let container = &target.container;
    match e {
        BootError::Missing(programs) => {
            error(Kind::NoShell, format!("the image of the container {container} has no {}", programs.replace(' ', ", ")), SHELL)
        }
        BootError::Unusable(said) => {
            error(Kind::NoShell, format!("the shell in the container {container} cannot be used over a terminal: {said}"), SHELL)
        }
        BootError::Lost(why) => ended(container, &why),
    }
}

/// A session that ended before it was of use; the agent may have said why.
fn ended(container: &str, why: &str) -> ConnectError {
    let lower = why.to_lowercase();
    let message = format!("the session in the container {container} ended before a command could be run: {why}");
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["kms"]) {
        let advice = "The cluster encrypts its sessions with a KMS key: allow the runner manager's role kms:GenerateDataKey and the task role kms:Decrypt on it (docs/iam.md).";
        error(Kind::Denied, message, advice)
    } else if says(&["read-only file system"]) {
        let advice = "The exec agent writes to the container's root file system: it must not be read-only (readonlyRootFilesystem in the task definition). Or use the SSH transport.";
        error(Kind::Denied, message, advice)
    } else if says(&["executable file not found", "no such file or directory", "exec format error"]) {
        error(Kind::NoShell, message, SHELL)
    } else if says(&["no space left"]) {
        error(Kind::Interrupted, message, "The exec agent needs a little room in /tmp and /var/lib/amazon of the container.")
    } else if says(&["log group", "cloudwatch", "s3 bucket", "encrypt"]) {
        let advice = "The cluster's executeCommandConfiguration logs sessions to a place that the task role cannot write to, or that is not encrypted as it demands.";
        error(Kind::Denied, message, advice)
    } else {
        error(Kind::Interrupted, message, "If it stays so: is the way to the ssmmessages endpoint open (proxy, VPC endpoint)?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_says_leads_to_what_to_do() {
        for (said, kind, advice) in [
            ("fork/exec /bin/sh: no such file or directory", Kind::NoShell, "/bin/sh"),
            ("mkdir /var/lib/amazon: read-only file system", Kind::Denied, "readonlyRootFilesystem"),
            ("write /tmp/x: no space left on device", Kind::Interrupted, "/tmp"),
            ("Fetching data key failed: KMS AccessDenied", Kind::Denied, "kms:Decrypt"),
            ("connection reset by peer", Kind::Interrupted, "stays so"),
        ] {
            let explained = ended("ci-coordinator", said);
            assert_eq!(explained.kind, kind, "{said}");
            assert!(explained.message.contains(said) && explained.advice.contains(advice), "{explained:?}");
        }
    }
}
