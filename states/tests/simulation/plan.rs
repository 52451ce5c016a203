//! The plan of a job, drawn from its seed: its scripts, the faults, and what gitlab-runner and
//! people do.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::world::fault_plan::{End, FaultPlan, Odds, TaskPlan};

/// A script and the calls of its stage.
#[derive(Debug, Clone)]
pub struct Stage {
    pub name: &'static str,
    pub script: Bytes,
    pub call: Call,
    /// How often gitlab-runner tries it (`GET_SOURCES_ATTEMPTS` …).
    pub attempts: u32,
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    /// It is killed at this step; 0: never.
    pub killed_at: u32,
    /// It gets SIGTERM after this time, and later SIGKILL if it still runs.
    pub cancelled_after: Option<Duration>,
}

/// A call of `cleanup`.
#[derive(Debug, Clone, Copy)]
pub struct Cleanup {
    pub call: Call,
    /// The number of further calls at the same time.
    pub beside: u32,
}

/// A whole job.
#[derive(Debug)]
pub struct Plan {
    pub faults: FaultPlan,
    /// The service's process that launches a warm task, if there is one, and how long after that the
    /// job begins.
    pub warm: Option<(Call, Duration)>,
    pub prepares: Vec<Call>,
    /// Whether gitlab-runner calls `cleanup` between two attempts to prepare.
    pub cleans_between: bool,
    pub stages: Vec<Stage>,
    /// The stage during which an operator calls `cleanup`, and how long after its beginning.
    pub cleanup_beside: Option<(usize, Duration)>,
    pub cleanups: Vec<Cleanup>,
    /// Whether `reap` runs before the last `cleanup`.
    pub reaped: bool,
    /// Whether every `cleanup` waits for the task's end, as people's do.
    pub waits: bool,
    /// The step at which another job's stage is killed, which runs after each `cleanup`; 0: there
    /// is none.
    pub looked_at: u32,
    /// Whether every stage must end with its script's own exit status, in spite of the faults.
    pub must_succeed: bool,
}

/// The stages' names, and whether gitlab-runner repeats them.
const NAMES: [(&str, bool); 5] = [
    ("get_sources", true),
    ("restore_cache", true),
    ("download_artifacts", true),
    ("build_script", false),
    ("after_script", false),
];

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let r = &mut random;
        // A tenth of the jobs has no faults. The others have a few each, so that each fault also
        // happens alone.
        let badness: f64 =
            [0.0, 0.05, 0.05, 0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.5][r.random_range(0..10)];
        let (faults, mut must_succeed) = fault_plan(r, badness);
        let happens = |r: &mut StdRng| r.random_bool(badness);
        let call = |r: &mut StdRng, longest: u32| Call {
            killed_at: if happens(r) { log_uniform(r, longest) } else { 0 },
            cancelled_after: (r.random_bool(badness / 4.0)).then(|| millis(r, 0..20_000)),
        };
        let prepares: Vec<Call> = (0..3).map(|_| call(r, 300)).collect();
        let names: Vec<_> = NAMES
            .iter()
            .filter(|(name, _)| *name == "build_script" || r.random_bool(0.4))
            .collect();
        let stages: Vec<Stage> = names
            .into_iter()
            .map(|(name, repeated)| Stage {
                name,
                script: script(r),
                call: call(r, 120),
                attempts: if *repeated { r.random_range(1..4) } else { 1 },
            })
            .collect();
        let cleanup_beside = r
            .random_bool(badness / 4.0)
            .then(|| (r.random_range(0..stages.len()), millis(r, 0..8000)));
        let cleanups = (0..if happens(r) { 3 } else { 1 })
            .map(|_| Cleanup {
                call: call(r, 60),
                beside: if happens(r) { r.random_range(1..3) } else { 0 },
            })
            .collect();
        let (cleans_between, reaped) = (r.random_bool(0.5), happens(r));
        let (waits, looked_at) =
            (r.random_bool(0.25), if r.random_bool(0.5) { log_uniform(r, 40) } else { 0 });
        let warm = r.random_bool(0.25).then(|| (call(r, 200), millis(r, 0..60_000)));
        let killed = prepares
            .iter()
            .chain(warm.as_ref().map(|(call, _)| call))
            .chain(stages.iter().map(|stage| &stage.call))
            .any(|call| call.killed_at > 0 || call.cancelled_after.is_some());
        must_succeed &= !killed && cleanup_beside.is_none();
        Self {
            faults,
            warm,
            prepares,
            cleans_between,
            stages,
            cleanup_beside,
            cleanups,
            reaped,
            waits,
            looked_at,
            must_succeed,
        }
    }
}

