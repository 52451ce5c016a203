//! `prepare` is killed at each step of a claim: each task has one owner.

use std::{os::unix::process::ExitStatusExt as _, sync::Mutex, thread};

use crate::{
    cluster::Cluster,
    warm::{assert_claimed, assert_launched, job, owners, warm},
};

/// The files of a claim are the same by every transport.
#[test]
#[ignore = "needs strace: scripts/test installs it and runs this"]
fn each_task_has_one_owner_at_every_crash_point_of_a_claim() {
    each_task_has_one_owner(&Cluster::local());
}

/// The system calls that change files, lock them, or talk to AWS and the container.
const CALLS: [&str; 6] = ["rename", "fsync", "fdatasync", "unlink", "flock", "sendto"];
/// After so many points in a row that are not reached, a call has no more.
const UNREACHED: usize = 2;

/// Kills `prepare` at each such call while it claims. Then gitlab-runner calls `prepare` again, or
/// gives the job up without `cleanup`.
fn each_task_has_one_owner(cluster: &Cluster) {
    let calls = Mutex::new(CALLS.iter());
    let (points, tasks, failures) = (Mutex::new(0), Mutex::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..CALLS.len() {
            scope.spawn(|| {
                let Some(call) = calls.lock().unwrap().next() else { return };
                let mut unreached = 0;
                for n in 1.. {
                    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        is_killed_at(cluster, call, n)
                    }));
                    match tried {
                        Ok((true, launched)) => {
                            *points.lock().unwrap() += 1;
                            *tasks.lock().unwrap() += launched;
                            unreached = 0;
                        }
                        Ok((false, launched)) => {
                            *tasks.lock().unwrap() += launched;
                            unreached += 1;
                        }
                        Err(_) => {
                            failures.lock().unwrap().push(format!("{call} {n}"));
                            return;
                        }
                    }
                    if unreached == UNREACHED {
                        return;
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    let points = points.into_inner().unwrap();
    println!("{points} crash points of a claim");
    assert!(points >= 20, "too few points: {points}");
    cluster.assert_nothing_is_left(tasks.into_inner().unwrap());
}

/// Kills a claiming `prepare` at the `n`th such call. Returns whether it was, and how many tasks
/// there were.
fn is_killed_at(cluster: &Cluster, call: &str, n: usize) -> (bool, usize) {
    let manager = job(cluster);
    let id = warm(cluster, &manager);
    let job = manager.beside(cluster);
    let inject = format!("inject={call}:signal=SIGKILL:when={n}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
    let output = job.command_under(&strace, &["prepare"]).output().unwrap();
    let killed = output.status.signal() == Some(9);
    let at = format!("{call} {n}");
    // Whichever name it has, one snapshot names the task.
    let all = owners(&manager);
    let [(name, owner)] = &all[..] else { panic!("{at}: {all:?}") };
    let is_warm = owner.job.header().id == id;
    assert!(!is_warm || *name == id.as_str(), "{at}");
    assert!(killed || !is_warm, "{at}: {output:?}");
    let launched = if n.is_multiple_of(2) {
        // The job goes on with the task that it had claimed, or claims it now.
        let prepared = job.stage(&["prepare"]);
        assert_claimed(&job, &prepared);
        let run = job.run("build_script", "echo ran");
        assert_eq!((run.code, run.stdout.as_slice()), (0, &b"ran\n"[..]), "{at}: {run:#?}");
        job.cleanup();
        1
    } else {
        // GitLab has given the job up, so another one may have the task if it is still warm.
        let other = manager.beside(cluster);
        let prepared = other.stage(&["prepare"]);
        if is_warm {
            assert_claimed(&other, &prepared);
        } else {
            assert_launched(&other, &prepared);
        }
        let run = other.run("build_script", "echo ran");
        assert_eq!((run.code, run.stdout.as_slice()), (0, &b"ran\n"[..]), "{at}: {run:#?}");
        other.cleanup();
        if is_warm { 1 } else { 2 }
    };
    let reaped = manager.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{at}: {reaped:#?}");
    assert!(owners(&manager).is_empty(), "{at}: {:?}", owners(&manager));
    let left: Vec<_> = manager.files(".key");
    assert!(left.is_empty(), "{at}: {left:?}");
    (killed, launched)
}
