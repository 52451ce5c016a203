//! The machine: `(state, observation, now) → (state, next action)`. It does no I/O and reads no
//! clock.
//!
//! Each state has a file with two functions. `observe` consumes the state and returns a [`Step`],
//! whose type admits only the edges of the table in `docs/architecture.md`. `plan` returns what to
//! do next, and marks in the state what the world may remember of it. Saving the state before the
//! action is performed is therefore writing ahead.

mod executing;
mod pending;
mod probing;
mod provisioning;
mod reachable;
mod running;
mod searching;
mod stopping;

use std::time::Duration;

use crate::{
    Action, AnyJob, Job, Observation, Obstacle, Pace, StateName, StopReason, Timestamp, job, pace,
};

pub use reachable::run_id;

/// The pace of DescribeTasks for a task that cannot run yet. On Fargate no task runs within some 20
/// s, and all jobs of the account share the rate of DescribeTasks.
const START: Pace =
    Pace { first: Duration::from_secs(1), longest: Duration::from_secs(3), growth: 120 };
/// The same once the container is probed at its address. Probes find it; DescribeTasks only shows
/// whether the task ends.
const PROBED: Pace = Pace { longest: Duration::from_secs(5), ..START };
/// The pace of DescribeTasks while a running task's exec agent starts, which takes some seconds.
const AGENT: Pace =
    Pace { first: Duration::from_millis(500), longest: Duration::from_secs(3), growth: 105 };
/// The pace of DescribeTasks for a task that is expected to change soon.
const DESCRIBE: Pace =
    Pace { first: Duration::from_millis(300), longest: Duration::from_secs(3), growth: 130 };
/// The pace of calls after failures. It grows quickly, because of throttling.
const RETRY: Pace =
    Pace { first: Duration::from_millis(700), longest: Duration::from_secs(30), growth: 200 };
/// The pace of probes while a container starts. Each one costs only a SYN.
const PROBE: Pace =
    Pace { first: Duration::from_millis(60), longest: Duration::from_millis(150), growth: 120 };
/// The same where each probe is an API call, and the exec agent connects within seconds.
const PROBE_BY_API: Pace =
    Pace { first: Duration::from_millis(200), longest: Duration::from_secs(3), growth: 102 };
/// The same where a probe cannot succeed yet, or where the API itself fails. It only finds out why.
const PROBE_RARELY: Pace =
    Pace { first: Duration::from_secs(1), longest: Duration::from_secs(3), growth: 150 };
/// The pace of attempts to reconnect.
const RECONNECT: Pace =
    Pace { first: Duration::from_millis(200), longest: Duration::from_secs(5), growth: 170 };
/// How long DescribeTasks may report MISSING for a task that RunTask has just returned.
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
/// How long a task that was described before may be MISSING until the driver believes that it is
/// gone.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How long ECS may take to report why a task ends, once it has reported that it does.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(5);
/// How long a container may refuse the driver's key or a first command: its entry point may start
/// sshd before it has done the rest.
const KEY_INSTALLED_WITHIN: Duration = Duration::from_secs(20);
/// After how many refusals in a row to describe a task the driver believes them, if they look
/// permanent.
const BELIEVED_REFUSALS: u32 = 3;

/// A state, with its edge in the table of edges.
pub trait State: Sized {
    /// The only state, besides `Stopping`, that may follow this one.
    type Next;
    /// The state's name.
    const NAME: StateName;
}

/// What follows a state.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is taken apart as soon as it is made")]
pub enum Step<S: State> {
    /// The same state, perhaps with other data.
    Stay(Job<S>),
    /// The edge to the next state.
    Next(Job<S::Next>),
    /// The edge to `Stopping`, which every state has.
    Stop(Job<job::Stopping>),
}

impl<S> Job<S> {
    /// The seed of the job's jitter. It is fixed, so a replay waits as the job did.
    fn seed(&self) -> u64 {
        pace::seed(self.header.id.as_str())
    }
}

macro_rules! edges {
    ($($from:ident => $next:ident),* $(,)?) => {$(
        impl State for job::$from {
            type Next = job::$next;
            const NAME: StateName = StateName::$from;
        }
        impl From<Step<job::$from>> for AnyJob {
            fn from(step: Step<job::$from>) -> Self {
                match step {
                    Step::Stay(job) => job.into(),
                    Step::Next(job) => job.into(),
                    Step::Stop(job) => job.into(),
                }
            }
        }
    )*};
}
edges! {
    Provisioning => Pending,
    Pending => Running,
    Running => Reachable,
    Reachable => Executing,
    Executing => Reachable,
    Stopping => Stopping,
}

impl AnyJob {
    /// The job's state after `saw` was observed at `now`.
    #[must_use]
    pub fn observe(self, saw: &Observation, now: Timestamp) -> Self {
        match self {
            Self::Provisioning(job) => match (saw, job.state.asked) {
                // The one edge that skips states: another process went through them.
                (Observation::Claimed(claim), None) => job.claimed(claim, now).into(),
                _ => job.observe(saw, now).into(),
            },
            Self::Pending(job) => job.observe(saw, now).into(),
            Self::Running(job) => job.observe(saw, now).into(),
            Self::Reachable(job) => job.observe(saw, now).into(),
            Self::Executing(job) => job.observe(saw, now).into(),
            Self::Stopping(job) => job.observe(saw, now).into(),
        }
    }

    /// Returns what to do next, and marks in the state what the world may remember of it.
    pub fn plan(&mut self, now: Timestamp) -> Action {
        match self {
            Self::Provisioning(job) => job.plan(now),
            Self::Pending(job) => job.plan(),
            Self::Running(job) => job.plan(),
            Self::Reachable(_) => Action::Await,
            Self::Executing(job) => job.plan(now),
            Self::Stopping(job) => job.plan(now),
        }
    }
}

impl<S: State> Job<S> {
    /// The reason for ending a state that lasted too long.
    fn too_long(&self, limit: Duration, last: Obstacle) -> StopReason {
        StopReason::Deadline { state: S::NAME, limit, last }
    }
}
