//! How the ends of tasks are explained.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use diagnosis::{Cause, explain_task_end};
use states::{ContainerReport, Stopped, TaskArn, TaskEnd, TaskReport, TaskStatus};

fn explain_stop(report: &TaskReport) -> (String, &'static str) {
    let words = explain_task_end(&TaskEnd::of(report, "ci-coordinator"));
    (words.what, words.remedy)
}

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
        billing: None,
    }
}

#[test]
fn every_known_end_is_distinct_and_has_a_remedy() {
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
            report(
                start,
                Some(
                    "CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/arm64'",
                ),
                None,
                None,
            ),
            "not built for the task's architecture",
            "cpuArchitecture",
        ),
        (
            report(exited, essential, None, Some("CannotPullContainerError: x")),
            "image could not be pulled",
            "image's name",
        ),
        (
            report(start, Some("ResourceInitializationError: unable to pull secrets"), None, None),
            "needs before its containers",
            "secrets",
        ),
        (
            report(start, Some("CannotStartContainerError: exec"), None, None),
            "could not be started",
            "entry point",
        ),
        (report(start, Some("CannotCreateVolumeError: efs"), None, None), "volume", "EFS"),
        (report(start, Some("ContainerRuntimeError: x"), None, None), "runtime failed", "again"),
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
            report(Some("SpotInterruption"), Some("Your Spot Task was interrupted."), None, None),
            "Spot capacity",
            "FARGATE_SPOT",
        ),
        (report(Some("SpotInterruption"), None, Some(143), None), "Spot capacity", "FARGATE_SPOT"),
        (report(Some("TerminationNotice"), None, None, None), "retire its host", "again"),
        (report(Some("ServiceSchedulerInitiated"), None, None, None), "scheduler", "automation"),
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
        let (said, remedy) = explain_stop(&report);
        assert!(said.contains(what), "{what:?} is not in {said:?}");
        assert!(remedy.contains(advice), "{advice:?} is not in {remedy:?}");
        for fact in [
            report.stopped.as_ref().and_then(|s| s.code.clone()),
            report.stopped.as_ref().and_then(|s| s.reason.clone()),
        ]
        .into_iter()
        .flatten()
        {
            assert!(said.contains(&fact), "ECS's own words are kept: {fact:?} is not in {said:?}");
        }
    }
}

/// The exit codes of the containers that ECS stopped say nothing: 143 and 137 are its own signals.
#[test]
fn containers_that_ecs_stopped_are_not_blamed() {
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
        let (said, _) = explain_stop(&report);
        assert!(said.contains(blamed), "{main:?} {side:?}: {said}");
    }
}

#[test]
fn a_sidecar_that_ended_the_task_is_named() {
    let mut report = report(Some("EssentialContainerExited"), None, None, None);
    report.containers.push(ContainerReport {
        name: "proxy".into(),
        status: None,
        exit_code: Some(127),
        reason: None,
        exec_agent: None,
        runtime_id: None,
    });
    let (said, _) = explain_stop(&report);
    assert!(said.contains("The container proxy"), "{said}");
}

/// When the job's container ends, ECS stops the coordinator.
#[test]
fn a_job_container_that_ended_the_task_is_named() {
    for (job, coordinator) in [(0, 143), (1, 0), (64, 137), (137, 143)] {
        let mut report = report(Some("EssentialContainerExited"), None, Some(coordinator), None);
        report.containers.push(ContainerReport {
            name: states::JOB_CONTAINER.into(),
            status: None,
            exit_code: Some(job),
            reason: None,
            exec_agent: None,
            runtime_id: None,
        });
        let (said, _) = explain_stop(&report);
        assert!(said.contains("The container build"), "{job}: {said}");
    }
    // ECS stopped it with the coordinator.
    let mut report = report(Some("EssentialContainerExited"), None, Some(1), None);
    report.containers.push(ContainerReport {
        name: states::JOB_CONTAINER.into(),
        status: None,
        exit_code: Some(143),
        reason: None,
        exec_agent: None,
        runtime_id: None,
    });
    let (said, _) = explain_stop(&report);
    assert!(!said.contains("The container build"), "{said}");
}

/// The job log, telemetry and `fargate-replay` take their cause from the same row.
#[test]
fn every_known_end_has_a_cause() {
    for (reason, cause) in [
        ("CannotPullContainerError: x", Cause::ImagePull),
        ("CannotPullECRContainerError: x", Cause::ImagePull),
        ("CannotPullImageManifestError: x", Cause::ImagePull),
        ("ResourceInitializationError: x", Cause::Initialisation),
        ("CannotCreateVolumeError: x", Cause::Initialisation),
        ("CannotStartContainerError: x", Cause::ContainerExited),
        ("CannotCreateContainerError: x", Cause::ContainerExited),
        ("ContainerRuntimeError: x", Cause::ContainerExited),
        ("ContainerRuntimeTimeoutError: x", Cause::ContainerExited),
        ("InternalError: x", Cause::FargateFailed),
        ("OutOfMemoryError: x", Cause::OutOfMemory),
        ("Capacity is unavailable at this time", Cause::Capacity),
        (
            "Timeout waiting for network interface provisioning to complete.",
            Cause::NetworkInterface,
        ),
        (
            "Unexpected EC2 error while attempting to Create Network Interface with public IP",
            Cause::NetworkInterface,
        ),
        ("Your Spot Task was interrupted.", Cause::SpotInterruption),
        ("fargate driver: reaped, no job owns it", Cause::StoppedByOthers),
        ("Host EC2 (instance i-1) terminated.", Cause::StoppedByOthers),
        ("Fargate platform version 1.3.0 retired", Cause::StoppedByOthers),
    ] {
        for report in [
            report(Some("TaskFailedToStart"), Some(reason), None, None),
            report(
                Some("EssentialContainerExited"),
                Some("Essential container in task exited"),
                Some(1),
                Some(reason),
            ),
        ] {
            let words = explain_task_end(&TaskEnd::of(&report, "ci-coordinator"));
            assert_eq!(words.cause, cause, "{reason}");
            assert!(!words.remedy.is_empty(), "{reason}");
        }
    }
    for (code, cause) in [
        ("SpotInterruption", Cause::SpotInterruption),
        ("TerminationNotice", Cause::StoppedByOthers),
        ("ServiceSchedulerInitiated", Cause::StoppedByOthers),
        ("UserInitiated", Cause::StoppedByOthers),
        ("EssentialContainerExited", Cause::ContainerExited),
        ("SomethingNew", Cause::Unknown),
    ] {
        let report = report(Some(code), None, None, None);
        let words = explain_task_end(&TaskEnd::of(&report, "ci-coordinator"));
        assert_eq!(words.cause, cause, "{code}");
    }
}

/// An older driver recorded only a sentence.
#[test]
fn a_recorded_sentence_is_shown_unchanged() {
    let mut end = TaskEnd::of(&report(None, None, None, None), "ci-coordinator");
    end.recorded = Some("It stopped. Look.".to_owned());
    let words = explain_task_end(&end);
    assert_eq!((words.what.as_str(), words.remedy), ("It stopped. Look.", ""));
}
