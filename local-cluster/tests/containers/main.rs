//! Tasks of several containers, each with a root file system of its own: what starts and what does
//! not, what a container sees, and that nothing is left of it.
//!
//! The root file systems are those of `scripts/root-filesystems`, in its default directory or in
//! `FARGATE_TEST_IMAGES`. Such tests also need root.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

#[path = "../exec/client.rs"]
#[allow(dead_code, reason = "the tests of ECS Exec use the rest")]
mod client;
mod images;
mod root_filesystems;
#[path = "../signer/mod.rs"]
mod signer;

use std::{path::PathBuf, process::Output};

use client::ecs;
use local_cluster::{ContainerSummary, ContainerView, LocalCluster, Settings, TaskView};
use serde_json::{Value, json};

/// The volumes of derived definitions, where they are mounted.
const VOLUMES: [(&str, &str); 3] =
    [("fargate-builds", "/builds"), ("fargate-cache", "/cache"), ("fargate-run", "/fargate")];

fn test_images() -> PathBuf {
    if let Err(why) = local_cluster::images::available() {
        panic!("this test cannot run here: {why}");
    }
    let named = std::env::var_os("FARGATE_TEST_IMAGES").map(PathBuf::from);
    let home = std::env::home_dir().unwrap_or_default();
    let images = named.unwrap_or_else(|| home.join(".cache/fargate-driver/root-filesystems"));
    assert!(images.is_dir(), "{} is missing: run scripts/root-filesystems", images.display());
    images
}

async fn start_with(images: PathBuf) -> LocalCluster {
    let settings = Settings { images: Some(images), registrations: None, ..Settings::default() };
    LocalCluster::start(settings).await.unwrap()
}

async fn start() -> LocalCluster {
    start_with(test_images()).await
}

/// A container with the volumes.
fn container(name: &str, image: &str, more: Value) -> Value {
    let mounts = VOLUMES.map(|(name, path)| json!({ "sourceVolume": name, "containerPath": path }));
    let mut container = json!({ "name": name, "image": image, "mountPoints": mounts });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn coordinator() -> Value {
    container("ci-coordinator", "local", json!({}))
}

/// The container of a job: a shell that runs `script`, with an init process.
fn build(image: &str, script: &str, more: Value) -> Value {
    let mut build = container(
        "build",
        image,
        json!({ "command": ["sh", "-c", script], "linuxParameters": { "initProcessEnabled": true } }),
    );
    build.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build
}

/// Runs a task of these containers. Returns its ARN.
async fn run(cluster: &LocalCluster, containers: &[Value]) -> String {
    let volumes = VOLUMES.map(|(name, _)| json!({ "name": name }));
    let definition =
        json!({ "family": "job", "containerDefinitions": containers, "volumes": volumes });
    let registered = ecs(cluster, "RegisterTaskDefinition", definition).await.unwrap();
    let launch = json!({
        "cluster": "local",
        "taskDefinition": registered["taskDefinition"]["taskDefinitionArn"],
        "enableExecuteCommand": true,
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-local"] } },
        "overrides": { "containerOverrides": [
            { "name": containers[0]["name"], "environment": [{ "name": "JOB", "value": "42" }] }] },
    });
    let launched = ecs(cluster, "RunTask", launch).await.unwrap();
    launched["tasks"][0]["taskArn"].as_str().unwrap().to_owned()
}

/// Waits until the task runs; a task that stops instead fails the test.
async fn until_running(cluster: &LocalCluster, task: &str) -> Value {
    let seen =
        client::until(cluster, task, |task| task["startedAt"].is_number() || is_stopped(task))
            .await;
    assert!(!is_stopped(&seen), "the task has stopped: {seen}");
    seen
}

fn is_stopped(task: &Value) -> bool {
    task["lastStatus"] == "STOPPED"
}

async fn until_stopped(cluster: &LocalCluster, task: &str) -> Value {
    client::until(cluster, task, is_stopped).await
}

async fn stop(cluster: &LocalCluster, task: &str) -> Value {
    ecs(cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    until_stopped(cluster, task).await
}

fn view(cluster: &LocalCluster, task: &str) -> TaskView {
    cluster.tasks().into_iter().find(|view| view.arn == task).unwrap()
}

fn summary(cluster: &LocalCluster, task: &str, name: &str) -> ContainerSummary {
    view(cluster, task).containers.into_iter().find(|one| one.name == name).unwrap()
}

/// Waits until a container has written this line.
async fn until_line(cluster: &LocalCluster, task: &str, name: &str, line: &str) {
    client::eventually(line, || {
        summary(cluster, task, name).last_lines.iter().any(|written| written == line)
    })
    .await;
}

/// The container in a description.
fn described<'a>(task: &'a Value, name: &str) -> &'a Value {
    let containers = task["containers"].as_array().unwrap();
    containers.iter().find(|container| container["name"] == name).unwrap()
}

fn sessions_of(cluster: &LocalCluster, task: &str) -> ContainerView {
    cluster.containers().into_iter().find(|view| view.task == task).unwrap()
}

/// Runs a script where sessions of the task run.
async fn in_session(cluster: &LocalCluster, task: &str, script: &str) -> Output {
    let view = sessions_of(cluster, task);
    let words = [view.enter.as_slice(), &["/bin/sh".to_owned()]].concat();
    tokio::process::Command::new(&words[0])
        .args(&words[1..])
        .args(["-c", script])
        .env_clear()
        .envs(&view.environment)
        .current_dir(&view.directory)
        .output()
        .await
        .unwrap()
}

/// Runs a script in a session, which must succeed. Returns its output.
async fn output_of(cluster: &LocalCluster, task: &str, script: &str) -> String {
    let output = in_session(cluster, task, script).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
