//! The machine: `(state, observation, now) → (state, next action)`. No I/O, no clock.
//!
//! Each state has a file with its two halves: `observe` consumes the state and returns a [`Step`],
//! whose type admits only the edges of the table in `docs/architecture.md`; `plan` says what to do
//! next in a state, and marks in the state what the world may remember of it, so that saving the
//! state before performing the action is writing ahead.

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

/// How ECS is asked about a task that cannot be there yet. On Fargate nothing runs before some 20 s
/// have passed, and the rate of DescribeTasks is the whole account's.
const START: Pace =
    Pace { first: Duration::from_secs(1), longest: Duration::from_secs(3), growth: 120 };
/// The same once the container is probed at its address, which finds it: ECS is asked whether the
/// task ends.
const PROBED: Pace = Pace { longest: Duration::from_secs(5), ..START };
/// How ECS is asked whether the exec agent of a running task runs, which it does after some
/// seconds.
const AGENT: Pace =
    Pace { first: Duration::from_millis(500), longest: Duration::from_secs(3), growth: 105 };
/// How ECS is asked about a task that is expected to change soon.
const DESCRIBE: Pace =
    Pace { first: Duration::from_millis(300), longest: Duration::from_secs(3), growth: 130 };
/// How a call is repeated after failures: throttling needs room.
const RETRY: Pace =
    Pace { first: Duration::from_millis(700), longest: Duration::from_secs(30), growth: 200 };
/// How a container is knocked at while it starts: often, it costs one SYN.
const PROBE: Pace =
    Pace { first: Duration::from_millis(60), longest: Duration::from_millis(150), growth: 120 };
/// The same where every attempt is a call of an API, and the exec agent connects within seconds.
const PROBE_BY_API: Pace =
    Pace { first: Duration::from_millis(200), longest: Duration::from_secs(3), growth: 102 };
/// The same where it cannot succeed yet, or where the API itself fails: only so that its reason is
/// known.
const PROBE_RARELY: Pace =
    Pace { first: Duration::from_secs(1), longest: Duration::from_secs(3), growth: 150 };
/// How a lost connection is tried again.
const RECONNECT: Pace =
    Pace { first: Duration::from_millis(200), longest: Duration::from_secs(5), growth: 170 };
/// How long DescribeTasks may answer MISSING for a task that RunTask has just returned.
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
/// How long a task that was seen may be MISSING before we believe that it is gone.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How long after ECS says that a task ends it may take to say why.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(5);
/// How long a container may refuse our key or a first command: its entry point may start sshd
/// before it has done the rest.
const KEY_INSTALLED_WITHIN: Duration = Duration::from_secs(20);
/// How many permanent-looking refusals in a row to describe a task are believed.
const BELIEVED_REFUSALS: u32 = 3;

/// A state and its place in the table of edges.
pub trait State: Sized {
    /// The one state, besides `Stopping`, that this one may turn into.
    type Next;
    /// The state's name.
    const NAME: StateName;
}

/// What became of a state.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is taken apart as soon as it is made")]
pub enum Step<S: State> {
    /// It stays, perhaps with other data.
    Stay(Job<S>),
    /// The edge onward.
    Next(Job<S::Next>),
    /// The edge to the end, open to every state.
    Stop(Job<job::Stopping>),
}

impl<S> Job<S> {
    /// Seed of the job's jitter: a replay waits as the job did.
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
    /// What becomes of the job when `saw` is observed at `now`.
    #[must_use]
    pub fn observe(self, saw: &Observation, now: Timestamp) -> Self {
        match self {
            Self::Provisioning(job) => job.observe(saw, now).into(),
            Self::Pending(job) => job.observe(saw, now).into(),
            Self::Running(job) => job.observe(saw, now).into(),
            Self::Reachable(job) => job.observe(saw, now).into(),
            Self::Executing(job) => job.observe(saw, now).into(),
            Self::Stopping(job) => job.observe(saw, now).into(),
        }
    }

    /// What to do next; marks in the state what the world may remember of it.
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
    /// The reason of a state that lasted too long.
    fn too_long(&self, limit: Duration, last: Obstacle) -> StopReason {
        StopReason::Deadline { state: S::NAME, limit, last }
    }
}
