//! Why a task ended: the one table of ECS's codes and reasons.
//!
//! Sources: Amazon ECS developer guide, "Stopped tasks error codes" and "Viewing stopped task
//! errors"; exit codes above 128 are a signal's number plus 128 (POSIX shells, container runtimes).

use states::{ContainerEnd, JOB_CONTAINER, TaskEnd};

use crate::Cause;

/// One way for a task to end: how to recognize it, and what it means.
struct Row {
    /// The beginning or a part of `stoppedReason` or of a container's `reason`; or a `stopCode`.
    key: &'static str,
    cause: Cause,
    what: &'static str,
    remedy: &'static str,
}

/// What ECS writes into `stoppedReason` or a container's `reason`.
const REASONS: &[Row] = &[
    Row {
        key: "CannotPullContainerError",
        cause: Cause::ImagePull,
        what: "The container's image could not be pulled",
        remedy: "Check the image's name and tag; a route from the subnet to the registry (NAT gateway, VPC endpoints, or a public IP in a public subnet); the execution role's ECR permissions; and the registry's rate limits.",
    },
    Row {
        key: "CannotPullImageManifestError",
        cause: Cause::ImagePull,
        what: "The container's image could not be pulled",
        remedy: "Check the image's name and tag, and a route from the subnet to the registry.",
    },
    Row {
        key: "CannotPullECRContainerError",
        cause: Cause::ImagePull,
        what: "The container's image could not be pulled from ECR",
        remedy: "Check the image's name and tag, the execution role's ECR permissions, and a route from the subnet to ECR (NAT gateway or VPC endpoints).",
    },
    Row {
        key: "ResourceInitializationError",
        cause: Cause::Initialisation,
        what: "What the task needs before its containers start could not be prepared",
        remedy: "Check that the execution role may read the task definition's secrets and parameters and write its log group, that the subnet has a route to Secrets Manager, SSM, ECR and CloudWatch Logs, DNS in the VPC, and EFS mounts.",
    },
    Row {
        key: "CannotStartContainerError",
        cause: Cause::ContainerExited,
        what: "A container could not be started",
        remedy: "Check the entry point, command and working directory in the image and the task definition.",
    },
    Row {
        key: "CannotCreateContainerError",
        cause: Cause::ContainerExited,
        what: "A container could not be created",
        remedy: "Check the container's settings in the task definition.",
    },
    Row {
        key: "CannotCreateVolumeError",
        cause: Cause::Initialisation,
        what: "A volume could not be created",
        remedy: "Check the volumes in the task definition: EFS file system, access point, mount targets in the task's subnets.",
    },
    Row {
        key: "ContainerRuntimeTimeoutError",
        cause: Cause::ContainerExited,
        what: "The container runtime took too long",
        remedy: "Start the job again. If it repeats, check the image's size and entry point.",
    },
    Row {
        key: "ContainerRuntimeError",
        cause: Cause::ContainerExited,
        what: "The container runtime failed",
        remedy: "Start the job again. If it repeats, contact AWS support.",
    },
    Row {
        key: "InternalError",
        cause: Cause::FargateFailed,
        what: "Fargate failed internally",
        remedy: "Start the job again. If it repeats, see the AWS Health Dashboard.",
    },
    Row {
        key: "OutOfMemoryError",
        cause: Cause::OutOfMemory,
        what: "A container needed more memory than it may use",
        remedy: MEMORY,
    },
    Row {
        key: "TaskFailedToStart",
        cause: Cause::Unknown,
        what: "The task could not be started",
        remedy: CONSOLE,
    },
    Row {
        key: "Capacity is unavailable",
        cause: Cause::Capacity,
        what: "Fargate had no capacity for the task",
        remedy: concat!(
            "Give more subnets in other availability zones (",
            setting!(subnets),
            "), use FARGATE beside FARGATE_SPOT in ",
            setting!(capacity_providers),
            ", or try later."
        ),
    },
    Row {
        key: "Timeout waiting for network interface provisioning",
        cause: Cause::NetworkInterface,
        what: "The task's network interface was not ready in time",
        remedy: "Check free addresses in the subnet and the account's limit of network interfaces; then start the job again.",
    },
    Row {
        key: "Unexpected EC2 error while attempting to Create Network Interface",
        cause: Cause::NetworkInterface,
        what: "The task's network interface could not be made",
        remedy: "Check free addresses in the subnet, the security groups, and the account's limit of network interfaces.",
    },
    Row {
        key: "Your Spot Task was interrupted",
        cause: Cause::SpotInterruption,
        what: "AWS took the Spot capacity back",
        remedy: SPOT,
    },
    Row {
        key: "fargate driver: reaped",
        cause: Cause::StoppedByOthers,
        what: "fargate reap took the task for one that no job owns",
        remedy: concat!(
            "See which host ran it (CloudTrail, StopTask): managers that share a cluster need host names of their own, or ",
            setting!(manager),
            "."
        ),
    },
    Row {
        key: "Host EC2",
        cause: Cause::StoppedByOthers,
        what: "The machine under the task was terminated",
        remedy: AGAIN,
    },
    Row {
        key: "Fargate platform version",
        cause: Cause::StoppedByOthers,
        what: "AWS retired the platform version that the task ran on",
        remedy: concat!("Start the job again, with ", setting!(platform_version), " LATEST."),
    },
];

