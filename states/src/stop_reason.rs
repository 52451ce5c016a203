//! Why a task stopped: ECS's codes and reasons, in plain words, with what to do.
//!
//! Sources: Amazon ECS developer guide, "Stopped tasks error codes" and "Viewing stopped task
//! errors"; exit codes above 128 are a signal's number plus 128 (POSIX shells, container runtimes).

use crate::{ContainerReport, TaskReport};

/// Where a text of ECS begins so, this is the usual cause and its remedy.
struct Known {
    begins: &'static str,
    what: &'static str,
    advice: &'static str,
}

/// What ECS writes into `stoppedReason` or a container's `reason`.
const REASONS: &[Known] = &[
    Known {
        begins: "CannotPullContainerError",
        what: "The container's image could not be pulled",
        advice: "Check the image's name and tag; a route from the subnet to the registry (NAT gateway, VPC endpoints, or a public IP in a public subnet); the execution role's ECR permissions; and the registry's rate limits.",
    },
    Known {
        begins: "CannotPullImageManifestError",
        what: "The container's image could not be pulled",
        advice: "Check the image's name and tag, and a route from the subnet to the registry.",
    },
    Known {
        begins: "ResourceInitializationError",
        what: "What the task needs before its containers start could not be prepared",
        advice: "Check that the execution role may read the task definition's secrets and parameters and write its log group, that the subnet has a route to Secrets Manager, SSM, ECR and CloudWatch Logs, DNS in the VPC, and EFS mounts.",
    },
    Known {
        begins: "CannotStartContainerError",
        what: "A container could not be started",
        advice: "Check the entry point, command and working directory in the image and the task definition.",
    },
    Known {
        begins: "CannotCreateContainerError",
        what: "A container could not be created",
        advice: "Check the container's settings in the task definition.",
    },
    Known {
        begins: "CannotCreateVolumeError",
        what: "A volume could not be created",
        advice: "Check the volumes in the task definition: EFS file system, access point, mount targets in the task's subnets.",
    },
    Known {
        begins: "ContainerRuntimeTimeoutError",
        what: "The container runtime took too long",
        advice: "Start the job again. If it repeats, check the image's size and entry point.",
    },
    Known {
        begins: "ContainerRuntimeError",
        what: "The container runtime failed",
        advice: "Start the job again. If it repeats, contact AWS support.",
    },
    Known {
        begins: "InternalError",
        what: "Fargate failed internally",
        advice: "Start the job again. If it repeats, see the AWS Health Dashboard.",
    },
    Known {
        begins: "OutOfMemoryError",
        what: "A container needed more memory than it may use",
        advice: "Raise memory in the task definition, or make the job need less.",
    },
    Known {
        begins: "TaskFailedToStart",
        what: "The task could not be started",
        advice: "See the stopped task in the ECS console for details.",
    },
    Known {
        begins: "Capacity is unavailable",
        what: "Fargate had no capacity for the task",
        advice: "Give more subnets in other availability zones (Subnets), use FARGATE beside FARGATE_SPOT in CapacityProviders, or try later.",
    },
    Known {
        begins: "Timeout waiting for network interface provisioning",
        what: "The task's network interface was not ready in time",
        advice: "Check free addresses in the subnet and the account's limit of network interfaces; then start the job again.",
    },
    Known {
        begins: "Your Spot Task was interrupted",
        what: "AWS took the Spot capacity back",
        advice: "Start the job again; jobs that must not be interrupted belong on FARGATE, not FARGATE_SPOT.",
    },
    Known {
        begins: "Unexpected EC2 error while attempting to Create Network Interface",
        what: "The task's network interface could not be made",
        advice: "Check free addresses in the subnet, the security groups, and the account's limit of network interfaces.",
    },
    Known {
        begins: "fargate driver: reaped",
        what: "fargate reap took the task for one that no job owns",
        advice: "See which host ran it (CloudTrail, StopTask): managers that share a cluster need host names, or Manager in [TaskMetadata], of their own.",
    },
    Known {
        begins: "Host EC2",
        what: "The machine under the task was terminated",
        advice: "Start the job again.",
    },
    Known {
        begins: "Fargate platform version",
        what: "AWS retired the platform version that the task ran on",
        advice: "Start the job again, with PlatformVersion LATEST.",
    },
];

