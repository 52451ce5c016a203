//! A job on a cluster whose tasks take as long as on Fargate, at a tenth of the time.

use std::time::Duration;

use local_cluster::{Profile, Settings, Times};

use crate::{
    cluster::{Cluster, Local},
    eventually,
    runner::Job,
};

/// A tenth of Fargate's times. DescribeTasks does not show a new task for 2 s, so that the driver
/// sees MISSING.
fn cluster(by_ecs_exec: bool) -> Cluster {
    let slow = Duration::from_secs(20).into();
    let settings = Settings::of(Profile::Fargate, 0.1, 11);
    let times = Times { describe_lag: slow, list_lag: slow, ..settings.times };
    let mut local = Local::here(Settings { times, ..settings });
    local.transport = if by_ecs_exec { "ecs-exec" } else { "ssh" };
    Cluster::Local(local)
}

#[test]
fn a_job_by_ssh_on_fargate_s_times() {
    a_job_goes_its_way(&cluster(false));
}

#[test]
fn a_job_by_ecs_exec_on_fargate_s_times() {
    a_job_goes_its_way(&cluster(true));
}

fn a_job_goes_its_way(cluster: &Cluster) {
    let job = Job::on(cluster);
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert!(!prepared.stderr.to_lowercase().contains("error"), "{}", prepared.stderr);
    let run = job.run("build_script", "echo begun; echo done");
    assert_eq!(
        (run.code, String::from_utf8_lossy(&run.stdout).as_ref()),
        (0, "begun\ndone\n"),
        "{run:#?}\n{}",
        job.log()
    );
    job.cleanup();
    // Other tests check when the job is archived.
    let snapshot = job.snapshots().remove(0);
    let mut rest = snapshot.as_str();
    let seen = [
        "Launched(",
        "saw: Missing",
        "status: Pending",
        "Answered(",
        "RunRequested",
        "Exited(",
        "StopRequested(Cleanup)",
        "StopAccepted",
    ];
    for what in seen {
        rest = rest
            .split_once(what)
            .unwrap_or_else(|| panic!("{what} is not in its place:\n{snapshot}"))
            .1;
    }
    let log = job.log();
    assert!(!log.contains("ERROR"), "{log}");
    eventually("the task is stopped", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED")
    });
    cluster.assert_nothing_is_left(1);
}