/// ECS's `stopCode`, if no reason is known.
const CODES: &[Row] = &[
    Row {
        key: "SpotInterruption",
        cause: Cause::SpotInterruption,
        what: "AWS took the Spot capacity back",
        remedy: SPOT,
    },
    Row {
        key: "TerminationNotice",
        cause: Cause::StoppedByOthers,
        what: "AWS ended the task to retire its host",
        remedy: AGAIN,
    },
    Row {
        key: "ServiceSchedulerInitiated",
        cause: Cause::StoppedByOthers,
        what: "A service's scheduler stopped the task",
        remedy: "The driver's tasks belong to no service: find out which automation stops tasks in this cluster.",
    },
    Row {
        key: "UserInitiated",
        cause: Cause::StoppedByOthers,
        what: "Somebody stopped the task (StopTask)",
        remedy: "CloudTrail's StopTask event names who it was.",
    },
    Row {
        key: "TaskFailedToStart",
        cause: Cause::Unknown,
        what: "The task could not be started",
        remedy: CONSOLE,
    },
];

/// An exit code, if neither a reason nor a `stopCode` is known.
struct Exit {
    code: i32,
    cause: Cause,
    how: &'static str,
    remedy: &'static str,
}

const EXITS: &[Exit] = &[
    Exit {
        code: 0,
        cause: Cause::ContainerExited,
        how: "ended by itself",
        remedy: "The container that runs the scripts must keep its SSH server in the foreground (sshd -D).",
    },
    Exit {
        code: 137,
        cause: Cause::OutOfMemory,
        how: "was killed (137 = SIGKILL), most often because of too little memory",
        remedy: MEMORY,
    },
    Exit { code: 139, cause: Cause::ContainerExited, how: "crashed (139 = SIGSEGV)", remedy: LOGS },
    Exit {
        code: 143,
        cause: Cause::ContainerExited,
        how: "was stopped (143 = SIGTERM)",
        remedy: "Find out who ended it: a scheduler, Spot, or a process in the container.",
    },
    Exit {
        code: 127,
        cause: Cause::ContainerExited,
        how: "could not run its entry point (127 = command not found)",
        remedy: ENTRY_POINT,
    },
    Exit {
        code: 126,
        cause: Cause::ContainerExited,
        how: "could not run its entry point (126 = not executable)",
        remedy: ENTRY_POINT,
    },
    Exit {
        code: 1,
        cause: Cause::ContainerExited,
        how: "ended with an error (1), most often because its entry point or sshd failed: no key, no host keys, a wrong configuration",
        remedy: LOGS,
    },
];
/// Any other exit code.
const OTHER_EXIT: Exit =
    Exit { code: -1, cause: Cause::ContainerExited, how: "ended with an error", remedy: LOGS };

/// How a container with a job's image ended, where that means something else. It only waits for
/// scripts, so it never ends by itself.
const EXITS_WITH_IMAGE: &[Exit] = &[
    Exit {
        code: 0,
        cause: Cause::ContainerExited,
        how: "ended by itself, before or between scripts",
        remedy: IMAGE_ENTRY_POINT,
    },
    Exit {
        code: 126,
        cause: Cause::ContainerExited,
        how: "could not run its entry point (126 = not executable)",
        remedy: IMAGE_ENTRY_POINT,
    },
    Exit {
        code: 127,
        cause: Cause::ContainerExited,
        how: "could not run its entry point (127 = command not found)",
        remedy: IMAGE_ENTRY_POINT,
    },
    Exit {
        code: 1,
        cause: Cause::ContainerExited,
        how: "ended with an error (1), most often of the image's entry point",
        remedy: IMAGE_ENTRY_POINT,
    },
];
/// The runtime's words for an image without the shell that waits for scripts.
const NO_SHELL: Row = Row {
    key: "exec: \"sh\": executable file not found",
    cause: Cause::ContainerExited,
    what: "The job's image has no sh",
    remedy: "Use an image with a shell: many have a variant, often called debug or alpine.",
};

/// The registry has the image, but not for this architecture: more precise than a failed pull.
const OTHER_PLATFORM: Row = Row {
    key: "does not contain descriptor matching platform",
    cause: Cause::ImagePull,
    what: "The container's image is not built for the task's architecture",
    remedy: "Build the image for cpuArchitecture of the task definition's runtimePlatform, or set that to the image's architecture.",
};

const STOPPED: &str = "The task stopped";
const AGAIN: &str = "Start the job again.";
const CONSOLE: &str = "See the stopped task in the ECS console for details.";
const LOGS: &str = "Look at the container's log (the log group in the task definition).";
const MEMORY: &str = "Raise memory in the task definition, or make the job need less.";
const SPOT: &str =
    "Start the job again; jobs that must not be interrupted belong on FARGATE, not FARGATE_SPOT.";