/// Why ECS says a task stopped (or is stopping), in a sentence or two, and what to do about it.
/// `container` is the name of the container that runs the scripts.
#[must_use]
pub fn explain_stop(report: &TaskReport, container: &str) -> (String, String) {
    let code = report.stopped.as_ref().and_then(|s| s.code.as_deref());
    let reason = report
        .stopped
        .as_ref()
        .and_then(|s| s.reason.as_deref())
        .map(str::trim)
        .filter(|r| !r.is_empty());
    let main = report.container(container);
    let ended = culprit(report, main);
    let container_reason =
        ended.and_then(|c| c.reason.as_deref()).map(str::trim).filter(|r| !r.is_empty());

    let (what, advice) = if let Some(known) =
        [container_reason, reason].into_iter().flatten().find_map(known)
    {
        (known.what.to_owned(), known.advice.to_owned())
    } else {
        match code {
            Some("SpotInterruption") => of_reason("Your Spot Task was interrupted"),
            Some("TerminationNotice") => ("AWS ended the task to retire its host".to_owned(), "Start the job again.".to_owned()),
            Some("ServiceSchedulerInitiated") => (
                "A service's scheduler stopped the task".to_owned(),
                "The driver's tasks belong to no service: find out which automation stops tasks in this cluster.".to_owned(),
            ),
            Some("UserInitiated") => {
                ("Somebody stopped the task (StopTask)".to_owned(), "CloudTrail's StopTask event names who it was.".to_owned())
            }
            Some("TaskFailedToStart") => of_reason("TaskFailedToStart"),
            _ => match ended.and_then(|c| c.exit_code.map(|code| (c.name.as_str(), code))) {
                Some((name, status)) => exited(name, status),
                None => ("The task stopped".to_owned(), "See the stopped task in the ECS console for details.".to_owned()),
            },
        }
    };
    (
        sentence(
            &what,
            report,
            code,
            reason,
            container_reason,
            ended.map(|c| (c.name.as_str(), c.exit_code)),
        ),
        advice,
    )
}

/// The container whose end explains the task's. A side container can take the task down as well:
/// then the others were told to end, and their exit codes say only that.
fn culprit<'a>(
    report: &'a TaskReport,
    main: Option<&'a ContainerReport>,
) -> Option<&'a ContainerReport> {
    let told_to_end = |c: &ContainerReport| matches!(c.exit_code, None | Some(0 | 137 | 143));
    let by_itself = |c: &&ContainerReport| c.reason.is_some() || !told_to_end(c);
    let ended = |c: &&ContainerReport| c.exit_code.is_some() || c.reason.is_some();
    let others =
        || report.containers.iter().filter(|c| main.is_none_or(|main| main.name != c.name));
    main.filter(by_itself)
        .or_else(|| others().find(by_itself))
        .or_else(|| main.filter(ended))
        .or_else(|| others().find(ended))
}

fn known(text: &str) -> Option<&'static Known> {
    // ECS writes some of them as "Essential container in task exited: CannotPull…", others with a
    // status before.
    REASONS
        .iter()
        .find(|known| text.starts_with(known.begins))
        .or_else(|| REASONS.iter().find(|known| text.contains(known.begins)))
}

fn of_reason(begins: &str) -> (String, String) {
    known(begins)
        .map_or_else(Default::default, |known| (known.what.to_owned(), known.advice.to_owned()))
}

