//! Jobs of a whole day through one service, on a cluster whose minutes are short. Scripts fail, jobs
//! are cancelled, Spot tasks are lost, calls are throttled, and the service is killed and restarted.
//!
//! It takes half a minute for each transport. `FARGATE_TEST_SOAK=600` makes it ten minutes.

use std::{
    fs,
    io::Read as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use local_cluster::{Profile, Settings};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    cluster::{Cluster, Local},
    eventually,
    processes::memory,
    runner::{Alone, BUILD_FAILURE, Ended, Job, SYSTEM_FAILURE},
    serve::Service,
};

/// Jobs at the same time.
const AT_ONCE: usize = 6;
/// A minute of Fargate's takes so many seconds here.
const MINUTE: f64 = 1.2;
/// How much the service's memory may grow from noon on, in KiB, besides a quarter.
const SLACK: u64 = 12 * 1024;

#[test]
#[ignore = "takes half a minute: scripts/test runs it"]
fn a_day_of_jobs_by_ssh_leaves_nothing() {
    a_day_of_jobs_leaves_nothing("ssh");
}

#[test]
#[ignore = "takes half a minute: scripts/test runs it"]
fn a_day_of_jobs_by_ecs_exec_leaves_nothing() {
    a_day_of_jobs_leaves_nothing("ecs-exec");
}

/// What has happened.
#[derive(Debug, Default)]
struct Seen {
    jobs: AtomicUsize,
    lost: AtomicUsize,
    cancelled: AtomicUsize,
}

fn a_day_of_jobs_leaves_nothing(transport: &'static str) {
    let seconds = std::env::var("FARGATE_TEST_SOAK").map_or(30, |text| text.parse().unwrap());
    let mut local = Local::here(Settings::of(Profile::Fargate, MINUTE / 60.0, 7));
    local.transport = transport;
    let cluster = Cluster::Local(local);
    let manager = Job::on(&cluster).alone(Alone::HasOwnService);
    let (seen, is_over) = (Seen::default(), AtomicBool::new(false));
    let (mut service, quarters) = thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (cluster, manager, seen, is_over) = (&cluster, &manager, &seen, &is_over);
            scope.spawn(move || {
                let mut numbers = (worker..).step_by(AT_ONCE);
                while !is_over.load(Ordering::Relaxed) {
                    a_job(&manager.beside(cluster), numbers.next().unwrap(), seen);
                }
            });
        }
        // Also if a check fails.
        let _over = Over(&is_over);
        a_day(&cluster, &manager, Duration::from_secs(seconds))
    });
    // The service archives what is left.
    eventually("all jobs are archived", || manager.files("").is_empty());
    assert!(!service.has_ended());
    let late = memory("VmRSS", service.process.id());
    println!("{transport}: {seen:?}; the service had {quarters:?} and then {late} KiB");
    let [.., middle, _, last] = quarters[..] else { panic!("{quarters:?}") };
    assert!(last.max(late) < middle + middle / 4 + SLACK, "{quarters:?} KiB, then {late} KiB");
    assert!(seen.lost.load(Ordering::Relaxed) > 0, "no task was lost: {seen:?}");
    let tasks = cluster.tasks();
    assert!(tasks.iter().all(|task| task.status == "STOPPED" && task.processes == 0), "{tasks:?}");
    let reaped = manager.reap(&[]);
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned();
    assert!(reaped.code == 0 && said.contains("orphaned tasks stopped: 0"), "{reaped:#?}");
    assert_eq!(manager.archived().len(), seen.jobs.load(Ordering::Relaxed), "{seen:?}");
}

/// Kills and restarts the service early in the day, and lets calls and tasks fail in some of the
/// hours. Returns the last service, and its memory after each quarter of the day, in KiB.
fn a_day(cluster: &Cluster, manager: &Job, day: Duration) -> (Service, Vec<u64>) {
    const PARTS: u32 = 40;
    let began = Instant::now();
    let until = |part: u32| thread::sleep((day * part / PARTS).saturating_sub(began.elapsed()));
    let mut service = Service::start(manager);
    let mut quarters = Vec::new();
    for part in 1..=PARTS {
        cluster.as_local().set_faults(&match part % 5 {
            1 | 4 => json!({ "dies": { "after_ms": 400, "code": "SpotInterruption", "reason": "Your Spot Task was interrupted." } }),
            2 => json!({ "throttle": { "RunTask": 2, "DescribeTasks": 5, "StopTask": 2, "ExecuteCommand": 2 } }),
            3 => json!({ "random": { "percent": 10 } }),
            _ => json!({}),
        });
        until(part);
        match part {
            4 => {
                // Killed, and away for some time.
                drop(service);
                until(5);
                service = Service::start(manager);
            }
            8 => {
                service.signal(Signal::TERM);
                assert!(service.process.wait().unwrap().success());
                service = Service::start(manager);
            }
            _ => {}
        }
        if part % (PARTS / 4) == 0 {
            quarters.push(memory("VmRSS", service.process.id()));
        }
    }
    cluster.as_local().set_faults(&json!({}));
    (service, quarters)
}

/// A job that succeeds, fails, or is cancelled, unless its task is lost.
fn a_job(job: &Job, number: usize, seen: &Seen) {
    let prepared = job.stage(&["prepare"]);
    if prepared.code == 0 {
        let ledger = job.path("ledger");
        let is_cancelled = number % 7 == 6;
        // One that is to be cancelled does not end before.
        let script = format!(
            "echo run >>'{}'; for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; sleep {}; exit {}",
            ledger.display(),
            if is_cancelled { 600 } else { 0 },
            number % 3
        );
        let script = job.script(script).display().to_string();
        let mut run = job.spawn(&["run", &script, "build_script"]);
        let mut begun = vec![0; if is_cancelled { 2 } else { 0 }];
        // Without output, the stage has ended before.
        let has_begun = run.stdout.as_mut().unwrap().read_exact(&mut begun).is_ok();
        if is_cancelled {
            Job::cancel(&run);
        }
        let ended = job.end(run);
        let runs = fs::read_to_string(&ledger).unwrap_or_default().lines().count();
        assert!(runs <= 1, "job {number}: {runs} runs");
        if is_lost(&ended, seen) {
        } else if is_cancelled && has_begun {
            assert!(ended.stderr.contains("was cancelled"), "job {number}: {ended:#?}");
            seen.cancelled.fetch_add(1, Ordering::Relaxed);
        } else {
            let code = if number.is_multiple_of(3) { 0 } else { BUILD_FAILURE };
            assert_eq!((ended.code, runs), (code, 1), "job {number}: {ended:#?}");
            assert_eq!(ended.stdout, b"1\n2\n3\n4\n5\n", "job {number}: {ended:#?}");
        }
    } else {
        assert!(is_lost(&prepared, seen), "job {number}: {prepared:#?}");
    }
    job.cleanup_as_gitlab_runner();
    seen.jobs.fetch_add(1, Ordering::Relaxed);
}

/// Whether the stage failed because its task was taken away.
fn is_lost(ended: &Ended, seen: &Seen) -> bool {
    let is_lost = ended.code == SYSTEM_FAILURE && ended.stderr.contains("Spot");
    seen.lost.fetch_add(usize::from(is_lost), Ordering::Relaxed);
    is_lost
}

/// Lets the jobs end when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
