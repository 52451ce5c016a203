//! Measures a stage of an empty script with the manager's service and without, in one run. `cargo
//! bench --bench service`.
//!
//! Needs OpenSSH and moto: `scripts/test` installs them; `FARGATE_TEST_PYTHON` names the Python
//! that has moto. Prints medians, the ratio and a missed target.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use e2e::*;

use cluster::Cluster;
use runner::Job;
use serve::Service;

/// Stages of each kind.
const STAGES: usize = 41;
/// The target: a stage through the service.
const TARGET: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut missed = false;
    for (name, cluster) in [
        ("SSH with OpenSSH's server", Cluster::moto()),
        ("ECS Exec on the local cluster", Cluster::local_by_ecs_exec()),
    ] {
        let job = Job::on(&cluster);
        job.prepare();
        let without = stages(&job);
        let service = Service::start(&job);
        // Its first stage connects.
        stage(&job);
        let with = stages(&job);
        drop(service);
        job.cleanup();
        println!(
            "{name}: a stage of an empty script takes {with:.1?} with the service and {without:.1?} without; ratio {:.2} (target: at most {TARGET:?})",
            with.as_secs_f64() / without.as_secs_f64()
        );
        missed |= with > TARGET;
    }
    if missed {
        println!("MISSED: a stage through the service takes longer than {TARGET:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns the median time of a stage.
fn stages(job: &Job) -> Duration {
    let mut times: Vec<Duration> = (0..STAGES).map(|_| stage(job)).collect();
    times.sort();
    times[STAGES / 2]
}

fn stage(job: &Job) -> Duration {
    static STAGES: AtomicU32 = AtomicU32::new(0);
    // A stage that repeats a successful one does nothing.
    let number = STAGES.fetch_add(1, Ordering::Relaxed);
    let script = job.script(format!("true # {number}\n")).display().to_string();
    let begun = Instant::now();
    let ended = job.stage(&["run", &script, "get_sources"]);
    let took = begun.elapsed();
    assert_eq!(ended.code, 0, "{ended:#?}\n{}", job.log());
    took
}
