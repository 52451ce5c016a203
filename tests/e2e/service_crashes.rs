//! Kills the service at every crash point of a whole job, as `crash_points` does with stages. The
//! stages' processes live, so that nothing at all may be lost or come twice.
//!
//! The service has several threads, and strace counts each one's calls. So a point is the first
//! thread's `N`th call; a job takes another path each time.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    cluster::Cluster,
    parametrised::by_every_transport,
    runner::{Alone, BUILD_FAILURE, Job},
    serve::Service,
};

by_every_transport!(
    #[ignore = "needs strace: scripts/test installs it and runs this"]
    every_crash_point_of_the_service
        (not by pipes: "strace would count the calls of the container's processes too"),
);

/// Changes of files, network traffic (clients, API and SSH), and locks.
const CALLS: [&str; 12] = [
    "write", "recvfrom", "sendto", "writev", "pwrite64", "connect", "accept4", "rename", "fsync",
    "unlink", "mkdir", "flock",
];
/// Each call's points are tried one after the other, and those of so many calls at once.
const AT_ONCE: usize = 8;
const OUTPUT: &str = "one\ntwo\nthree\n";

/// Runs a job whose service is killed at the `n`th such call. Returns whether it was.
fn is_killed_at(cluster: &Cluster, call: &str, n: usize) -> bool {
    let job = Job::on(cluster).alone(Alone::HasOwnService);
    let (trace, inject) =
        (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={n}"));
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    // It may be killed before it listens.
    let mut service = Service::start_under(&strace, &job);
    job.prepare();
    let ledger = job.path("ledger");
    for (stage, code) in [("get_sources", 0), ("build_script", 7)] {
        let run = job.run(
            stage,
            format!(
                "echo {stage} >>'{}'; for i in one two three; do echo $i; done; exit {code}",
                ledger.display()
            ),
        );
        assert_eq!(
            (run.code, String::from_utf8_lossy(&run.stdout).as_ref()),
            (if code == 0 { 0 } else { BUILD_FAILURE }, OUTPUT),
            "{stage}: {run:#?}\n{}",
            job.log()
        );
    }
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "get_sources\nbuild_script\n");
    job.cleanup();
    assert_eq!((job.archived().len(), job.files(".ron").len()), (1, 0));
    service.as_mut().is_none_or(Service::has_ended)
}

fn every_crash_point_of_the_service(cluster: &Cluster) {
    let calls = Mutex::new(CALLS.iter());
    let failures = Mutex::new(Vec::new());
    let (points, jobs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(call) = calls.lock().unwrap().next() else { return };
                    for n in 1.. {
                        jobs.fetch_add(1, Ordering::Relaxed);
                        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            is_killed_at(cluster, call, n)
                        }));
                        match tried {
                            Ok(true) => points.fetch_add(1, Ordering::Relaxed),
                            Ok(false) => break,
                            Err(_) => {
                                failures.lock().unwrap().push(format!("{call} {n}"));
                                break;
                            }
                        };
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let points = points.into_inner();
    println!("{points} crash points of the service");
    assert!(failures.is_empty(), "{failures:?}");
    assert!(points >= 50, "too few points: {points}");
    // One for each job: no launch was repeated.
    cluster.assert_nothing_is_left(jobs.into_inner());
}
