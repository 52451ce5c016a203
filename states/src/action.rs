//! What the machine wants the engine to do next.

use crate::{
    ClientToken, Destination, InterfaceId, LaunchSpec, RunOrder, Signal, StartedBy, StopReason,
    TaskArn, Timestamp,
};

/// The next thing to do. The engine performs it and reports what it observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Launch the task. → `Launched`, `LaunchFailed`
    Launch {
        /// Idempotency token of this launch.
        token: ClientToken,
        /// What to launch.
        spec: Box<LaunchSpec>,
    },
    /// Wait until the first of these is due and answers.
    Watch(Watch),
    /// Nothing: the job is `Reachable` and waits for a script or its end.
    Await,
    /// Start the run (or, when it was started before, attach) and follow its output.
    /// → `Delivered`, `Progress`, `Exited`, `RunFailed`, and `TimePassed` at `until`
    Follow(Follow),
    /// Send a signal to the run's process group. → `Signalled`, `RunFailed`
    Signal {
        /// The run.
        order: RunOrder,
        /// The signal.
        signal: Signal,
    },
    /// Look for the job's tasks. → `Found`, `FindFailed`
    Find {
        /// The cluster.
        cluster: String,
        /// The job's `startedBy`.
        started_by: StartedBy,
    },
    /// Stop the task. → `StopAccepted`, `StopFailed`
    Stop {
        /// The cluster.
        cluster: String,
        /// The task.
        task: TaskArn,
        /// Why, for ECS's records.
        reason: StopReason,
    },
    /// Archive the snapshot: the job is over.
    Archive,
    /// Keep the snapshot and report what remains: this process's time is up, and the job is not
    /// over.
    GiveUp,
}

/// Things to wait for. Times that have passed are due at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Describe this task at this time. → `Described`, `Missing`, `DescribeFailed`
    pub describe: Option<(TaskArn, Timestamp)>,
    /// Look up the public address of this interface at this time. → `Addressed`, `AddressFailed`
    pub address: Option<(InterfaceId, Timestamp)>,
    /// Try to reach the container there at this time. → `Answered`, `Unreachable`
    pub probe: Option<(Destination, Timestamp)>,
    /// Return at this time. → `TimePassed`
    pub until: Timestamp,
}

/// A run to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// What runs.
    pub order: RunOrder,
    /// Whether the container is known to have the script: then only attach.
    pub started: bool,
    /// The byte of the output to continue from.
    pub from: u64,
    /// When to return in any case.
    pub until: Option<Timestamp>,
}
