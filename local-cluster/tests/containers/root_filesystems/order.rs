//! `dependsOn`: which container waits for which.

use serde_json::json;

use crate::*;

fn after(container: &str, condition: &str) -> Value {
    json!({ "essential": false,
            "dependsOn": [{ "containerName": container, "condition": condition }] })
}

fn step(name: &str, script: &str, more: Value) -> Value {
    let mut step = container(name, "busybox", json!({ "command": ["sh", "-c", script] }));
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn containers_start_when_their_dependencies_allow_it() {
    let cluster = start().await;
    let note = |name: &str| format!("echo {name} >>/fargate/order");
    let containers = [
        coordinator(),
        step("fourth", &note("fourth"), after("third", "COMPLETE")),
        step("third", &format!("{}; exit 4", note("third")), after("second", "SUCCESS")),
        step(
            "second",
            &format!("until [ -e /fargate/go ]; do sleep 0.01; done; {}", note("second")),
            after("first", "HEALTHY"),
        ),
        step(
            "first",
            &format!("{}; touch /fargate/go; sleep 600", note("first")),
            json!({ "essential": false, "stopTimeout": 0 }),
        ),
    ];
    let task = run(&cluster, &containers).await;
    let running = until_running(&cluster, &task).await;
    assert_eq!(described(&running, "third")["exitCode"], 4);
    client::until(&cluster, &task, |task| described(task, "fourth")["exitCode"] == 0).await;
    let order = output_of(&cluster, &task, "cat /fargate/order").await;
    assert_eq!(order, "first\nsecond\nthird\nfourth");
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_dependency_that_fails_fails_the_task() {
    let cluster = start().await;
    let containers = [
        coordinator(),
        step("second", "true", after("first", "SUCCESS")),
        step("first", "exit 1", json!({ "essential": false })),
    ];
    let task = run(&cluster, &containers).await;
    let stopped = until_stopped(&cluster, &task).await;
    assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    let reason = described(&stopped, "second")["reason"].as_str().unwrap();
    assert!(
        reason.contains("[first] for target [second]")
            && reason.contains("did not exit successfully"),
        "{reason}"
    );
    assert_eq!(described(&stopped, "first")["exitCode"], 1);
}
