//! What is executed in a container: entry point and command, or why they cannot be.

use serde_json::json;

use crate::{images::refused, *};

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
    assert_eq!(summary(&cluster, &task, "build").last_lines, [String::new(); 0]);
}
