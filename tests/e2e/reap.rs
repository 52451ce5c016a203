//! `fargate reap` ends only tasks and jobs that are no longer needed.

use std::{fs, io::Read, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::{by_every_transport, on_every_cluster},
    runner::{Ended, Job},
};

on_every_cluster!(
    a_task_whose_snapshot_was_lost_is_an_orphan,
    a_dry_run_does_nothing,
    a_job_that_a_process_works_on_is_skipped,
    a_job_between_two_stages_is_skipped,
    an_abandoned_job_is_ended,
    a_job_whose_task_is_gone_is_archived,
    tasks_of_others_are_not_stopped,
    the_tasks_of_a_lost_manager_are_stopped,
    a_damaged_snapshot_is_set_aside_when_its_task_has_ended,
    a_newer_drivers_snapshot_is_not_changed,
);

by_every_transport!(
    an_earlier_attempts_task_is_stopped_and_the_jobs_own_is_not,
    failed_calls_are_repeated,
    failures_are_reported_counted_and_retried_the_next_time,
    a_stop_that_does_not_happen_is_a_failure_and_the_snapshot_stays,
    twenty_five_abandoned_jobs_are_ended_side_by_side,
    files_of_a_killed_driver_without_a_snapshot_are_removed,
    a_directory_that_cannot_be_used_is_an_error_at_once,
);

/// An age that everything has reached.
const ALL: [&str; 2] = ["--older-than", "0s"];

fn running(cluster: &Cluster) -> usize {
    cluster.tasks().iter().filter(|task| task.status == "RUNNING").count()
}

fn assert_reaps(reaped: &Ended, summary: &str, words: &[&str]) {
    let said = String::from_utf8_lossy(&reaped.stdout);
    assert_eq!(reaped.code, 0, "{said}\n{}", reaped.stderr);
    for word in words.iter().chain([&summary]) {
        assert!(said.contains(word), "{word:?} is not in: {said}\n{}", reaped.stderr);
    }
}

fn cluster_name(cluster: &Cluster) -> &str {
    match cluster {
        Cluster::Local(_) => "local",
        Cluster::Moto(moto) => &moto.cluster,
    }
}

fn call(cluster: &Cluster, action: &str, mut parameters: Value) -> Value {
    parameters["cluster"] = json!(cluster_name(cluster));
    cluster.ecs(action, &parameters)
}

