//! Sessions in containers with a root file system of their own.

use client::{Client, Opened, until_connected};
use serde_json::json;

use crate::*;

/// Runs a command by ECS Exec. Returns its output.
async fn execute(cluster: &LocalCluster, task: &str, container: &str, command: &str) -> String {
    let parameters = json!({ "cluster": "local", "task": task, "container": container, "command": command, "interactive": true });
    let answer = ecs(cluster, "ExecuteCommand", parameters).await.unwrap();
    let opened = Opened::from(&answer["session"]);
    let (output, _) = Client::open(&opened, &opened.token).await.until_closed().await;
    String::from_utf8_lossy(&output).replace('\r', "").trim_end().to_owned()
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_coordinator_may_have_a_root_file_system() {
    let cluster = start().await;
    let task = run(&cluster, &[container("ci-coordinator", "coordinator", json!({}))]).await;
    until_running(&cluster, &task).await;
    let script = "git --version | cut -c 1-11; echo $JOB $HOME; pwd; id -u; cat /proc/1/comm; touch /builds/x; [ -e /home/ci ] || echo own root";
    assert_eq!(
        output_of(&cluster, &task, script).await,
        "git version\n42 /root\n/\n0\nsleep\nown root"
    );
    // What a session leaves behind goes with the container.
    output_of(&cluster, &task, "sleep 600 >/dev/null 2>&1 & sleep 600 >/dev/null 2>&1 &").await;
    assert!(view(&cluster, &task).processes.len() >= 3);
    stop(&cluster, &task).await;
    assert_eq!(view(&cluster, &task).processes, [0; 0]);
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn ecs_exec_enters_the_container_that_is_named() {
    let cluster = start().await;
    let job = build(
        "nonroot",
        "sleep 600",
        json!({ "environment": [{ "name": "A", "value": "of build" }] }),
    );
    let dead = json!({ "name": "service-0", "image": "dies", "essential": false });
    let alone = container("ci-coordinator", "coordinator", json!({}));
    let task = run(&cluster, &[alone, job, dead]).await;
    until_running(&cluster, &task).await;
    let connected = async || {
        let parameters = json!({ "cluster": "local", "task": task, "container": "build", "command": "true", "interactive": true });
        ecs(&cluster, "ExecuteCommand", parameters).await
    };
    while connected().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let command = "/bin/sh -c 'id -u; echo $A; pwd; tty; stty size >/dev/null && echo terminal'";
    let output = execute(&cluster, &task, "build", command).await;
    // ECS Exec is root's, whatever the image's user (Amazon ECS developer guide).
    assert!(
        output.starts_with("0\nof build\n/home/ci\n") && output.ends_with("terminal"),
        "{output}"
    );
    let output =
        execute(&cluster, &task, "ci-coordinator", "/bin/sh -c 'echo $JOB; git --version'").await;
    assert!(output.starts_with("42\ngit version"), "{output}");
    client::until(&cluster, &task, |task| described(task, "service-0")["exitCode"] == 3).await;
    let parameters = json!({ "cluster": "local", "task": task, "container": "service-0", "command": "true", "interactive": true });
    assert!(ecs(&cluster, "ExecuteCommand", parameters).await.unwrap_err().contains("not running"));
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_stand_in_s_sessions_see_its_volumes_by_ecs_exec() {
    let cluster = start().await;
    let task = run(&cluster, &[coordinator()]).await;
    until_running(&cluster, &task).await;
    until_connected(&cluster, &task).await;
    let command = "/bin/sh -c 'echo x >/builds/x; cat /builds/x; echo $JOB'";
    assert_eq!(execute(&cluster, &task, "ci-coordinator", command).await, "x\n42");
    stop(&cluster, &task).await;
}
