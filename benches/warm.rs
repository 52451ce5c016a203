//! Measures what a pool of warm tasks saves: 30 jobs that arrive within five minutes, with a pool of
//! three and without. `cargo bench --bench warm`.
//!
//! The local cluster, in this process, has the times of the profile `fargate`, unscaled: a task takes
//! some 45 s to start. Both runs are side by side, each with a service of its own, by SSH. Stages are
//! processes, as gitlab-runner starts them. `FARGATE_BENCH_JOBS` (30), `FARGATE_BENCH_MINUTES` (5) and
//! `FARGATE_BENCH_POOL` (3) change the load. Needs nothing installed.
//!
//! Prints, for every hit, the time from the start of `prepare` to the script's first line, and a missed
//! target. Prints, too, the times from a claim to the launch of the task that takes the place of the
//! claimed one.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant, SystemTime},
};

use local_cluster::{Profile, Settings};
use serde_json::Value;
use states::{Claim, Snapshot, Timestamp};

use e2e::*;

use cluster::{Cluster, Local};
use runner::Job;
use serve::Service;

/// Seconds from `prepare` to the script's first line that a hit may take.
const HIT: f64 = 1.0;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let jobs = number("JOBS", 30);
    let gap = Duration::from_secs(number("MINUTES", 5) * 60) / u32::try_from(jobs).unwrap();
    let count = number("POOL", 3);
    let cluster = || Cluster::Local(Local::here(Settings::of(Profile::Fargate, 1.0, 1)));
    let (with, without) = thread::scope(|scope| {
        let with = scope.spawn(|| {
            run(
                &cluster(),
                &format!("[[Warm]]\nName = \"p\"\nCount = {count}\n"),
                count,
                (jobs, gap),
            )
        });
        let without = scope.spawn(|| run(&cluster(), "", 0, (jobs, gap)));
        (with.join().unwrap(), without.join().unwrap())
    });
    println!("{jobs} jobs, one every {gap:.1?}; from `prepare` to the script's first line:");
    println!("  without a pool       {}", times(&without.starts(false)));
    println!("  with a pool of {count}, hits   {}", times(&with.starts(true)));
    println!("  with a pool of {count}, misses {}", times(&with.starts(false)));
    let hits: Vec<String> = with.starts(true).iter().map(|time| format!("{time:.2}")).collect();
    println!("  each hit, in seconds: {}", hits.join(" "));
    println!("  from a claim to the launch of the next task {}", times(&with.refills));
    println!(
        "  hit rate {:.0} %, tasks idle for {:.2} h",
        100.0 * hits.len() as f64 / jobs as f64,
        with.idle / 3600.0
    );
    if with.starts(true).iter().any(|time| *time > HIT) {
        println!("MISSED: a hit took longer than {HIT} s");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(format!("FARGATE_BENCH_{name}")).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What was measured of a manager.
struct Measured {
    /// For each job, whether it hit the pool, and the seconds to its first line.
    jobs: Vec<(bool, f64)>,
    /// The seconds that warm tasks waited for jobs, all together.
    idle: f64,
    /// For each claim, the seconds until the service launches another task.
    refills: Vec<f64>,
}

impl Measured {
    fn starts(&self, hits: bool) -> Vec<f64> {
        self.jobs.iter().filter(|(is_hit, _)| *is_hit == hits).map(|(_, time)| *time).collect()
    }
}

/// Runs the jobs of a manager.
fn run(cluster: &Cluster, pool: &str, count: u64, (jobs, gap): (u64, Duration)) -> Measured {
    let first = Job::with(cluster, pool);
    let service = Service::start(&first);
    while count > 0 && status(&first)["pools"][0]["ready"] != count {
        thread::sleep(Duration::from_millis(200));
    }
    let measured = thread::scope(|scope| {
        let running: Vec<_> = (0..jobs)
            .map(|number| {
                let first = &first;
                scope.spawn(move || {
                    thread::sleep(gap * u32::try_from(number).unwrap());
                    job(&first.beside(cluster))
                })
            })
            .collect();
        running.into_iter().map(|job| job.join().unwrap()).collect()
    });
    let (idle, refills) = (idle(&first), refills(&first, count));
    drop(service);
    Measured { jobs: measured, idle, refills }
}

/// The seconds from each claim to the launch that follows it, by the snapshots and the log. The pool's
/// first launches follow no claim.
fn refills(job: &Job, count: u64) -> Vec<f64> {
    let log = job.log();
    let launched = log.lines().filter(|line| line.contains("launching a warm task"));
    let at =
        |line: &str| humantime::parse_rfc3339(line.split_whitespace().next().unwrap()).unwrap();
    let mut launched: Vec<SystemTime> = launched.map(at).collect();
    let read = |path| Snapshot::parse(&fs::read_to_string(path).ok()?).ok();
    let files = job.files(".ron").into_iter().chain(job.archived());
    let claims = files.filter_map(read).filter(|snapshot| snapshot.claim().is_some());
    let mut claimed: Vec<u64> =
        claims.map(|snapshot| snapshot.journal.entries[0].at.as_millis()).collect();
    launched.sort();
    claimed.sort();
    let launched = launched.iter().skip(usize::try_from(count).unwrap());
    let after = |(launched, claimed): (&SystemTime, &u64)| {
        let claimed = SystemTime::UNIX_EPOCH + Duration::from_millis(*claimed);
        launched.duration_since(claimed).unwrap_or_default().as_secs_f64()
    };
    launched.zip(&claimed).map(after).collect()
}

/// Runs one job. Returns whether it hit the pool, and the seconds to its first line.
fn job(job: &Job) -> (bool, f64) {
    let begun = Instant::now();
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    let script = job.script("echo begun\n");
    let mut run = job.spawn(&["run", script.to_str().unwrap(), "build_script"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("begun"), "{}", job.log());
    let start = begun.elapsed().as_secs_f64();
    assert!(run.wait().unwrap().success(), "{}", job.log());
    job.cleanup_as_gitlab_runner();
    (prepared.stderr.contains("which has been warm for"), start)
}

fn status(job: &Job) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .args(["status", "--json", "--config"])
        .arg(&job.config)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The seconds that warm tasks have waited so far, by the snapshots.
fn idle(job: &Job) -> f64 {
    let files = job.files(".ron").into_iter().chain(job.archived());
    let waited = files.filter_map(|path| {
        let snapshot = Snapshot::parse(&fs::read_to_string(path).ok()?).ok()?;
        let claimed =
            snapshot.claim().map(|claim| snapshot.job.header().created.since(claim.ready));
        let waits = || Claim::of(&snapshot).map(|claim| Timestamp::now().since(claim.ready));
        claimed.or_else(waits)
    });
    waited.map(|time| time.as_secs_f64()).sum()
}

fn times(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "none".to_owned(),
        all => format!(
            "{}: median {:.3} s, least {:.3} s, most {:.3} s",
            all.len(),
            all[all.len() / 2],
            all[0],
            all[all.len() - 1]
        ),
    }
}
