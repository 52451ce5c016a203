//! Faults of a cluster, injected by the local cluster.

use std::io::Read;

use serde_json::json;

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::by_every_transport,
    runner::{BUILD_FAILURE, Ended, Job, SYSTEM_FAILURE},
};

by_every_transport!(
    throttled_calls_are_repeated,
    capacity_errors_are_retried_until_capacity_returns,
    a_lost_run_task_answer_leaks_no_task,
    a_cluster_without_a_capacity_provider_strategy_is_explained,
    a_missing_permission_is_explained,
    a_task_that_stops_before_it_runs_is_explained,
    a_container_that_never_listens_is_explained_at_the_deadline
        (not by pipes: "a task that runs cannot keep pipes out"),
    repeated_cuts_of_the_connection_change_no_byte
        (not by pipes: "nothing is between the driver and its own processes"),
    a_script_outlives_its_connection
        (not by pipes: "nothing is between the driver and its own processes"),
    a_task_that_dies_under_a_script_is_a_system_failure_that_says_why,
    a_task_that_will_not_stop_is_reported_and_its_snapshot_kept,
);

fn assert_explains(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
}

fn throttled_calls_are_repeated(cluster: &Cluster) {
    let job = Job::on(cluster);
    cluster
        .as_local()
        .set_faults(&json!({ "throttle": { "RunTask": 2, "DescribeTasks": 2, "StopTask": 1 } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("rate limit"), "the CI user is told: {}", prepared.stderr);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn capacity_errors_are_retried_until_capacity_returns(cluster: &Cluster) {
    let job = Job::on(cluster);
    cluster
        .as_local()
        .set_faults(&json!({ "launch_failure": { "reason": "RESOURCE:ENI", "times": 2 } }));
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("RESOURCE:ENI"), "{}", prepared.stderr);
    assert_eq!(cluster.as_local().calls("RunTask"), 3);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_lost_run_task_answer_leaks_no_task(cluster: &Cluster) {
    let job = Job::on(cluster);
    // The task is launched, and the answer comes after the driver has given up waiting for it.
    cluster.as_local().set_faults(&json!({ "delay_ms": { "RunTask": 60_000 } }));
    let mut prepare = job.spawn(&["prepare"]);
    eventually("the task is launched", || !cluster.tasks().is_empty());
    prepare.kill().unwrap();
    prepare.wait().unwrap();
    cluster.as_local().set_faults(&json!({}));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_cluster_without_a_capacity_provider_strategy_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    let refusal = json!({ "status": 400, "code": "InvalidParameterException", "message": "No Container Instances were found in your cluster.", "times": 1 });
    cluster.as_local().set_faults(&json!({ "refuse": { "RunTask": refusal } }));
    let prepared = job.stage(&["prepare"]);
    assert_explains(&prepared, &["default capacity provider strategy", "LaunchType = \"FARGATE\""]);
    job.cleanup();
}

fn a_missing_permission_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    let message = "User: arn:aws:sts::1:assumed-role/manager is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/task";
    cluster.as_local().set_faults(
        &json!({ "refuse": { "RunTask": { "status": 400, "code": "AccessDeniedException", "message": message, "times": 1 } } }),
    );
    assert_explains(&job.stage(&["prepare"]), &["iam:PassRole", "docs/iam.md"]);
    job.cleanup();
}

fn a_task_that_stops_before_it_runs_is_explained(cluster: &Cluster) {
    let job = Job::on(cluster);
    let reason = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref registry.example/ci:latest: not found";
    cluster.as_local().set_faults(&json!({ "stops_early": { "code": "TaskFailedToStart", "reason": reason, "container_reason": reason } }));
    assert_explains(
        &job.stage(&["prepare"]),
        &["CannotPullContainerError", "registry.example/ci:latest", "image"],
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_container_that_never_listens_is_explained_at_the_deadline(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nRunning = \"2s\"\n");
    cluster.as_local().set_faults(&cluster.never_lets_in());
    let words = if cluster.is_by_ecs_exec() {
        ["exec agent", "ssmmessages"]
    } else {
        ["nothing listens", "SSH server"]
    };
    assert_explains(&job.stage(&["prepare"]), &words);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn repeated_cuts_of_the_connection_change_no_byte(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    cluster.as_local().set_faults(&cluster.cuts_connections(3_000_000, 300_000, 3));
    let run = job
        .run("build_script", "i=0; while [ $i -lt 200000 ]; do echo \"line $i of many, to be seen once each\"; i=$((i+1)); done; exit 7");
    let expected: String =
        (0..200_000).map(|i| format!("line {i} of many, to be seen once each\n")).collect();
    assert_eq!(
        (run.code, run.script_code.as_deref()),
        (BUILD_FAILURE, Some("7")),
        "{}",
        run.stderr
    );
    assert!(
        run.stdout == expected.as_bytes(),
        "the output differs: {} bytes, not {}",
        run.stdout.len(),
        expected.len()
    );
    assert!(
        run.stderr.contains("connection to the container was lost")
            && run.stderr.contains("Reconnected"),
        "{}",
        run.stderr
    );
    job.cleanup();
}

fn a_script_outlives_its_connection(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script(
            "echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; echo done; exit 3",
        )
        .display()
        .to_string(),
        "build_script",
    ]);
    let mut begun = [0; 6];
    run.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    cluster.as_local().drop_connections();
    crate::processes::release(cluster);
    let ended = job.end(run);
    assert_eq!(
        (ended.script_code.as_deref(), ended.stdout.as_slice()),
        (Some("3"), &b"done\n"[..]),
        "{ended:#?}"
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_task_that_dies_under_a_script_is_a_system_failure_that_says_why(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let script = job.script("echo begun; sleep 600").display().to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let death = json!({ "code": "SpotInterruption", "reason": "Your Spot Task was interrupted." });
    cluster.as_local().crash_tasks(&death);
    assert_explains(&job.end(run), &["Spot"]);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_task_that_will_not_stop_is_reported_and_its_snapshot_kept(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nStop = \"1s\"\n");
    job.prepare();
    cluster.as_local().set_faults(&json!({ "stop_ignored": true }));
    let cleaned = job.stage(&["cleanup", "--wait"]);
    assert_explains(&cleaned, &["is kept"]);
    assert_eq!(job.files(".ron").len(), 1);
    // A refused stop is not accepted, so `cleanup` must not succeed.
    let denied = json!({ "status": 400, "code": "AccessDeniedException", "message": "not authorized to perform: ecs:StopTask", "times": 100 });
    cluster.as_local().set_faults(&json!({ "refuse": { "StopTask": denied } }));
    let cleaned = job.stage(&["cleanup"]);
    assert_explains(&cleaned, &["is kept", "could not be stopped", "StopTask"]);
    assert_eq!((job.files(".ron").len(), job.archived().len()), (1, 0));
    cluster.as_local().set_faults(&json!({}));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
