//! Jobs whose container has a root file system of its own, on the local cluster.

use serde_json::json;

use crate::{
    cluster::{Cluster, Local},
    runner::Job,
};

/// Runs a job in a container of this image, beside another with which it shares a volume.
fn a_job_in(image: &str, transport: &'static str) {
    let images = std::env::var("FARGATE_TEST_IMAGES").unwrap_or_else(|_| {
        let home = std::env::home_dir().unwrap().display().to_string();
        format!("{home}/.cache/fargate-driver/root-filesystems")
    });
    let mut local = Local::start_with(&["--images", &images]);
    local.transport = transport;
    let cluster = Cluster::Local(local);
    let mounts = json!([{ "sourceVolume": "shared", "containerPath": "/shared" }]);
    let script = "echo written beside >/shared/file; while :; do sleep 0.1; done";
    let registered = cluster.ecs(
        "RegisterTaskDefinition",
        &json!({
            "family": "rooted", "volumes": [{ "name": "shared" }],
            "containerDefinitions": [
                { "name": "ci-coordinator", "image": image, "mountPoints": mounts,
                  "command": ["sleep", "600"], "linuxParameters": { "initProcessEnabled": true } },
                { "name": "build", "image": "busybox", "mountPoints": mounts,
                  "command": ["sh", "-c", script], "linuxParameters": { "initProcessEnabled": true } },
            ],
        }),
    );
    assert_eq!(registered["taskDefinition"]["revision"], 1, "{registered}");
    let mut job = Job::on(&cluster);
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "rooted");
    job.prepare();
    let script = "until [ -e /shared/file ]; do sleep 0.01; done; cat /shared/file; echo $$ >/mine";
    let run = job.run("prepare_script", script);
    let output = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!((run.code, output.as_str()), (0, "written beside\n"), "{run:#?}\n{}", job.log());
    let large =
        format!("cat /mine >/dev/null; seq 1 30000 | md5sum; exit 3\n# {}", "x".repeat(300_000));
    let run = job.run("build_script", large);
    assert_eq!(
        (run.script_code.as_deref(), run.stdout.as_slice()),
        (Some("3"), &b"0a61f0919f546ce04fc119b028b88a2e  -\n"[..]),
        "{run:#?}"
    );
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs scripts/root-filesystems"]
fn a_job_by_ssh() {
    a_job_in("coordinator", "ssh");
    a_job_in("busybox", "ssh");
    a_job_in("local", "ssh");
}

#[test]
#[ignore = "needs scripts/root-filesystems"]
fn a_job_by_ecs_exec() {
    a_job_in("coordinator", "ecs-exec");
    a_job_in("busybox", "ecs-exec");
    a_job_in("local", "ecs-exec");
}

#[test]
#[ignore = "needs scripts/root-filesystems"]
fn a_job_by_pipes() {
    a_job_in("coordinator", "pipes");
    a_job_in("busybox", "pipes");
}
