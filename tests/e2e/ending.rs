//! The end of a job: `cleanup` does not wait for AWS, and a later process archives the job.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    crash_job::local,
    eventually,
    moto::Moto,
    parametrised::by_every_transport,
    replay_act::{id, replay},
    runner::{Alone, Job},
};

by_every_transport!(
    the_next_prepare_of_another_job_archives_an_ended_one,
    reap_archives_an_ended_job_at_once,
    cleanup_can_wait_also_after_one_that_did_not,
    a_job_that_is_prepared_again_after_its_cleanup_begins_afresh,
    all_tasks_of_a_job_are_stopped_before_cleanup_returns,
);

/// Tasks as slow as Fargate's.
fn slow() -> (Cluster, Job) {
    let cluster = Cluster::moto();
    moto(&cluster).stops_take(Duration::from_secs(30));
    let job = Job::on(&cluster).alone(Alone::ArchivesLater);
    job.prepare();
    (cluster, job)
}

fn moto(cluster: &Cluster) -> &Moto {
    match cluster {
        Cluster::Moto(moto) => moto,
        Cluster::Local(_) => unreachable!("this is a test on moto"),
    }
}

/// Returns ECS's description of the job's only task.
fn task(cluster: &Cluster) -> Value {
    let listed = cluster
        .ecs("ListTasks", &json!({ "cluster": moto(cluster).cluster, "desiredStatus": "STOPPED" }));
    let described = cluster.ecs(
        "DescribeTasks",
        &json!({ "cluster": moto(cluster).cluster, "tasks": listed["taskArns"] }),
    );
    described["tasks"][0].clone()
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn cleanup_returns_while_its_task_still_stops() {
    let (cluster, job) = slow();
    for _ in 0..2 {
        job.cleanup_as_gitlab_runner();
        let task = task(&cluster);
        assert_eq!(
            (task["lastStatus"].as_str(), task["desiredStatus"].as_str()),
            (Some("DEACTIVATING"), Some("STOPPED")),
            "{task}"
        );
        assert!(job.snapshot().contains("phase: Ending(\n"), "{}", job.snapshot());
        assert_eq!((job.files(".ending").len(), job.archived().len()), (1, 0));
    }
    // Other processes skip it meanwhile, without a warning.
    let other = job.beside(&cluster);
    other.prepare();
    let reaped = job.reap(&[]);
    assert!(
        String::from_utf8_lossy(&reaped.stdout)
            .contains("jobs ended: 0; jobs left alone: 2; failures: 0"),
        "{reaped:#?}"
    );
    let stuck = replay(&job).args(["list", "--stuck"]).output().unwrap();
    assert!(String::from_utf8_lossy(&stuck.stdout).contains("No job needs help"), "{stuck:#?}");
    let shown = replay(&job).args(["show", &id(&job)]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("over for GitLab after") && shown.contains("fargate reap"), "{shown}");
    assert_eq!(job.archived().len(), 0);
    // Once ECS shows it as stopped, the next process archives it.
    moto(&cluster).stops_take(Duration::ZERO);
    let reaped = job.reap(&[]);
    assert!(
        String::from_utf8_lossy(&reaped.stdout)
            .contains("jobs ended: 1; jobs left alone: 1; failures: 0"),
        "{reaped:#?}"
    );
    assert_eq!(
        (job.archived().len(), job.files(".ending").len(), job.files(".ron").len()),
        (1, 0, 1)
    );
    assert!(fs::read_to_string(&job.archived()[0]).unwrap().contains("phase: Over("));
    assert_eq!(other.run("build_script", "echo alive").stdout, b"alive\n");
    other.cleanup();
    cluster.assert_nothing_is_left(2);
}

#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn a_job_is_prepared_again_while_its_earlier_task_still_stops() {
    let (cluster, job) = slow();
    job.cleanup_as_gitlab_runner();
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    assert_eq!(task(&cluster)["lastStatus"], "DEACTIVATING");
    let archived = fs::read_to_string(&job.archived()[0]).unwrap();
    assert!(archived.contains("phase: Ending(\n"), "{archived}");
    assert_eq!((job.files(".ending").len(), job.files(".ron").len()), (0, 1));
    assert_eq!(job.run("build_script", "echo again").stdout, b"again\n");
    moto(&cluster).stops_take(Duration::ZERO);
    job.cleanup();
    assert_eq!(job.archived().len(), 2);
    cluster.assert_nothing_is_left(2);
}

fn all_stopped(cluster: &Cluster) -> bool {
    cluster.tasks().iter().all(|task| task.status == "STOPPED")
}

/// Returns a job whose `cleanup` did not wait, and whose task has ended since.
fn ended_job(cluster: &Cluster) -> Job {
    let job = Job::on(cluster).alone(Alone::ArchivesLater);
    job.prepare();
    let describes = local(cluster).calls("DescribeTasks");
    job.cleanup_as_gitlab_runner();
    assert_eq!(
        (local(cluster).calls("StopTask"), local(cluster).calls("DescribeTasks")),
        (1, describes)
    );
    assert_eq!(
        (job.files(".ron").len(), job.files(".ending").len(), job.archived().len()),
        (1, 1, 0)
    );
    eventually("its task has ended", || all_stopped(cluster));
    job
}

