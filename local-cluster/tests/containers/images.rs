//! Images that are not there.

use local_cluster::{LocalCluster, Settings};
use serde_json::{Value, json};

use crate::*;

/// Asserts that a task with this container beside the coordinator does not start. Returns the
/// reason.
pub(crate) async fn refused(cluster: &LocalCluster, other: Value) -> String {
    let name = other["name"].as_str().unwrap().to_owned();
    let task = run(cluster, &[coordinator(), other]).await;
    let stopped = until_stopped(cluster, &task).await;
    assert_eq!(stopped["stopCode"], "TaskFailedToStart", "{stopped}");
    let container = described(&stopped, &name);
    assert_eq!(container["reason"], stopped["stoppedReason"]);
    assert_eq!(container["lastStatus"], "STOPPED");
    assert!(container.get("exitCode").is_none() && stopped.get("startedAt").is_none());
    stopped["stoppedReason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_missing_image_fails_the_task() {
    let images = tempfile::tempdir().unwrap();
    let cluster = start_with(images.path().to_owned()).await;
    for essential in [true, false] {
        let other = build("registry.example.com/ci/no:1", ":", json!({ "essential": essential }));
        let reason = refused(&cluster, other).await;
        assert!(reason.starts_with("CannotPullContainerError: "), "{reason}");
        assert!(reason.ends_with("registry.example.com/ci/no:1: not found"), "{reason}");
    }
}

#[tokio::test]
async fn without_images_only_the_coordinator_is_a_stand_in() {
    let settings = Settings { registrations: None, ..Settings::default() };
    let cluster = LocalCluster::start(settings).await.unwrap();
    let reason = refused(&cluster, build("debian", ":", json!({}))).await;
    assert!(reason.starts_with("CannotPullContainerError: ") && reason.contains("--images"));
    let alone = json!({ "name": "ci-coordinator", "image": "registry.example.com/ci-job" });
    let task = run(&cluster, &[alone]).await;
    until_running(&cluster, &task).await;
    assert_eq!(output_of(&cluster, &task, "echo $JOB").await, "42");
}