/// Returns the tasks whose desired status is not STOPPED.
fn alive(cluster: &Cluster) -> Vec<String> {
    let listed = call(cluster, "ListTasks", json!({ "desiredStatus": "RUNNING" }));
    listed["taskArns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arn| arn.as_str().unwrap().to_owned())
        .collect()
}

/// Launches a task without the driver: a copy of `like`, with these differences.
fn launch_like(
    cluster: &Cluster,
    like: &str,
    started_by: &str,
    change: impl Fn(&str, &str) -> Option<String>,
) {
    let described = call(cluster, "DescribeTasks", json!({ "tasks": [like], "include": ["TAGS"] }));
    let task = &described["tasks"][0];
    let tags: Vec<Value> = task["tags"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tag| {
            let (key, value) = (tag["key"].as_str().unwrap(), tag["value"].as_str().unwrap());
            Some(json!({ "key": key, "value": change(key, value)? }))
        })
        .collect();
    let subnet = match cluster {
        Cluster::Local(_) => "subnet-local",
        Cluster::Moto(moto) => &moto.subnet,
    };
    let definition = if matches!(cluster, Cluster::Local(_)) { "local-job:1" } else { "job:1" };
    let before = alive(cluster).len();
    let launched = call(
        cluster,
        "RunTask",
        json!({ "taskDefinition": definition, "count": 1, "startedBy": started_by, "tags": tags, "launchType": "FARGATE",
            "networkConfiguration": { "awsvpcConfiguration": { "subnets": [subnet], "securityGroups": ["sg-0a1b2c3d"] } },
            "overrides": { "containerOverrides": [{ "name": "ci-coordinator", "environment": [
                { "name": "SSH_PUBLIC_KEY", "value": "none" },
                { "name": "FARGATE_HOST_PROOF_KEY", "value": "0".repeat(64) },
            ] }] } }),
    );
    assert_eq!(launched["tasks"].as_array().map(Vec::len), Some(1), "{launched}");
    eventually("it is listed", || alive(cluster).len() > before);
}

fn keep(_: &str, value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn forget(job: &Job) {
    // A service saves the end of a stage after its verdict.
    let locks = job.files(".lock").into_iter().map(|path| fs::File::open(path).unwrap());
    for lock in locks {
        eventually("no process works on the job", || lock.try_lock().is_ok());
    }
    for ending in [".ron", ".key", ".lock"] {
        job.files(ending).iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

fn a_task_whose_snapshot_was_lost_is_an_orphan(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    forget(&job);
    assert_reaps(&job.reap(&[]), "orphaned tasks stopped: 0", &[]);
    assert_eq!(running(cluster), 1, "it is younger than an hour");
    assert_reaps(
        &job.reap(&ALL),
        "orphaned tasks stopped: 1; jobs ended: 0",
        &["no job owns it; stopped", "group/project"],
    );
    eventually("it has stopped", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED" && task.processes == 0)
    });
    cluster.assert_nothing_is_left(1);
    assert_reaps(
        &job.reap(&ALL),
        "orphaned tasks stopped: 0; jobs ended: 0; jobs left alone: 0; failures: 0",
        &[],
    );
}

fn a_dry_run_does_nothing(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    assert_reaps(
        &job.reap(&["--dry-run", ALL[0], ALL[1]]),
        "jobs ended: 1",
        &["would be ended", "dry run"],
    );
    assert_eq!(job.run("build_script", "echo alive").stdout, b"alive\n");
    forget(&job);
    assert_reaps(
        &job.reap(&["--dry-run", ALL[0], ALL[1]]),
        "orphaned tasks stopped: 1",
        &["would be stopped", "dry run"],
    );
    assert_eq!(alive(cluster).len(), 1);
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 1", &[]);
}

fn a_job_that_a_process_works_on_is_skipped(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script("echo begun; while [ ! -e \"$TMPDIR/go\" ]; do sleep 0.05; done")
            .display()
            .to_string(),
        "x",
    ]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    assert_reaps(&job.reap(&ALL), "jobs ended: 0; jobs left alone: 1", &[]);
    // The same holds for a job whose task is not known yet.
    let launching = job.beside(cluster);
    let mut prepare = launching.spawn(&["prepare"]);
    eventually("a second task is launched", || alive(cluster).len() == 2);
    let reaped = job.reap(&ALL);
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned();
    assert!(said.contains("orphaned tasks stopped: 0"), "{said}");
    assert_eq!(prepare.wait().unwrap().code(), Some(0));
    Job::cancel(&run);
    job.end(run);
    job.cleanup();
    launching.cleanup();
    cluster.assert_nothing_is_left(2);
}

fn a_job_between_two_stages_is_skipped(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    assert_reaps(
        &job.reap(&[]),
        "orphaned tasks stopped: 0; jobs ended: 0; jobs left alone: 1",
        &[],
    );
    assert_reaps(&job.reap(&["--older-than", "1m"]), "jobs ended: 0; jobs left alone: 1", &[]);
    assert_eq!(job.run("build_script", "echo alive").stdout, b"alive\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// A manager that was switched off in the middle of a job.
fn an_abandoned_job_is_ended(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let mut run = job.spawn(&[
        "run",
        &job.script("echo begun; sleep 600").display().to_string(),
        "build_script",
    ]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    assert_reaps(&job.reap(&[]), "jobs ended: 0; jobs left alone: 1", &[]);
    assert_reaps(&job.reap(&ALL), "jobs ended: 1", &["no process has worked on it for", "; ended"]);
    cluster.assert_nothing_is_left(1);
    assert_eq!((job.files(".ron").len(), job.files(".key").len(), job.archived().len()), (0, 0, 1));
    // A later cleanup has nothing to do.
    job.cleanup();
}

fn a_job_whose_task_is_gone_is_archived(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    call(cluster, "StopTask", json!({ "task": alive(cluster)[0] }));
    eventually("it has stopped", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED" && task.processes == 0)
    });
    // gitlab-runner may be about to call the next stage, which will explain it.
    assert_reaps(&job.reap(&[]), "jobs ended: 0; jobs left alone: 1", &[]);
    age(&job, Duration::from_secs(180));
    assert_reaps(&job.reap(&[]), "jobs ended: 1; jobs left alone: 0", &["its task is over"]);
    assert_eq!((job.files(".ron").len(), job.archived().len()), (0, 1));
}

/// Makes the snapshot look as if no process had worked on the job for this time.
fn age(job: &Job, by: Duration) {
    let path = &job.files(".ron")[0];
    let id = path.file_stem().unwrap().to_str().unwrap();
    let mut snapshot = states::Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(snapshot.job.header().id.as_str(), id);
    let earlier = |at: states::Timestamp| {
        states::Timestamp::from_millis(at.as_millis() - u64::try_from(by.as_millis()).unwrap())
    };
    for entry in &mut snapshot.journal.entries {
        entry.at = earlier(entry.at);
        entry.last = entry.last.map(earlier);
    }
    fs::write(path, snapshot.to_ron().unwrap()).unwrap();
    job.edited.store(true, Ordering::Relaxed);
}

/// Not on moto, whose tasks have no launch time.
fn an_earlier_attempts_task_is_stopped_and_the_jobs_own_is_not(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let own = alive(cluster).remove(0);
    launch_like(cluster, &own, "gitlab-1-0123456789", keep);
    let mut run = job.spawn(&[
        "run",
        &job.script("echo begun; while [ ! -e \"$TMPDIR/go\" ]; do sleep 0.05; done")
            .display()
            .to_string(),
        "x",
    ]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    // While a process works on the job, a launch may be about to return any of its tasks.
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 0", &[]);
    Job::cancel(&run);
    job.end(run);
    eventually("the other one is old enough, and reaped", || {
        // The job itself is not abandoned.
        job.run("after_script", "true");
        assert_eq!(job.reap(&["--older-than", "3s"]).code, 0);
        alive(cluster).len() == 1
    });
    assert_eq!(alive(cluster), [own]);
    job.cleanup();
}

fn tasks_of_others_are_not_stopped(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let own = alive(cluster).remove(0);
    let changed = |what: &'static str| {
        move |key: &str, value: &str| {
            Some(if key == what { "other".to_owned() } else { value.to_owned() })
        }
    };
    // Tasks of another manager, of another directory, without the driver's tags, and started by
    // others with them.
    launch_like(cluster, &own, "gitlab-1-0123456789", changed("fargate-driver:manager"));
    launch_like(cluster, &own, "gitlab-1-0123456789", changed("fargate-driver:directory"));
    launch_like(cluster, &own, "gitlab-1-0123456789", |key, value| {
        (!key.starts_with("fargate-driver:")).then(|| value.to_owned())
    });
    launch_like(cluster, &own, "somebody", keep);
    eventually("all are listed", || alive(cluster).len() == 5);
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 0; jobs ended: 1", &[]);
    assert_eq!(alive(cluster).len(), 4);
    assert!(!alive(cluster).contains(&own));
}

/// The manager's disk is lost, or it was replaced by one of another name.
fn the_tasks_of_a_lost_manager_are_stopped(cluster: &Cluster) {
    let job = Job::with(cluster, "");
    let text = fs::read_to_string(&job.config).unwrap();
    let named = |name: &str| {
        text.replace("[TaskMetadata]\n", &format!("[TaskMetadata]\nManager = \"{name}\"\n"))
    };
    fs::write(&job.config, named("manager-a")).unwrap();
    job.prepare();
    forget(&job);
    fs::write(&job.config, named("manager-b")).unwrap();
    let own = job.beside(cluster);
    own.prepare();
    assert_reaps(
        &job.reap(&["--older-than", "1h", "--manager", "manager-a"]),
        "orphaned tasks stopped: 0",
        &[],
    );
    let reaped = job.reap(&[ALL[0], ALL[1], "--manager", "manager-a"]);
    assert_reaps(&reaped, "orphaned tasks stopped: 1; jobs ended: 0; jobs left alone: 1", &[]);
    assert_eq!(
        own.run("build_script", "echo alive").stdout,
        b"alive\n",
        "its own jobs are not touched"
    );
    own.cleanup();
    cluster.assert_nothing_is_left(2);
}

fn a_damaged_snapshot_is_set_aside_when_its_task_has_ended(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let reaped = job.reap(&[]);
    assert_eq!(reaped.code, 1, "{reaped:#?}");
    assert!(reaped.stderr.contains("cannot be used"), "{}", reaped.stderr);
    assert!(path.exists() && alive(cluster).len() == 1, "nothing is old enough");
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 1; jobs ended: 1", &["damaged"]);
    assert!(!path.exists() && job.files(".key").is_empty());
    let kept = fs::read_dir(job.metadata.join("archive"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().unwrap() == "damaged");
    assert_eq!(fs::read_to_string(kept.unwrap()).unwrap(), whole[..whole.len() / 2]);
    eventually("its task has ended", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED" && task.processes == 0)
    });
}

fn a_newer_drivers_snapshot_is_not_changed(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let ours = fs::read_to_string(&path).unwrap();
    fs::write(&path, ours.replacen(&format!("version: {}", states::VERSION), "version: 99", 1))
        .unwrap();
    let reaped = job.reap(&ALL);
    assert_eq!(reaped.code, 1, "{reaped:#?}");
    assert!(reaped.stderr.contains("newer"), "{}", reaped.stderr);
    assert_eq!(alive(cluster).len(), 1, "nor is its task touched");
    fs::write(&path, ours).unwrap();
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn set_faults(cluster: &Cluster, faults: &Value) {
    let Cluster::Local(local) = cluster else { unreachable!("faults are the local cluster's") };
    local.set_faults(faults);
}

fn failed_calls_are_repeated(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    forget(&job);
    set_faults(
        cluster,
        &json!({ "throttle": { "ListTasks": 1, "DescribeTasks": 2, "StopTask": 1 } }),
    );
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 1", &[]);
}

fn failures_are_reported_counted_and_retried_the_next_time(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let other = job.beside(cluster);
    other.prepare();
    // One job is abandoned, and the other's snapshot is lost.
    fs::remove_file(
        job.files(".ron").iter().find(|path| path.to_string_lossy().contains(&id(&other))).unwrap(),
    )
    .unwrap();
    let denied = json!({ "status": 400, "code": "AccessDeniedException", "message": "not authorized to perform: ecs:ListTasks", "times": 1 });
    set_faults(cluster, &json!({ "refuse": { "ListTasks": denied } }));
    let reaped = job.reap(&ALL);
    assert_eq!(reaped.code, 1, "{reaped:#?}");
    assert!(reaped.stderr.contains("docs/iam.md"), "{}", reaped.stderr);
    assert!(
        String::from_utf8_lossy(&reaped.stdout).contains("jobs ended: 1"),
        "the jobs need no list: {reaped:#?}"
    );
    assert_reaps(&job.reap(&ALL), "orphaned tasks stopped: 1", &[]);
    eventually("both have stopped", || cluster.tasks().iter().all(|task| task.status == "STOPPED"));
    cluster.assert_nothing_is_left(2);
}

/// How the snapshot of this job's file begins to differ from others'.
fn id(job: &Job) -> String {
    let snapshots = job.files(".ron");
    let project_job = job.get("CUSTOM_ENV_CI_JOB_ID").unwrap().to_owned();
    let of_job = |path: &&std::path::PathBuf| {
        fs::read_to_string(path).unwrap().contains(&format!("job_id: \"{project_job}\""))
    };
    snapshots.iter().find(of_job).unwrap().file_stem().unwrap().to_string_lossy().into_owned()
}

fn a_stop_that_does_not_happen_is_a_failure_and_the_snapshot_stays(cluster: &Cluster) {
    let job = Job::with(cluster, "[Deadlines]\nStop = \"1s\"\n");
    job.prepare();
    set_faults(cluster, &json!({ "stop_ignored": true }));
    let reaped = job.reap(&ALL);
    assert_eq!(reaped.code, 1, "{reaped:#?}");
    assert!(reaped.stderr.contains("does not show it as STOPPED"), "{}", reaped.stderr);
    assert_eq!(job.files(".ron").len(), 1);
    set_faults(cluster, &json!({}));
    // ECS may take a while to end a task.
    age(&job, Duration::from_secs(180));
    assert_reaps(&job.reap(&[]), "jobs ended: 0; jobs left alone: 1", &[]);
    // Then StopTask is repeated, long before the job counts as abandoned.
    age(&job, Duration::from_secs(180));
    assert_reaps(
        &job.reap(&[]),
        "jobs ended: 1",
        &["ECS accepted to stop its task 6m", "shows it as RUNNING; ended"],
    );
    cluster.assert_nothing_is_left(1);
}

fn twenty_five_abandoned_jobs_are_ended_side_by_side(cluster: &Cluster) {
    let first = Job::on(cluster);
    let jobs: Vec<Job> = (0..24).map(|_| first.beside(cluster)).collect();
    std::thread::scope(|scope| {
        jobs.iter().chain([&first]).for_each(|job| drop(scope.spawn(move || job.prepare())))
    });
    assert_reaps(&first.reap(&ALL), "jobs ended: 25; jobs left alone: 0; failures: 0", &[]);
    cluster.assert_nothing_is_left(25);
}

fn files_of_a_killed_driver_without_a_snapshot_are_removed(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let id = id(&job);
    let of = |kind: &str| job.metadata.join(format!("{id}.{kind}"));
    let snapshot = fs::read(of("ron")).unwrap();
    job.cleanup();
    let kinds = ["key", "offset", "tmp", "probe", "lock"];
    let leave = || kinds.map(of).iter().for_each(|path| fs::write(path, "left").unwrap());
    let left = || kinds.map(of).iter().filter(|path| path.exists()).count();
    leave();
    // Not the driver's files, in spite of their extensions.
    let others = ["tls.key", "notes.tmp", "deploy-0123.key"].map(|name| job.metadata.join(name));
    others.iter().for_each(|path| fs::write(path, "mine").unwrap());

    assert_reaps(&job.reap(&["--dry-run"]), "failures: 0", &["would be removed", &id]);
    assert!(kinds[..4].iter().all(|kind| of(kind).exists()));
    let elsewhere = job.reap(&["--manager", "another"]);
    assert!(elsewhere.code == 0 && left() >= 4, "{elsewhere:#?}");

    // A process works on the job: its snapshot is about to be written.
    let store = states::DirectoryStore::open(&job.metadata).unwrap();
    let lease = store.try_lease(&states::JobId::new(id.as_str()).unwrap(), "test").unwrap();
    assert_reaps(&job.reap(&ALL), "failures: 0", &[]);
    assert_eq!(left(), 5);
    drop(lease);

    assert_reaps(&job.reap(&[]), "failures: 0", &["were removed", &id]);
    assert_eq!(left(), 0);
    assert!(others.iter().all(|path| fs::read(path).unwrap() == b"mine"));
    // With a snapshot, they belong to the job.
    leave();
    fs::write(of("ron"), snapshot).unwrap();
    assert_reaps(&job.reap(&[]), "jobs left alone: 1", &[]);
    assert_eq!(left(), 5);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_directory_that_cannot_be_used_is_an_error_at_once(cluster: &Cluster) {
    let job = Job::on(cluster);
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, text.replace(&format!("{:?}", job.metadata), "\"/dev/null/metadata\""))
        .unwrap();
    let reaped = job.reap(&[]);
    assert!(reaped.code != 0 && reaped.stderr.contains("/dev/null/metadata"), "{reaped:#?}");
}
