//! The simulation: thousands of whole jobs with random faults, on paused time, each from a seed.
//! The machine and the engine run against a world in memory. It throttles and loses calls, cuts and
//! freezes connections, kills processes, fills the disk and cancels.
//!
//! `SIM_JOBS=100000 cargo test -p fargate-states --test simulation` runs that many jobs.
//! `SIM_SEED=1234` runs one and prints it.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod check;
mod plan;
mod runner;
mod stages;
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "the engine's tests use more of it")]
mod world;

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use plan::Plan;
use runner::Job;
use world::{cloud::Cloud, fault_plan::Fault, manager::Manager};

/// Jobs of a plain `cargo test`.
const JOBS: u64 = 3000;
/// Failures that are printed in full.
const REPORTED: usize = 5;

/// Runs one job from its seed to its end, and calls `look` there: its clock belongs to its runtime.
fn simulate<R>(seed: u64, look: impl FnOnce(&Job) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut plan = Plan::new(seed);
        let faults = std::mem::replace(&mut plan.faults, world::fault_plan::FaultPlan::new(0));
        let mut job = Job::new(Manager::new(Cloud::new(faults)), plan);
        job.run().await;
        look(&job)
    })
}

/// Returns the failures of this seed's job. A panic is one, too.
fn failures_of(seed: u64, look: impl FnOnce(&Job)) -> Vec<String> {
    let text_of = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .map_or_else(|| "a panic".to_owned(), |text| (*text).to_owned()),
    };
    let check = |job: &Job| {
        look(job);
        check::wrong(job)
    };
    catch_unwind(AssertUnwindSafe(|| simulate(seed, check)))
        .unwrap_or_else(|panic| vec![format!("it panicked: {}", text_of(panic))])
}

#[derive(Default)]
struct Counted {
    jobs: u64,
    simulated: std::time::Duration,
    outcomes: BTreeMap<&'static str, u64>,
    /// Jobs with this fault.
    injected: BTreeMap<Fault, u64>,
    must_succeed: u64,
    /// Jobs that claimed a warm task, and those of them that could not use it.
    claimed: u64,
    given_up: u64,
    calls: u64,
    executions: u64,
    failures: BTreeMap<u64, Vec<String>>,
}

impl Counted {
    fn count(&mut self, job: &Job) {
        let state = job.manager.cloud.state.lock().unwrap();
        *self.outcomes.entry(check::outcome(job)).or_default() += 1;
        for fault in state.faults.injected.keys() {
            *self.injected.entry(*fault).or_default() += 1;
        }
        self.must_succeed += u64::from(job.plan.must_succeed);
        let archived = job.manager.disk.store.archived();
        let mut claiming = archived.iter().filter(|of| of.claim().is_some()).peekable();
        self.claimed += u64::from(claiming.peek().is_some());
        self.given_up += u64::from(claiming.any(check::is_given_up));
        self.calls += u64::from(state.calls);
        self.executions += state.executions.len() as u64;
        self.simulated += job.called.iter().map(|called| called.took).sum();
    }

    fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.simulated += other.simulated;
        self.must_succeed += other.must_succeed;
        self.claimed += other.claimed;
        self.given_up += other.given_up;
        self.calls += other.calls;
        self.executions += other.executions;
        other
            .outcomes
            .into_iter()
            .for_each(|(outcome, n)| *self.outcomes.entry(outcome).or_default() += n);
        other
            .injected
            .into_iter()
            .for_each(|(fault, n)| *self.injected.entry(fault).or_default() += n);
        self.failures.extend(other.failures);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn no_fault_loses_a_task_or_an_outcome() {
    if let Some(seed) = number("SIM_SEED") {
        return print_job(seed);
    }
    let jobs = number("SIM_JOBS").unwrap_or(JOBS);
    let (next, all) = (AtomicU64::new(0), Mutex::new(Counted::default()));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let mut mine = Counted::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= jobs {
                        break;
                    }
                    let wrong = failures_of(seed, |job| mine.count(job));
                    mine.jobs += 1;
                    if !wrong.is_empty() {
                        mine.failures.insert(seed, wrong);
                    }
                }
                all.lock().unwrap().add(mine);
            });
        }
    });
    let counted = all.into_inner().unwrap();
    report(&counted, began.elapsed());
    for (seed, wrong) in counted.failures.iter().take(REPORTED) {
        eprintln!(
            "seed {seed}:\n  {}\n  SIM_SEED={seed} cargo test -p fargate-states --test simulation -- --nocapture",
            wrong.join("\n  ")
        );
    }
    assert!(
        counted.failures.is_empty(),
        "{} of {} jobs ended wrong",
        counted.failures.len(),
        counted.jobs
    );
    let never: Vec<&Fault> =
        Fault::ALL.iter().filter(|fault| !counted.injected.contains_key(fault)).collect();
    assert!(jobs < JOBS || never.is_empty(), "never injected in {jobs} jobs: {never:?}");
    let few = [counted.claimed, counted.given_up].contains(&0);
    assert!(jobs < JOBS || !few, "no warm task was claimed, or none given up, in {jobs} jobs");
}

fn report(counted: &Counted, took: std::time::Duration) {
    let each = counted.jobs as f64 / took.as_secs_f64();
    println!("{} jobs in {:.1} s: {each:.0} jobs/s", counted.jobs, took.as_secs_f64());
    println!(
        "  {:.0} simulated hours, {} calls to ECS, {} scripts started, {} jobs that had to succeed or fail by their scripts",
        counted.simulated.as_secs_f64() / 3600.0,
        counted.calls,
        counted.executions,
        counted.must_succeed
    );
    println!(
        "  {} jobs claimed a warm task, and {} of them could not use it",
        counted.claimed, counted.given_up
    );
    for (outcome, n) in &counted.outcomes {
        println!("  {n:>8} {outcome}");
    }
    println!("  jobs with a fault:");
    for (fault, n) in &counted.injected {
        println!("  {n:>8} {fault:?}");
    }
}

/// Prints one job.
fn print_job(seed: u64) {
    let wrong = failures_of(seed, |job| println!("{:#?}\n{}", job.plan, check::record(job)));
    assert!(wrong.is_empty(), "seed {seed}:\n  {}", wrong.join("\n  "));
}

/// The same seed gives the same journal, on any thread and after any other jobs.
#[test]
fn a_seed_repeats_exactly() {
    let record = |seed| catch_unwind(|| simulate(seed, check::record)).unwrap_or_default();
    let seeds = 0..200;
    let here: Vec<String> = seeds.clone().map(record).collect();
    let there = thread::spawn(move || seeds.rev().map(record).collect::<Vec<_>>()).join().unwrap();
    for (seed, (here, there)) in here.iter().zip(there.iter().rev()).enumerate() {
        assert!(here == there, "seed {seed} ran differently:\n{here}\n\n{there}");
    }
}
