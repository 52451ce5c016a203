//! The rules that every job must keep, with any faults.

use std::{collections::BTreeMap, time::Duration};

use states::*;

use super::{
    runner::{Job, is_over},
    stages::Verdict,
};
use crate::world::fault_plan::Fault::{self, *};

/// The table of edges, as in `docs/architecture.md`, besides the edge to `Stopping` that every
/// state has.
const EDGES: [(StateName, StateName); 6] = {
    use StateName::{Executing, Pending, Provisioning, Reachable, Running};
    [
        (Provisioning, Pending),
        (Provisioning, Reachable),
        (Pending, Running),
        (Running, Reachable),
        (Reachable, Executing),
        (Executing, Reachable),
    ]
};

/// The longest time of a stage: a script of half a minute, with connections lost for 40 s
/// repeatedly.
const LONGEST_STAGE: Duration = Duration::from_secs(15 * 60);

/// Returns the rules that a finished job broke.
pub fn wrong(job: &Job) -> Vec<String> {
    let mut wrong = job.wrong.clone();
    let manager = &job.manager;
    let alive = manager.cloud.alive();
    if !alive.is_empty() {
        wrong.push(format!("leaked: {alive:?}"));
    }
    if !manager.disk.store.jobs().is_empty() {
        wrong.push("a snapshot was left".to_owned());
    }
    let state = manager.cloud.state.lock().unwrap();
    wrong.extend(state.violations.iter().cloned());
    for snapshot in manager.disk.store.archived().iter() {
        wrong.extend(journal(snapshot));
    }
    if !state.tasks.is_empty() && manager.disk.store.archived().is_empty() {
        wrong.push("a task was launched, and nothing is in the archive".to_owned());
    }
    let mut took = Duration::ZERO;
    for called in &job.called {
        took += called.took;
        if called.took > LONGEST_STAGE {
            wrong.push(format!("{} took {:?}", called.stage, called.took));
        }
        let causes = causes(called.stage, &called.verdict);
        if let Some(causes) = causes
            && !state.faults.has_injected(&causes)
        {
            wrong.push(format!(
                "{} returned {:?}, and none of {causes:?} was injected",
                called.stage, called.verdict
            ));
        }
        let ours = matches!(called.verdict, Verdict::Success | Verdict::Exit(_))
            || is_over(&called.verdict)
            || matches!(called.stage, "cleanup" | "look" | "retire");
        if job.plan.must_succeed && !ours {
            wrong.push(format!(
                "{} returned {:?} although its faults should not have failed it",
                called.stage, called.verdict
            ));
        }
    }
    // A process makes some calls at once in its beginning, and then at most one every three
    // seconds.
    let bound = 25 * job.called.len() as u64 + took.as_secs();
    if u64::from(state.calls) > bound {
        wrong.push(format!(
            "{} calls to ECS in {took:?} of {} processes",
            state.calls,
            job.called.len()
        ));
    }
    wrong
}

/// Checks that the journal leads to the job's last state.
fn journal(snapshot: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    let header = snapshot.job.header();
    if !matches!(snapshot.job, AnyJob::Stopping(_)) {
        wrong.push(format!("archived in {}", snapshot.job.name()));
    }
    if snapshot.journal.omitted > 0 {
        return wrong;
    }
    let mut job = Snapshot::new(header.clone()).job;
    for (at, saw) in snapshot.journal.unfold() {
        let before = job.name();
        job = job.observe(&saw, at);
        job.plan(at);
        let edge = (before, job.name());
        if edge.0 != edge.1 && edge.1 != StateName::Stopping && !EDGES.contains(&edge) {
            wrong.push(format!("the edge {edge:?} was taken on {saw:?}"));
        }
    }
    if job != snapshot.job {
        wrong.push(format!("the journal replays to {job:?} instead of {:?}", snapshot.job));
    }
    wrong
}

const CALLS: [Fault; 7] =
    [Throttled, LostCall, LostAnswer, LateEffect, GarbledAnswer, ApiDown, CredentialsExpired];
const ENDS: [Fault; 5] =
    [OutOfMemory, SpotInterruption, HostRetired, StoppedBySomebody, ImageMissing];
const LINKS: [Fault; 5] = [Unconnected, ConnectionCut, ConnectionFrozen, NetworkDown, LateEffect];

