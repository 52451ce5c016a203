//! Measures what a task definition of its own costs a job, and how fast output comes from the
//! container with the job's image. `cargo bench --bench images`.
//!
//! The first needs nothing: the derived definition differs from the base in its architecture alone,
//! so the tasks are alike. The second needs root and the root file systems of
//! `scripts/root-filesystems`, else it is left out. Both references are measured in the same run,
//! in turns. Prints medians, ratios and missed targets.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use e2e::*;
use local_cluster::{Profile, Settings};
use serde_json::json;

use cluster::{Cluster, Local};
use runner::Job;

/// How often each kind of job is prepared.
const JOBS: usize = 21;
/// What a derived definition may add to `prepare`, once it is registered.
const MOST: Duration = Duration::from_millis(20);
/// The size of the streamed output, in bytes, and the least rate beside the coordinator's.
const STREAM: usize = 300_000_000;
const LEAST: f64 = 0.9;
const SETTINGS: &str = "[Images]\nAllowed = [\"*\"]\n";

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut missed = prepare();
    match local_cluster::images::available() {
        Ok(()) => missed.extend(stream()),
        Err(why) => println!("output from the job's container: not measured: {why}"),
    }
    for target in &missed {
        println!("MISSED: {target}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn prepare() -> Vec<String> {
    // Tasks take next to no time, so that their times do not differ.
    let cluster = Cluster::Local(Local::here(Settings::of(Profile::Quick, 0.01, 1)));
    let manager = Job::with(&cluster, SETTINGS);
    let derived = |job: &mut Job| job.set("CUSTOM_ENV_FARGATE_ARCHITECTURE", "X86_64");
    let (mut with, mut without, mut first) = (Vec::new(), Vec::new(), None);
    for _ in 0..JOBS {
        for is_derived in [true, false] {
            let mut job = manager.beside(&cluster);
            if is_derived {
                derived(&mut job);
            }
            let began = Instant::now();
            job.prepare();
            let took = began.elapsed();
            match (is_derived, first) {
                (true, None) => first = Some(took),
                (true, Some(_)) => with.push(took),
                (false, _) => without.push(took),
            }
            job.cleanup_as_gitlab_runner();
        }
    }
    let (with, without) = (median(with), median(without));
    let more = with.saturating_sub(without);
    println!(
        "prepare: {with:.1?} with a derived definition that exists, {without:.1?} without; {more:.1?} more, ratio {:.3} (target: at most {MOST:?} more); the first one {:.1?}",
        with.as_secs_f64() / without.as_secs_f64(),
        first.unwrap_or_default()
    );
    if more > MOST {
        vec![format!("prepare with a derived definition: {more:.1?} more")]
    } else {
        vec![]
    }
}

fn stream() -> Vec<String> {
    let mut missed = Vec::new();
    for transport in ["ssh", "ecs-exec"] {
        let cluster = Cluster::local_with_images(&fargate_driver::local::images(), transport);
        let registered = cluster.ecs(
            "RegisterTaskDefinition",
            &json!({
                "family": "image-base", "networkMode": "awsvpc", "cpu": "1024", "memory": "2048",
                "requiresCompatibilities": ["FARGATE"],
                "containerDefinitions": [
                    { "name": "ci-coordinator", "image": "coordinator", "essential": true },
                ],
            }),
        );
        assert!(registered["taskDefinition"].is_object(), "{registered}");
        let mut job = Job::with(&cluster, SETTINGS);
        job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "image-base");
        job.wishes = json!({ "image": { "name": "debian" } });
        job.prepare();
        let script = format!("head -c {STREAM} /dev/zero");
        let rate = |stage: &str| {
            let began = Instant::now();
            let run = job.run(stage, &script);
            assert_eq!((run.code, run.stdout.len()), (0, STREAM), "{}", job.log());
            began.elapsed()
        };
        let (mut of_job, mut of_coordinator) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            of_job.push(rate("build_script"));
            of_coordinator.push(rate("get_sources"));
        }
        let (of_job, of_coordinator) = (median(of_job), median(of_coordinator));
        let ratio = of_coordinator.as_secs_f64() / of_job.as_secs_f64();
        println!(
            "{} MB over {transport}: {of_job:.2?} from the job's container, {of_coordinator:.2?} from the coordinator; rate {ratio:.2} of it (target: at least {LEAST})",
            STREAM / 1_000_000
        );
        if ratio < LEAST {
            missed.push(format!("rate over {transport}: {ratio:.2}"));
        }
        job.cleanup();
    }
    missed
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
