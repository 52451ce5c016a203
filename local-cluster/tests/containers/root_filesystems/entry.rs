//! What is executed in a container: entry point and command, or why they cannot be.

use serde_json::json;

use crate::{images::refused, *};

/// The variable that says in which process of a test namespaces are forbidden.
const FORBIDDEN: &str = "FARGATE_TEST_FORBIDDEN";

#[test]
#[ignore = "needs root and user namespaces"]
fn without_privileges_a_task_says_why_it_does_not_start() {
    // In a user namespace without a mapping, this process is not root.
    let status = std::process::Command::new("unshare")
        .arg("--user")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .arg("root_filesystems::entry::runs_a_task_without_privileges")
        .env(FORBIDDEN, "1")
        .env("TMPDIR", std::env::temp_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(said.contains("1 passed") && status.status.success(), "{status:?}");
}

/// No test: the process that the test above starts.
#[tokio::test]
#[ignore = "needs root and user namespaces"]
async fn runs_a_task_without_privileges() {
    if std::env::var_os(FORBIDDEN).is_none() {
        return;
    }
    let why = local_cluster::images::available().unwrap_err();
    assert!(why.contains("need root"), "{why}");
    let images = tempfile::tempdir().unwrap();
    std::fs::create_dir(images.path().join("empty")).unwrap();
    let cluster = start_with(images.path().to_owned()).await;
    let alone = json!({ "name": "ci-coordinator", "image": "local" });
    for containers in
        [vec![coordinator()], vec![alone, build("empty", ":", json!({ "mountPoints": [] }))]]
    {
        let task = run(&cluster, &containers).await;
        let stopped = until_stopped(&cluster, &task).await;
        let reason = stopped["stoppedReason"].as_str().unwrap();
        assert!(
            reason.starts_with("CannotStartContainerError: ") && reason.contains(&why),
            "{reason}"
        );
        assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    }
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_command_that_is_not_there_fails_the_task() {
    let cluster = start().await;
    let no_shell = build("noshell", ":", json!({ "entryPoint": ["sh", "-c"] }));
    let reason = refused(&cluster, no_shell).await;
    assert!(reason.starts_with("CannotStartContainerError: "), "{reason}");
    assert!(reason.contains("exec: \"sh\": executable file not found in $PATH"), "{reason}");
    // ECS takes an empty entry point literally.
    let reason = refused(&cluster, build("busybox", ":", json!({ "entryPoint": [""] }))).await;
    assert!(reason.contains("exec: \"\": executable file not found in $PATH"), "{reason}");
    let reason = refused(&cluster, build("busybox", ":", json!({ "user": "ci" }))).await;
    assert!(reason.contains("unable to find user ci"), "{reason}");
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn an_entry_point_that_is_not_essential_does_not_fail_the_task() {
    let cluster = start().await;
    let service = json!({ "name": "service-0", "image": "noshell", "essential": false, "entryPoint": ["gone"] });
    let task = run(&cluster, &[coordinator(), service]).await;
    let running = until_running(&cluster, &task).await;
    let service = described(&running, "service-0");
    assert!(service["reason"].as_str().unwrap().contains("exec: \"gone\""), "{service}");
    assert_eq!(service["lastStatus"], "STOPPED");
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn the_entry_point_executes_the_command() {
    let cluster = start().await;
    for (more, expected) in [
        (json!({}), "yes"),
        // An entry point of the definition replaces that of the image.
        (json!({ "entryPoint": ["/bin/busybox"] }), "none"),
    ] {
        let script = "echo \"from entry point: ${FROM_ENTRYPOINT:-none}\"; sleep 600";
        let task = run(&cluster, &[coordinator(), build("entrypoint", script, more)]).await;
        until_running(&cluster, &task).await;
        until_line(&cluster, &task, "build", &format!("from entry point: {expected}")).await;
        stop(&cluster, &task).await;
    }
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn an_entry_point_may_ignore_the_command() {
    let cluster = start().await;
    let task = run(&cluster, &[coordinator(), build("badentrypoint", "echo up", json!({}))]).await;
    until_running(&cluster, &task).await;
    let stopped = stop(&cluster, &task).await;
    assert_eq!(described(&stopped, "build")["exitCode"], 143);
    assert_eq!(summary(&cluster, &task, "build").last_lines, Vec::<String>::new());
}