const IMAGE_ENTRY_POINT: &str = "The image's entry point has to run the command that it gets as arguments. For an image whose entry point does not, write in .gitlab-ci.yml: image: {name: ..., entrypoint: [\"\"]}. Look at the container's log (the log group in the task definition).";
const ENTRY_POINT: &str = "Check entry point and command in the image and the task definition. Look at the container's log (the log group in the task definition).";

/// The meaning of a task's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEndWords {
    /// The failure mode.
    pub cause: Cause,
    /// What happened, in a sentence that quotes ECS.
    pub what: String,
    /// What to do; empty if there is only an older driver's sentence.
    pub remedy: &'static str,
}

/// Explains a task's end.
#[must_use]
pub fn explain_task_end(end: &TaskEnd) -> TaskEndWords {
    if let Some(sentence) = &end.recorded {
        return TaskEndWords { cause: Cause::Unknown, what: sentence.clone(), remedy: "" };
    }
    let culprit = culprit(&end.containers);
    let (container_reason, reason) = (
        culprit.and_then(|culprit| non_blank(culprit.reason.as_deref())),
        non_blank(end.reason.as_deref()),
    );
    let row = [container_reason, reason]
        .into_iter()
        .flatten()
        .find_map(by_reason)
        .or_else(|| end.code.as_deref().and_then(by_code));
    let exit = culprit.and_then(|culprit| Some((culprit.name.as_str(), culprit.exit_code?)));
    let (cause, what, remedy) = match (row, exit) {
        (Some(row), _) => (row.cause, row.what.to_owned(), row.remedy),
        (None, Some((name, code))) => {
            let own = if name == JOB_CONTAINER { EXITS_WITH_IMAGE } else { &[] };
            let mut exits = own.iter().chain(EXITS);
            let exit = exits.find(|exit| exit.code == code).unwrap_or(&OTHER_EXIT);
            (exit.cause, format!("The container {name} {}", exit.how), exit.remedy)
        }
        (None, None) if end.code.as_deref() == Some("EssentialContainerExited") => {
            (Cause::ContainerExited, STOPPED.to_owned(), CONSOLE)
        }
        (None, None) => (Cause::Unknown, STOPPED.to_owned(), CONSOLE),
    };
    let facts = facts(end, reason, container_reason, culprit);
    TaskEndWords { cause, what: format!("{what} ({facts})."), remedy }
}

fn non_blank(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// The container whose end explains the task's. A sidecar can end the task as well: then ECS stops
/// the others, and their exit codes only show that.
fn culprit(containers: &[ContainerEnd]) -> Option<&ContainerEnd> {
    let stopped_by_ecs = |c: &ContainerEnd| match c.exit_code {
        None | Some(143) => true,
        // The job's container ends at once with 143.
        Some(0 | 137) => c.name != JOB_CONTAINER,
        Some(_) => false,
    };
    // The first one runs the scripts.
    containers
        .iter()
        .find(|container| container.reason.is_some() || !stopped_by_ecs(container))
        .or_else(|| containers.first())
}

fn by_reason(text: &str) -> Option<&'static Row> {
    // ECS writes some as "Essential container in task exited: CannotPull…", and others after a
    // status.
    [&NO_SHELL, &OTHER_PLATFORM]
        .into_iter()
        .find(|row| text.contains(row.key))
        .or_else(|| REASONS.iter().find(|row| text.starts_with(row.key)))
        .or_else(|| REASONS.iter().find(|row| text.contains(row.key)))
}

fn by_code(code: &str) -> Option<&'static Row> {
    CODES.iter().find(|row| row.key == code)
}

/// Quotes ECS's codes and reasons.
fn facts(
    end: &TaskEnd,
    reason: Option<&str>,
    container_reason: Option<&str>,
    culprit: Option<&ContainerEnd>,
) -> String {
    let mut facts: Vec<String> = end.code.iter().cloned().collect();
    facts.extend(reason.map(|reason| format!("\"{reason}\"")));
    if let Some(ContainerEnd { name, exit_code, .. }) = culprit {
        facts.extend(exit_code.map(|status| format!("container {name}: exit code {status}")));
        match container_reason {
            Some(said) if reason != Some(said) => {
                facts.push(format!("container {name}: \"{said}\""));
            }
            Some(_) => facts.push(format!("container {name}")),
            None => {}
        }
    }
    if facts.is_empty() {
        facts.push(format!("status {}, without a reason", end.status));
    }
    facts.join(", ")
}

/// Every sentence of the table.
pub(crate) fn phrases() -> impl Iterator<Item = &'static str> {
    let rows = REASONS.iter().chain(CODES).chain([&NO_SHELL, &OTHER_PLATFORM]);
    let exits = EXITS.iter().chain(EXITS_WITH_IMAGE).chain([&OTHER_EXIT]);
    rows.flat_map(|row| [row.what, row.remedy])
        .chain(exits.flat_map(|exit| [exit.how, exit.remedy]))
}