fn assert_archived(job: &Job, files: usize) {
    assert_eq!(
        (job.files(".ending").len(), job.archived().len(), job.files("").len()),
        (0, 1, files)
    );
    let archived =
        states::Snapshot::parse(&fs::read_to_string(&job.archived()[0]).unwrap()).unwrap();
    let states::AnyJob::Stopping(ended) = &archived.job else { panic!("{archived:#?}") };
    assert!(
        ended.state.is_over() && ended.state.reason == states::StopReason::Cleanup,
        "{ended:#?}"
    );
}

fn the_next_prepare_of_another_job_archives_an_ended_one(cluster: &Cluster) {
    let job = ended_job(cluster);
    let next = job.beside(cluster);
    next.prepare();
    let own = next.files("").len();
    assert_archived(&job, own);
    assert_eq!(local(cluster).calls("StopTask"), 1, "it is not stopped again");
    assert_eq!(next.run("build_script", "echo alive").stdout, b"alive\n");
    next.cleanup();
    cluster.assert_nothing_is_left(2);
}

fn reap_archives_an_ended_job_at_once(cluster: &Cluster) {
    let job = ended_job(cluster);
    let reaped = job.reap(&["--dry-run"]);
    assert!(
        String::from_utf8_lossy(&reaped.stdout).contains("its task is over; would be archived"),
        "{reaped:#?}"
    );
    let reaped = job.reap(&[]);
    let said = String::from_utf8_lossy(&reaped.stdout);
    assert!(
        reaped.code == 0
            && said.contains("its task is over; archived")
            && said.contains("jobs ended: 1"),
        "{reaped:#?}"
    );
    assert_archived(&job, 0);
    assert_eq!(local(cluster).calls("StopTask"), 1, "it is not stopped again");
}

fn cleanup_can_wait_also_after_one_that_did_not(cluster: &Cluster) {
    let job = ended_job(cluster);
    for _ in 0..2 {
        let waited = job.stage(&["cleanup", "--wait"]);
        assert_eq!(waited.code, 0, "{waited:#?}");
        assert_archived(&job, 0);
    }
    let at_once = job.beside(cluster);
    at_once.prepare();
    let waited = at_once.stage(&["cleanup", "--wait"]);
    assert_eq!((waited.code, at_once.archived().len()), (0, 2), "{waited:#?}");
    cluster.assert_nothing_is_left(2);
}

/// gitlab-runner calls `cleanup` after each failed `prepare`, then `config` and `prepare` again.
fn a_job_that_is_prepared_again_after_its_cleanup_begins_afresh(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::ArchivesLater);
    for attempt in 0..3 {
        assert_eq!(job.stage(&["config"]).code, 0);
        job.prepare();
        assert_eq!(
            (job.archived().len(), job.files(".ron").len(), job.files(".key").len()),
            (attempt, 1, usize::from(cluster.has_keys()))
        );
        assert_eq!(
            job.run("build_script", format!("echo {attempt}")).stdout,
            format!("{attempt}\n").as_bytes()
        );
        job.cleanup_as_gitlab_runner();
    }
    job.cleanup();
    assert_eq!((job.archived().len(), job.files("").len()), (3, 0));
    cluster.assert_nothing_is_left(3);
}

/// An earlier attempt's task still runs beside the job's own, whose launch got no answer.
fn all_tasks_of_a_job_are_stopped_before_cleanup_returns(cluster: &Cluster) {
    let job = Job::on(cluster).alone(Alone::ArchivesLater);
    job.prepare();
    let mark = job
        .snapshot()
        .split("started_by: \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap()
        .to_owned();
    let launched = cluster.ecs(
        "RunTask",
        &json!({ "cluster": "local", "taskDefinition": "local-job:1", "count": 1, "startedBy": mark, "launchType": "FARGATE",
            "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-local"], "securityGroups": ["sg-0a1b2c3d"] } },
            "overrides": { "containerOverrides": [{ "name": "ci-coordinator", "environment": [{ "name": "SSH_PUBLIC_KEY", "value": "none" }] }] } }),
    );
    assert_eq!(launched["tasks"].as_array().map(Vec::len), Some(1), "{launched}");
    // ListTasks shows a task a moment after RunTask has answered.
    let listed = || cluster.ecs("ListTasks", &json!({ "cluster": "local", "startedBy": mark }));
    eventually("both are listed", || listed()["taskArns"].as_array().map(Vec::len) == Some(2));
    // The driver knows of neither: it was killed before RunTask's answer.
    let path = job.files(".ron").remove(0);
    let snapshot = states::Snapshot::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut unanswered = states::Snapshot::new(snapshot.job.header().clone());
    unanswered.plan(states::Timestamp::now());
    fs::write(&path, unanswered.to_ron().unwrap()).unwrap();
    job.cleanup_as_gitlab_runner();
    let alive =
        cluster.ecs("ListTasks", &json!({ "cluster": "local", "desiredStatus": "RUNNING" }));
    assert_eq!(alive["taskArns"], json!([]));
    eventually("both have ended", || all_stopped(cluster));
    assert_eq!(job.reap(&[]).code, 0);
    assert_archived(&job, 0);
    cluster.assert_nothing_is_left(2);
}