/// The faults, and whether a job must succeed in spite of them.
fn fault_plan(r: &mut StdRng, badness: f64) -> (FaultPlan, bool) {
    let mut faults = FaultPlan::new(r.next_u64());
    let mut must_succeed = true;
    let mut share = |r: &mut StdRng, most: f64, survivable: f64| {
        let share = if r.random_bool(badness) { r.random_range(0.0..most) } else { 0.0 };
        must_succeed &= share <= survivable;
        share
    };
    faults.odds = Odds {
        throttled: share(r, 0.7, 0.2),
        lost_call: share(r, 0.7, 0.2),
        lost_answer: share(r, 0.7, 0.2),
        garbled_answer: share(r, 0.3, 0.2),
        late_effect: share(r, 0.7, 0.2),
        no_capacity: share(r, 0.9, 0.2),
        account_limit: share(r, 0.9, 0.2),
        launch_conflict: share(r, 1.0, 0.5),
        launch_denied: share(r, 0.3, 0.0),
        unconnected: share(r, 0.8, 0.2),
        cut: share(r, 1.0, 0.5),
        frozen: share(r, 0.5, 0.0),
        not_started: share(r, 0.5, 0.0),
        no_status: share(r, 0.5, 0.0),
        unsaved: share(r, 0.1, 0.0),
        saved_yet_failed: share(r, 0.1, 0.0),
        unmarked: share(r, 0.5, 0.5),
        unarchived: share(r, 0.5, 0.5),
    };
    let window = |r: &mut StdRng, longest: u64| {
        if r.random_bool(badness / 2.0) {
            range(r, 40_000, longest)
        } else {
            Duration::ZERO..Duration::ZERO
        }
    };
    faults.api_down = window(r, 90_000);
    faults.credentials_expired = window(r, 90_000);
    faults.network_down = window(r, 60_000);
    for window in [&faults.api_down, &faults.credentials_expired, &faults.network_down] {
        must_succeed &= window.end - window.start < Duration::from_secs(15);
    }
    faults.task_plans = (0..2).map(|_| task_plan(r, badness)).collect();
    must_succeed &= faults.task_plans.iter().all(is_survivable);
    (faults, must_succeed)
}

fn task_plan(r: &mut StdRng, badness: f64) -> TaskPlan {
    let runs_after = millis(r, 500..15_000);
    // A container may answer before ECS reports RUNNING, or after.
    let listens_after =
        (runs_after + millis(r, 0..3000)).saturating_sub(Duration::from_millis(1500));
    let now_and_then = |r: &mut StdRng| r.random_bool(badness / 4.0);
    let some_time = |r: &mut StdRng| millis(r, 0..40_000);
    TaskPlan {
        invisible: millis(r, 0..5000),
        runs_after: (!now_and_then(r)).then_some(runs_after),
        listens_after: (!now_and_then(r)).then_some(listens_after),
        key_after: if now_and_then(r) { millis(r, 0..10_000) } else { Duration::ZERO },
        ends: now_and_then(r).then(|| (some_time(r), End::ALL[r.random_range(0..End::ALL.len())])),
        hidden: if now_and_then(r) {
            range(r, 40_000, 8000)
        } else {
            Duration::ZERO..Duration::ZERO
        },
        identity_changes: now_and_then(r).then(|| some_time(r)),
        files_lost: now_and_then(r).then(|| some_time(r)),
        agent_after: None,
        answers_in: if now_and_then(r) { millis(r, 0..2000) } else { Duration::ZERO },
    }
}

fn is_survivable(plan: &TaskPlan) -> bool {
    let well = plan.runs_after.is_some() && plan.listens_after.is_some();
    well && plan.ends.is_none() && plan.identity_changes.is_none() && plan.files_lost.is_none()
}

/// A script that differs from all others.
fn script(r: &mut StdRng) -> Bytes {
    let (lines, pace) = (r.random_range(0..12), [20, 200, 1000, 2500][r.random_range(0..4)]);
    let code = if r.random_bool(0.7) { 0 } else { r.random_range(1..255) };
    let deaf = u8::from(r.random_bool(0.3));
    let nonce: u64 = r.next_u64();
    let mut text = format!("#! {pace} {code} {deaf}\n");
    for line in 0..lines {
        text.push_str(&format!("{nonce:x} line {line}\n"));
    }
    if lines == 0 {
        // It writes no output, and differs only in its first line.
        let nonce = nonce as u32;
        text = format!("#! {} {code} {deaf} {nonce}\n", 20 + nonce % 1_000_000 / 1000);
    }
    text.into()
}

fn millis(r: &mut StdRng, range: Range<u64>) -> Duration {
    Duration::from_millis(r.random_range(range))
}

fn range(r: &mut StdRng, latest: u64, longest: u64) -> Range<Duration> {
    let from = millis(r, 0..latest);
    from..from + millis(r, 1..longest)
}

/// Draws from a log-uniform distribution: as often below ten as between ten and a hundred.
fn log_uniform(r: &mut StdRng, most: u32) -> u32 {
    let exponent = r.random_range(0.0..f64::from(most).ln());
    (exponent.exp() as u32).max(1)
}
