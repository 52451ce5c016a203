//! Measures the time that the driver adds to a job with Fargate's times. `cargo bench --bench
//! fargate_times`.
//!
//! The local cluster, in this process, has the profile `fargate`, unscaled, as the driver's own
//! waiting does not scale. So a round takes two minutes, in which all jobs run side by side. Stages
//! are processes, as gitlab-runner starts them. The cluster's own times are subtracted: until the
//! SSH server listens or the exec agent is connected, and from ExecuteCommand to the first byte of
//! each session. `FARGATE_BENCH_JOBS` (5) says how many jobs there are by each transport. Needs
//! nothing installed. Prints medians and missed targets.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    io::{BufRead as _, BufReader},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use local_cluster::{Profile, Settings};
use serde_json::Value;

use e2e::*;

use cluster::{Cluster, Local};
use runner::Job;

/// Seconds that the driver may add before the script's first line, and from the script's end to
/// `cleanup`'s return.
const START: f64 = 0.3;
const END: f64 = 0.5;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let jobs =
        std::env::var("FARGATE_BENCH_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(5);
    let clusters = [("SSH", false), ("ECS Exec", true)].map(|(name, by_ecs_exec)| {
        let mut local = Local::here(Settings::of(Profile::Fargate, 1.0, 1));
        local.transport = if by_ecs_exec { "ecs-exec" } else { "ssh" };
        (name, Cluster::Local(local))
    });
    let mut missed = Vec::new();
    std::thread::scope(|scope| {
        let running = clusters.each_ref().map(|(name, cluster)| {
            let jobs: Vec<_> =
                (0..jobs).map(|number| scope.spawn(move || measure(cluster, number))).collect();
            (name, cluster, jobs)
        });
        for (name, cluster, jobs) in running {
            let measured: Vec<Measured> = jobs.into_iter().map(|job| job.join().unwrap()).collect();
            missed.extend(report(name, cluster, &measured));
        }
    });
    for target in &missed {
        println!("MISSED: {target}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds of one job.
struct Measured {
    /// The task's own time: until its container was reachable, and its sessions' times to begin.
    own: f64,
    /// The time to its script's first line, beyond that.
    start: f64,
    /// The time from its script's end until `cleanup` returned.
    end: f64,
}

fn measure(cluster: &Cluster, number: u64) -> Measured {
    let job = Job::on(cluster);
    // Jobs of a pipeline do not start in exactly the same moment.
    std::thread::sleep(Duration::from_millis(number * 700));
    let began = unix_seconds();
    job.prepare();
    let script = job.script("echo begun\ndate +%s.%N\n");
    let mut run = job.spawn(&["run", script.to_str().unwrap(), "build_script"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("begun"), "{}", job.log());
    let first_line = unix_seconds();
    // Until now: a stage may end its session later than the next begins.
    let task = task_of(cluster, &job);
    let ended: f64 = lines.next().unwrap().parse().unwrap();
    assert!(run.wait().unwrap().success(), "{}", job.log());
    job.cleanup_as_gitlab_runner();
    let end = unix_seconds() - ended;
    let ready = task["ready_at_ms"].as_f64().unwrap() / 1e3;
    let sessions: f64 = task["session_starts_ms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ms| ms.as_f64().unwrap() / 1e3)
        .sum();
    let own = ready - began + sessions;
    Measured { own, start: first_line - began - own, end }
}

/// Returns the job's task in the cluster, whose `startedBy` is `gitlab-<job id>-…`.
fn task_of(cluster: &Cluster, job: &Job) -> Value {
    let id = &job.environment.iter().find(|(name, _)| name == "CUSTOM_ENV_CI_JOB_ID").unwrap().1;
    let tasks = cluster.as_local().get("/_tasks");
    let is_ours = |task: &&Value| {
        task["started_by"].as_str().is_some_and(|by| by.starts_with(&format!("gitlab-{id}-")))
    };
    tasks.as_array().unwrap().iter().find(is_ours).unwrap().clone()
}

fn report(name: &str, cluster: &Cluster, measured: &[Measured]) -> Vec<String> {
    let local = cluster.as_local();
    let calls = |action| local.calls(action) as f64 / measured.len() as f64;
    let of = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = measured.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        (figures[figures.len() / 2], figures[figures.len() - 1])
    };
    let (own, start, end) = (of(|m| m.own), of(|m| m.start), of(|m| m.end));
    println!("{name}, {} jobs, median and most:", measured.len());
    println!(
        "  the task's own start, and its sessions'                     {:>6.2} s {:>6.2} s",
        own.0, own.1
    );
    println!(
        "  beyond that until the script's first line                   {:>6.2} s {:>6.2} s  (target: at most {START})",
        start.0, start.1
    );
    println!(
        "  from the script's end to cleanup's return                   {:>6.2} s {:>6.2} s  (target: at most {END})",
        end.0, end.1
    );
    println!(
        "  calls per job: {:.1} DescribeTasks, {:.1} ExecuteCommand",
        calls("DescribeTasks"),
        calls("ExecuteCommand")
    );
    let mut missed = Vec::new();
    let mut check = |what: &str, measured: f64, target: f64| {
        if measured > target {
            missed.push(format!("{name}, {what}: {measured:.2} s, at most {target}"));
        }
    };
    check("before the script's first line", start.0, START);
    check("from the script's end to cleanup's return", end.0, END);
    missed
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
