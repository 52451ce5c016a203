//! Several processes work on one job: two managers that share a directory, and `cleanup` beside
//! other stages.

use std::{fs, io::Read, process::Child};

use crate::{
    cluster::Cluster,
    crash_job::local,
    eventually,
    parametrised::by_every_transport,
    runner::{Ended, Job, is_of_service},
};

by_every_transport!(
    two_managers_at_one_job_take_turns,
    two_managers_with_jobs_of_their_own_in_one_directory,
    cleanup_beside_a_running_stage_waits_for_its_verdict,
    cleanup_beside_a_cancelled_stage,
    cleanup_beside_prepare_leaves_nothing,
);

fn both(job: &Job, arguments: &[&str]) -> [Ended; 2] {
    [(); 2].map(|()| job.spawn(arguments)).map(|child| job.end(child))
}

/// Asserts that only the archive is left in the directory.
fn assert_all_archived(job: &Job) {
    let left: Vec<_> = fs::read_dir(&job.metadata)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|n| n != "archive" && !is_of_service(n))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!job.archived().is_empty());
}

/// Starts a script that runs until `release`d, and waits until it has begun.
fn running(job: &Job, script: &str, stage: &str) -> Child {
    let gate = job.path("gate");
    let script = format!(
        "echo begun; {script}; until [ -e '{}' ]; do sleep 0.02; done; echo done; exit 5",
        gate.display()
    );
    let mut run = job.spawn(&["run", &job.script(script).display().to_string(), stage]);
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    run
}

fn release(job: &Job) {
    fs::write(job.path("gate"), "").unwrap();
}

/// Two managers of one registration share a directory, and both got the same job.
fn two_managers_at_one_job_take_turns(cluster: &Cluster) {
    let job = Job::on(cluster);
    let prepared = both(&job, &["prepare"]);
    assert_eq!(prepared.each_ref().map(|p| p.code), [0, 0], "{prepared:#?}");
    let alive = cluster.tasks().iter().filter(|task| task.status == "RUNNING").count();
    assert_eq!(
        alive,
        1,
        "the second has replaced the task of the first, or taken it: {:?}",
        cluster.tasks()
    );

    let ledger = job.path("ledger");
    let script =
        job.script(format!("echo ran >>'{}'; echo said", ledger.display())).display().to_string();
    let runs = both(&job, &["run", &script, "get_sources"]);
    assert_eq!(runs.each_ref().map(|run| run.code), [0, 0], "{runs:#?}");
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "ran\n");
    assert_eq!(runs.map(|run| run.stdout).concat(), b"said\n", "one of them says it");

    let cleaned = both(&job, &["cleanup"]);
    assert_eq!(cleaned.each_ref().map(|c| c.code), [0, 0], "{cleaned:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(cluster.tasks().len());
    assert_all_archived(&job);
}

/// Each works on its own jobs, although they share a directory.
fn two_managers_with_jobs_of_their_own_in_one_directory(cluster: &Cluster) {
    let one = Job::on(cluster);
    let mut other = one.beside(cluster);
    // Even the job's number may be the same, with another runner.
    let number = one.get("CUSTOM_ENV_CI_JOB_ID").unwrap().to_owned();
    other.set("CUSTOM_ENV_CI_JOB_ID", &number);
    other.set("CUSTOM_ENV_CI_RUNNER_SHORT_TOKEN", "an0therOne");
    std::thread::scope(|scope| {
        [&one, &other]
            .map(|job| scope.spawn(|| job.prepare()))
            .map(|prepared| prepared.join().unwrap())
    });
    one.cleanup();
    assert_eq!(other.run("build_script", "echo alive").stdout, b"alive\n");
    other.cleanup();
    cluster.assert_nothing_is_left(2);
    assert_eq!(one.archived().len(), 2);
    assert_all_archived(&one);
}

fn cleanup_beside_a_running_stage_waits_for_its_verdict(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let run = running(&job, "true", "build_script");
    let cleanup = job.spawn(&["cleanup"]);
    let second = job.spawn(&["cleanup"]);
    eventually("both wait", || job.log().matches("waiting for the job's lock").count() == 2);
    assert_eq!(local(cluster).calls("StopTask"), 0);
    release(&job);
    let ended = job.end(run);
    assert_eq!(
        (ended.script_code.as_deref(), ended.stdout.as_slice()),
        (Some("5"), &b"done\n"[..]),
        "{ended:#?}"
    );
    for cleanup in [cleanup, second] {
        let cleaned = job.end(cleanup);
        assert_eq!(cleaned.code, 0, "{cleaned:#?}");
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_all_archived(&job);
}

/// gitlab-runner was killed and restarted: the driver of its stage still runs, and gets SIGTERM.
fn cleanup_beside_a_cancelled_stage(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let run = running(&job, "trap '' TERM", "build_script");
    Job::cancel(&run);
    let cleanup = job.spawn(&["cleanup"]);
    release(&job);
    job.end(run);
    let cleaned = job.end(cleanup);
    assert_eq!(cleaned.code, 0, "{cleaned:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_all_archived(&job);
}

fn cleanup_beside_prepare_leaves_nothing(cluster: &Cluster) {
    // From before RunTask until the container is reachable.
    let moments: [fn(&Cluster, &Job) -> bool; 3] = [
        |_, _| true,
        |cluster, _| !cluster.tasks().is_empty(),
        |cluster, job| {
            cluster.tasks().iter().any(|task| task.status == "RUNNING")
                && !job.files(".ron").is_empty()
        },
    ];
    for (number, moment) in moments.iter().enumerate() {
        let job = Job::on(cluster);
        let prepare = job.spawn(&["prepare"]);
        eventually("the moment comes", || moment(cluster, &job));
        let cleanup = job.spawn(&["cleanup"]);
        let prepared = job.end(prepare);
        assert_eq!(prepared.code, 0, "{number}: {prepared:#?}");
        let cleaned = job.end(cleanup);
        assert_eq!(cleaned.code, 0, "{number}: {cleaned:#?}");
        // The first one may come before `prepare` did anything.
        job.cleanup();
        cluster.assert_nothing_is_left(number + 1);
        assert_all_archived(&job);
    }
}
