//! How containers end, and what of it ends the task.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::*;

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn an_essential_container_s_exit_stops_the_task() {
    let cluster = start().await;
    let service =
        json!({ "name": "service-0", "image": "silent", "essential": false, "stopTimeout": 0 });
    let job = build("busybox", "sleep 0.3; echo bye; exit 5", json!({}));
    let task = run(&cluster, &[coordinator(), job, service]).await;
    let stopped = until_stopped(&cluster, &task).await;
    assert_eq!(stopped["stopCode"], "EssentialContainerExited");
    assert_eq!(stopped["stoppedReason"], "Essential container in task exited");
    assert_eq!(described(&stopped, "build")["exitCode"], 5);
    // It has no handler of SIGTERM, and the kernel gives a first process no default.
    assert_eq!(described(&stopped, "service-0")["exitCode"], 137);
    assert!(described(&stopped, "build").get("reason").is_none());
    assert_eq!(summary(&cluster, &task, "build").last_lines, ["bye"]);
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn another_container_s_exit_is_only_shown() {
    let cluster = start().await;
    let service = json!({ "name": "service-0", "image": "dies", "essential": false,
        "logConfiguration": { "logDriver": "awslogs", "options": {
            "awslogs-region": "us-east-1", "awslogs-group": "jobs", "awslogs-stream-prefix": "ci" } } });
    let task = run(&cluster, &[coordinator(), service]).await;
    let seen = client::until(&cluster, &task, |task| {
        task["containers"][1]["exitCode"].is_number() && task["lastStatus"] == "RUNNING"
    })
    .await;
    let service = described(&seen, "service-0");
    assert_eq!((&service["exitCode"], &service["lastStatus"]), (&json!(3), &json!("STOPPED")));
    assert_eq!(described(&seen, "ci-coordinator")["lastStatus"], "RUNNING");
    let message = "this image exits with 3";
    assert_eq!(summary(&cluster, &task, "service-0").last_lines, [message]);

    let id = task.rsplit('/').next().unwrap();
    let events = async |more: Value| {
        let mut parameters =
            json!({ "logGroupName": "jobs", "logStreamName": format!("ci/service-0/{id}") });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let credentials = cluster.credentials();
        let target = "Logs_20140328.GetLogEvents";
        client::post_as(&cluster, credentials, "logs", target, &parameters).await
    };
    let page = events(json!({ "limit": 5 })).await.unwrap();
    assert_eq!(page["events"][0]["message"], message);
    assert!(page["events"][0]["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
    let next = events(json!({ "nextToken": page["nextForwardToken"] })).await.unwrap();
    assert_eq!(
        (&next["events"], &next["nextForwardToken"]),
        (&json!([]), &page["nextForwardToken"])
    );
    for (more, expected) in [
        (json!({ "logStreamName": "ci/service-1/x" }), "The specified log stream does not exist."),
        (json!({ "logGroupName": "others" }), "The specified log group does not exist."),
    ] {
        assert!(events(more).await.unwrap_err().contains(expected));
    }
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn an_init_process_passes_signals_on_and_reaps() {
    let cluster = start().await;
    let script = "trap 'echo got it; exit 9' TERM; (sleep 0.1 & ) ; sleep 0.4; \
                  echo zombies: $(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l); echo up; \
                  while :; do sleep 0.05; done";
    let task =
        run(&cluster, &[coordinator(), build("debian", script, json!({ "stopTimeout": 60 }))])
            .await;
    until_running(&cluster, &task).await;
    until_line(&cluster, &task, "build", "up").await;
    let asked = Instant::now();
    let stopped = stop(&cluster, &task).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "SIGTERM was enough");
    assert_eq!(described(&stopped, "build")["exitCode"], 9);
    assert_eq!(summary(&cluster, &task, "build").last_lines, ["zombies: 0", "up", "got it"]);
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_container_that_ignores_sigterm_is_killed_after_its_stop_timeout() {
    let cluster = start().await;
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let task =
        run(&cluster, &[coordinator(), build("busybox", script, json!({ "stopTimeout": 1 }))])
            .await;
    until_running(&cluster, &task).await;
    until_line(&cluster, &task, "build", "up").await;
    let asked = Instant::now();
    let stopped = stop(&cluster, &task).await;
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!(described(&stopped, "build")["exitCode"], 137);
    assert_eq!(stopped["stopCode"], "UserInitiated");
}
