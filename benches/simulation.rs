//! Measures calls to ECS, and memory, of one engine with a thousand simulated jobs on paused time.
//! `cargo bench --bench simulation`.
//!
//! The reference is an engine per job, like a process per stage: calls are not shared.

#![allow(unreachable_pub, dead_code, reason = "modules of the tests of `states`")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

#[path = "../states/tests/world/mod.rs"]
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use states::{Goal, JobId, Outcome, SnapshotStore as _};

use world::{
    fault_plan::RUNNING_AFTER,
    manager::{Manager, Process, header},
};

const JOBS: usize = 1000;
/// A tick: the longest interval at which a waiting task is described.
const TICK: Duration = Duration::from_secs(3);

fn main() {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let shared = measure(true);
    let alone = measure(false);
    println!(
        "{JOBS} jobs from nothing to Reachable, tasks RUNNING after {} s:",
        RUNNING_AFTER.as_secs()
    );
    for (name, measured) in [("one engine", &shared), ("reference: an engine per job", &alone)] {
        println!(
            "  {name}: {} DescribeTasks calls for {} descriptions, {:.1} calls per tick of {} s, {:.0} ms of real time",
            measured.calls,
            measured.described,
            measured.calls as f64 / measured.ticks,
            TICK.as_secs(),
            measured.spent.as_secs_f64() * 1000.0
        );
    }
    println!("  ratio of calls: {:.3}", shared.calls as f64 / alone.calls as f64);
    println!(
        "  resident memory per waiting job in one engine: {:.1} KiB",
        shared.memory as f64 / JOBS as f64 / 1024.0
    );
}

struct Measured {
    calls: usize,
    described: usize,
    ticks: f64,
    spent: Duration,
    /// Bytes, of all jobs, while they wait.
    memory: u64,
}

fn measure(shared: bool) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let manager = Manager::new(Arc::default());
        let engine = Arc::new(manager.process());
        let (start, real) = (tokio::time::Instant::now(), Instant::now());
        let before = resident();
        let mut jobs = tokio::task::JoinSet::new();
        for n in 0..JOBS {
            let engine = if shared { Arc::clone(&engine) } else { Arc::new(manager.process()) };
            jobs.spawn(prepare(manager.clone(), engine, n));
        }
        tokio::time::sleep(RUNNING_AFTER / 2).await;
        let memory = resident().saturating_sub(before);
        for outcome in jobs.join_all().await {
            assert_eq!(outcome, Outcome::Reachable(None));
        }
        let ticks = start.elapsed().as_secs_f64() / TICK.as_secs_f64();
        let state = manager.cloud.state.lock().unwrap();
        assert!(state.described.iter().all(|tasks| *tasks <= 100));
        Measured {
            calls: state.described.len(),
            described: state.described.iter().sum(),
            ticks,
            spent: real.elapsed(),
            memory,
        }
    })
}

async fn prepare(manager: Manager, engine: Arc<Process>, n: usize) -> Outcome {
    // A manager does not get all jobs in the same moment.
    tokio::time::sleep(Duration::from_millis(n as u64 * 3)).await;
    let job = JobId::new(format!("job-{n}")).unwrap();
    let lease = engine.store().lease(&job, "bench", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&job), lease);
    engine.open(&mut work, "prepare").await;
    engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap()
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
