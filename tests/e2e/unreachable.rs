//! AWS cannot be reached when a job has to end: the rest is reported, kept, and ended later.

use std::net::TcpListener;

use crate::{
    cluster::Cluster,
    parametrised::by_every_transport,
    runner::{Job, SYSTEM_FAILURE},
};

by_every_transport!(a_later_cleanup_ends_the_job, reap_ends_the_job,);

/// Returns a job whose manager cannot reach AWS.
fn cut_off(cluster: &Cluster) -> Job {
    let mut job = Job::with(cluster, "[Deadlines]\nStop = \"2s\"\n");
    job.prepare();
    // No server listens there any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    job.set("AWS_ENDPOINT_URL", &format!("http://{address}"));
    for _ in 0..2 {
        let cleaned = job.stage(&["cleanup"]);
        assert_eq!(cleaned.code, SYSTEM_FAILURE, "{cleaned:#?}");
        let snapshot = job.files(".ron").remove(0).display().to_string();
        let task = job.snapshot().split("local/").nth(1).unwrap()[..32].to_owned();
        for word in [&snapshot, &task, "is kept", "fargate reap"] {
            assert!(cleaned.stderr.contains(word), "{word:?} is not in: {}", cleaned.stderr);
        }
    }
    assert_eq!(cluster.tasks()[0].status, "RUNNING");
    job
}

fn reachable(cluster: &Cluster, job: &mut Job) {
    job.set("AWS_ENDPOINT_URL", cluster.endpoint());
}

fn a_later_cleanup_ends_the_job(cluster: &Cluster) {
    let mut job = cut_off(cluster);
    reachable(cluster, &mut job);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
    assert_eq!((job.files("").len(), job.archived().len()), (0, 1));
}

fn reap_ends_the_job(cluster: &Cluster) {
    let mut job = cut_off(cluster);
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 1, "{reaped:#?}");
    assert!(reaped.stderr.contains("is kept"), "{}", reaped.stderr);
    reachable(cluster, &mut job);
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    cluster.assert_nothing_is_left(1);
    assert_eq!((job.files("").len(), job.archived().len()), (0, 1));
}