fn exited(container: &str, status: i32) -> (String, String) {
    let logs = "Look at the container's log (the log group in the task definition).";
    let (how, advice) = match status {
        0 => ("ended by itself", "The container that runs the scripts must keep its SSH server in the foreground (sshd -D).".to_owned()),
        137 => (
            "was killed (137 = SIGKILL), most often for want of memory",
            "Raise memory in the task definition, or make the job need less.".to_owned(),
        ),
        139 => ("crashed (139 = SIGSEGV)", logs.to_owned()),
        143 => ("was told to end (143 = SIGTERM)", "Find out who ended it: a scheduler, Spot, or a process in the container.".to_owned()),
        127 => (
            "could not run its entry point (127 = command not found)",
            format!("Check entry point and command in the image and the task definition. {logs}"),
        ),
        126 => (
            "could not run its entry point (126 = not executable)",
            format!("Check entry point and command in the image and the task definition. {logs}"),
        ),
        1 => (
            "ended with an error (1), most often because its entry point or sshd failed: no key, no host keys, a wrong configuration",
            logs.to_owned(),
        ),
        _ => ("ended with an error", logs.to_owned()),
    };
    (format!("The container {container} {how}"), advice)
}

fn sentence(
    what: &str,
    report: &TaskReport,
    code: Option<&str>,
    reason: Option<&str>,
    container_reason: Option<&str>,
    container: Option<(&str, Option<i32>)>,
) -> String {
    let mut facts = Vec::new();
    if let Some(code) = code {
        facts.push(code.to_owned());
    }
    if let Some(reason) = reason {
        facts.push(format!("\"{reason}\""));
    }
    if let Some((name, status)) = container {
        if let Some(status) = status {
            facts.push(format!("container {name}: exit code {status}"));
        }
        if let Some(said) = container_reason.filter(|said| reason != Some(*said)) {
            facts.push(format!("container {name}: \"{said}\""));
        }
    }
    if facts.is_empty() {
        facts.push(format!("status {}, without a reason", report.status));
    }
    format!("{what} ({}).", facts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stopped, TaskArn, TaskStatus};

    fn report(
        code: Option<&str>,
        reason: Option<&str>,
        exit_code: Option<i32>,
        container_reason: Option<&str>,
    ) -> TaskReport {
        TaskReport {
            task: TaskArn::new("arn:task/1").unwrap(),
            status: TaskStatus::Stopped,
            stop_desired: true,
            interface: None,
            containers: vec![ContainerReport {
                name: "ci-coordinator".into(),
                status: None,
                exit_code,
                reason: container_reason.map(Into::into),
                exec_agent: None,
                runtime_id: None,
            }],
            stopped: Some(Stopped { code: code.map(Into::into), reason: reason.map(Into::into) }),
        }
    }

    #[test]
    fn every_known_end_is_told_apart_and_has_a_remedy() {
        let start = Some("TaskFailedToStart");
        let exited = Some("EssentialContainerExited");
        let essential = Some("Essential container in task exited");
        for (report, what, advice) in [
            (
                report(
                    start,
                    Some("CannotPullContainerError: pull image manifest: not found"),
                    None,
                    None,
                ),
                "image could not be pulled",
                "NAT gateway",
            ),
            (
                report(exited, essential, None, Some("CannotPullContainerError: x")),
                "image could not be pulled",
                "image's name",
            ),
            (
                report(
                    start,
                    Some("ResourceInitializationError: unable to pull secrets"),
                    None,
                    None,
                ),
                "needs before its containers",
                "secrets",
            ),
            (
                report(start, Some("CannotStartContainerError: exec"), None, None),
                "could not be started",
                "entry point",
            ),
            (report(start, Some("CannotCreateVolumeError: efs"), None, None), "volume", "EFS"),
            (
                report(start, Some("ContainerRuntimeError: x"), None, None),
                "runtime failed",
                "again",
            ),
            (
                report(start, Some("ContainerRuntimeTimeoutError: x"), None, None),
                "took too long",
                "again",
            ),
            (
                report(
                    exited,
                    essential,
                    Some(137),
                    Some("OutOfMemoryError: Container killed due to memory usage"),
                ),
                "more memory",
                "Raise memory",
            ),
            (report(exited, essential, Some(137), None), "137 = SIGKILL", "Raise memory"),
            (report(exited, essential, Some(139), None), "crashed", "log"),
            (report(exited, essential, Some(143), None), "SIGTERM", "who ended it"),
            (report(exited, essential, Some(127), None), "command not found", "entry point"),
            (report(exited, essential, Some(1), None), "sshd failed", "log"),
            (report(exited, essential, Some(0), None), "ended by itself", "foreground"),
            (
                report(
                    Some("SpotInterruption"),
                    Some("Your Spot Task was interrupted."),
                    None,
                    None,
                ),
                "Spot capacity",
                "FARGATE_SPOT",
            ),
            (
                report(Some("SpotInterruption"), None, Some(143), None),
                "Spot capacity",
                "FARGATE_SPOT",
            ),
            (report(Some("TerminationNotice"), None, None, None), "retire its host", "again"),
            (
                report(Some("ServiceSchedulerInitiated"), None, None, None),
                "scheduler",
                "automation",
            ),
            (
                report(Some("UserInitiated"), Some("Task stopped by user"), None, None),
                "Somebody stopped",
                "CloudTrail",
            ),
            (
                report(
                    start,
                    Some("Capacity is unavailable at this time. Please try again later"),
                    None,
                    None,
                ),
                "no capacity",
                "Subnets",
            ),
            (
                report(None, Some("Host EC2 (instance i-1) terminated"), None, None),
                "machine under the task",
                "again",
            ),
            (
                report(None, Some("Fargate platform version 1.3.0 retired"), None, None),
                "retired",
                "LATEST",
            ),
            (report(None, None, None, None), "The task stopped", "console"),
        ] {
            let (said, remedy) = explain_stop(&report, "ci-coordinator");
            assert!(said.contains(what), "{what:?} is not in {said:?}");
            assert!(remedy.contains(advice), "{advice:?} is not in {remedy:?}");
            for fact in [
                report.stopped.as_ref().and_then(|s| s.code.clone()),
                report.stopped.as_ref().and_then(|s| s.reason.clone()),
            ]
            .into_iter()
            .flatten()
            {
                assert!(
                    said.contains(&fact),
                    "ECS's own words are kept: {fact:?} is not in {said:?}"
                );
            }
        }
    }

    /// What ECS did to the others says nothing: 143 and 137 are its own signals.
    #[test]
    fn the_containers_that_were_only_told_to_end_are_not_blamed() {
        for (main, side, blamed) in [
            (Some(137), Some(1), "The container proxy ended with an error (1)"),
            (Some(143), Some(139), "The container proxy crashed"),
            (Some(0), Some(2), "The container proxy"),
            (Some(1), Some(143), "The container ci-coordinator"),
            (Some(1), Some(1), "The container ci-coordinator"),
            (Some(137), Some(143), "The container ci-coordinator was killed"),
            (None, Some(0), "The container proxy ended by itself"),
        ] {
            let mut report = report(
                Some("EssentialContainerExited"),
                Some("Essential container in task exited"),
                main,
                None,
            );
            report.containers.push(ContainerReport {
                name: "proxy".into(),
                exit_code: side,
                ..report.containers[0].clone()
            });
            let (said, _) = explain_stop(&report, "ci-coordinator");
            assert!(said.contains(blamed), "{main:?} {side:?}: {said}");
        }
    }

    #[test]
    fn a_side_container_that_took_the_task_down_is_named() {
        let mut report = report(Some("EssentialContainerExited"), None, None, None);
        report.containers.push(ContainerReport {
            name: "proxy".into(),
            status: None,
            exit_code: Some(127),
            reason: None,
            exec_agent: None,
            runtime_id: None,
        });
        let (said, _) = explain_stop(&report, "ci-coordinator");
        assert!(said.contains("The container proxy"), "{said}");
    }
}