/// The faults that may lead to this verdict; `None`: it needs none.
fn causes(stage: &str, verdict: &Verdict) -> Option<Vec<Fault>> {
    let with = |faults: &[Fault], more: &[Fault]| Some([faults, more].concat());
    match verdict {
        // Compared with the script itself.
        Verdict::Success | Verdict::Exit(_) => None,
        Verdict::NoJob if matches!(stage, "cleanup" | "reap" | "retire") => None,
        Verdict::NoJob => Some(vec![CleanupBesideStage]),
        Verdict::Killed => Some(vec![ProcessKilled]),
        Verdict::Cancelled => Some(vec![Cancelled]),
        Verdict::Busy => Some(vec![CleanupsAtOnce, CleanupBesideStage]),
        Verdict::Disk(_) => Some(vec![Unsaved, SavedYetFailed, Unarchived]),
        Verdict::Lost => Some(vec![NotStarted, NoStatus, Cancelled]),
        Verdict::Unfinished => with(&CALLS, &[HiddenTask]),
        Verdict::NotReady(_) | Verdict::Impossible(_) => Some(vec![]),
        Verdict::MustEnd(reason) => match reason {
            StopReason::Cleanup => Some(vec![CleanupBesideStage]),
            // The run of a killed process is ended before another stage begins. If it does not end,
            // the task is stopped.
            StopReason::Cancelled => Some(vec![Cancelled, ProcessKilled]),
            StopReason::Asked(_) => Some(vec![PrepareRepeated]),
            // A job whose warm task does not answer launches its own.
            StopReason::Retired(_) => Some(vec![]),
            StopReason::LaunchRefused(error) if error.kind == ControlErrorKind::Conflict => {
                Some(vec![LaunchConflict])
            }
            StopReason::LaunchRefused(error) if !error.kind.is_transient() => {
                Some(vec![LaunchDenied])
            }
            StopReason::LaunchRefused(_) => with(&CALLS, &[NoCapacity, AccountLimit]),
            StopReason::ControlFailed(_) => Some(vec![]),
            StopReason::TaskStopped { .. } => with(&ENDS, &[LateEffect]),
            StopReason::TaskVanished => Some(vec![TaskForgotten]),
            StopReason::Deadline { state: StateName::Provisioning, .. } => {
                with(&CALLS, &[NoCapacity, AccountLimit, LaunchConflict, ProcessKilled])
            }
            StopReason::Deadline { state: StateName::Pending, .. } => {
                with(&CALLS, &[NeverRuns, HiddenTask, TaskForgotten, ProcessKilled])
            }
            StopReason::Deadline { state: StateName::Executing, .. } => with(&LINKS, &CALLS),
            StopReason::Deadline { .. } => with(&LINKS, &[NeverListens, KeyLate, ProcessKilled]),
            StopReason::Unusable(error) if error.kind == ConnectErrorKind::IdentityChanged => {
                Some(vec![IdentityChanged])
            }
            StopReason::Unusable(_) => with(&LINKS, &CALLS),
            StopReason::RunAbandoned(_) => with(&LINKS, &[FilesLost]),
        },
    }
}

/// A job's outcome, to be counted.
pub fn outcome(job: &Job) -> &'static str {
    let last = job
        .called
        .iter()
        .rev()
        .find(|called| !matches!(called.stage, "cleanup" | "reap" | "look" | "retire"));
    match last.map(|called| &called.verdict) {
        Some(Verdict::Success) => "every script succeeded",
        Some(Verdict::Exit(_)) => "a script failed, by its own status",
        Some(Verdict::Cancelled) => "cancelled",
        Some(Verdict::Killed) => "killed for good",
        Some(Verdict::MustEnd(StopReason::TaskStopped { .. } | StopReason::TaskVanished)) => {
            "system failure: the task died"
        }
        Some(Verdict::MustEnd(StopReason::LaunchRefused(_))) => "system failure: not launched",
        Some(Verdict::MustEnd(StopReason::Deadline { state, .. }))
            if *state != StateName::Executing =>
        {
            "system failure: a deadline"
        }
        Some(Verdict::MustEnd(_) | Verdict::Lost) => {
            "system failure: the container or the run was lost"
        }
        Some(Verdict::Disk(_)) => "system failure: the disk refused",
        Some(_) => "system failure: others",
        None => "nothing was called",
    }
}

/// Whether this attempt of a job claimed a warm task that it could not use.
pub fn is_given_up(attempt: &Snapshot) -> bool {
    let unusable = StopReason::Retired(Retirement::Unusable);
    matches!(&attempt.job, AnyJob::Stopping(job) if job.state.reason == unusable)
}

/// All data of a job that another run of its seed must repeat.
pub fn record(job: &Job) -> String {
    let state = job.manager.cloud.state.lock().unwrap();
    let archived: Vec<String> = job
        .manager
        .disk
        .store
        .archived()
        .iter()
        .map(|snapshot| snapshot.to_ron().unwrap())
        .collect();
    let injected: BTreeMap<_, _> = state.faults.injected.clone();
    let tasks: Vec<_> = state
        .tasks
        .iter()
        .map(|(arn, task)| (arn, task.launched.elapsed(), task.stopped.map(|at| at.elapsed())))
        .collect();
    format!(
        "{:#?}\nat the end, tasks and how long ago they were launched and stopped: {tasks:?}\nmet: {injected:?}\ncalls: {}\n{}",
        job.called,
        state.calls,
        archived.join("\n")
    )
}
