//! Nothing is left of a task: after its end, after a crash, and after the cluster was killed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use local_cluster::{Death, Faults};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::*;

/// The variable that says in which process of a test a cluster is to be served.
const SERVE: &str = "FARGATE_TEST_SERVE";

/// Processes that leave their session and ignore signals.
const STUBBORN: &str = "trap '' TERM HUP; setsid sh -c \"trap '' TERM HUP; sleep 600\" & \
                        (sleep 600 &); echo up; while :; do sleep 0.1; done";

fn containers() -> Vec<Value> {
    vec![
        coordinator(),
        build("busybox", STUBBORN, json!({ "stopTimeout": 0 })),
        json!({ "name": "service-0", "image": "http", "essential": false, "stopTimeout": 0,
                "command": ["-p", "8090"] }),
    ]
}

/// The processes of the host that carry the task's mark.
fn marked(task: &str) -> Vec<String> {
    let mark = format!("FARGATE_LOCAL_TASK={}", task.rsplit('/').next().unwrap());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            fs::read(entry.path().join("environ")).is_ok_and(|environ| {
                environ.split(|byte| *byte == 0).any(|pair| pair.starts_with(mark.as_bytes()))
            })
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The directory of a task with a keeper.
fn directory(cluster: &LocalCluster, task: &str) -> PathBuf {
    let home = PathBuf::from(&sessions_of(cluster, task).environment["HOME"]);
    home.parent().unwrap().to_owned()
}

/// The processes that name this directory in their command line: those that start containers.
fn naming(directory: &Path) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let name = directory.to_str().unwrap();
    let names = |path: PathBuf| {
        fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(name))
    };
    entries.filter(|entry| names(entry.path())).count()
}

async fn running(cluster: &LocalCluster) -> (String, PathBuf) {
    let task = run(cluster, &containers()).await;
    until_running(cluster, &task).await;
    until_line(cluster, &task, "build", "up").await;
    let directory = directory(cluster, &task);
    // A process has its environment a moment after its start.
    client::eventually("its processes have begun", || {
        marked(&task).len() >= 4 && directory.is_dir() && naming(&directory) > 0
    })
    .await;
    (task, directory)
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_stopped_task_leaves_nothing() {
    let cluster = start().await;
    let (task, directory) = running(&cluster).await;
    stop(&cluster, &task).await;
    assert_eq!((marked(&task), naming(&directory), directory.exists()), (vec![], 0, false));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("fargate-local"), "{mounts}");
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn many_tasks_at_once_leave_nothing() {
    let cluster = start().await;
    let mut tasks = Vec::new();
    for _ in 0..12 {
        let job = build("busybox", "echo up; exec sleep 600", json!({}));
        let service = build("debian", "echo up; exec sleep 600", json!({ "name": "service-0" }));
        tasks.push(run(&cluster, &[coordinator(), job, service]).await);
    }
    for task in &tasks {
        until_running(&cluster, task).await;
        for name in ["build", "service-0"] {
            until_line(&cluster, task, name, "up").await;
        }
        assert_eq!(output_of(&cluster, task, "ls -A /builds").await, "", "its own volume");
        output_of(&cluster, task, "touch /builds/x").await;
    }
    let directories: Vec<PathBuf> = tasks.iter().map(|task| directory(&cluster, task)).collect();
    cluster.shutdown().await;
    for (task, directory) in tasks.iter().zip(directories) {
        assert_eq!((marked(task), directory.exists()), (vec![], false));
    }
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_task_that_crashes_leaves_nothing() {
    let cluster = start().await;
    let death = Death {
        after_ms: 500,
        code: "TerminationNotice".into(),
        reason: "the host is retired".into(),
        container_reason: None,
        exit_code: None,
    };
    cluster.set_faults(Faults { dies: Some(death), ..Faults::default() });
    let task = run(&cluster, &containers()).await;
    until_running(&cluster, &task).await;
    let directory = directory(&cluster, &task);
    let stopped = until_stopped(&cluster, &task).await;
    assert_eq!(described(&stopped, "build")["exitCode"], 137);
    assert_eq!((marked(&task), directory.exists()), (vec![], false));
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_task_that_is_stopped_while_it_starts_leaves_nothing() {
    let cluster = start().await;
    let waits = build(
        "busybox",
        ":",
        json!({ "dependsOn": [{ "containerName": "service-0", "condition": "COMPLETE" }] }),
    );
    let first =
        json!({ "name": "service-0", "image": "silent", "essential": false, "stopTimeout": 0 });
    let task = run(&cluster, &[coordinator(), waits, first]).await;
    client::until(&cluster, &task, |task| {
        task["containers"].as_array().is_some_and(|all| all.len() == 3)
            && described(task, "service-0")["lastStatus"] == "RUNNING"
    })
    .await;
    client::eventually("its processes have begun", || !marked(&task).is_empty()).await;
    stop(&cluster, &task).await;
    assert_eq!(marked(&task), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_dropped_cluster_leaves_nothing() {
    let cluster = start().await;
    let (task, directory) = running(&cluster).await;
    drop(cluster);
    client::eventually("nothing is left", || {
        marked(&task).is_empty() && naming(&directory) == 0 && !directory.exists()
    })
    .await;
}

#[test]
#[ignore = "needs scripts/root-filesystems"]
fn a_killed_cluster_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "root_filesystems::leaks::serves_a_task_until_killed",
            "--nocapture",
        ])
        .env(SERVE, "1")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let task = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("task: ").map(str::to_owned))
        .expect("the task runs");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    child.wait().unwrap();
    let is_clean = || {
        marked(&task).is_empty()
            && naming(temporary.path()) == 0
            && fs::read_dir(temporary.path()).unwrap().next().is_none()
    };
    for _ in 0..4000 {
        if is_clean() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!(
        "left: {:?}, {:?}",
        marked(&task),
        fs::read_dir(temporary.path()).unwrap().collect::<Vec<_>>()
    );
}

/// No test: the process that the test above kills.
#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn serves_a_task_until_killed() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    let cluster = start().await;
    let (task, _) = running(&cluster).await;
    println!("\ntask: {task}");
    std::future::pending::<()>().await;
}
