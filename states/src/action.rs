//! What the machine wants done next.

use crate::{
    ClientToken, Destination, InterfaceId, LaunchSpec, RunOrder, Signal, StartedBy, StopReason,
    TaskArn, Timestamp,
};

/// The one next thing to do. The engine performs it and reports what it observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Launch the task. → `Launched`, `LaunchFailed`
    Launch {
        /// Idempotency token of this launch.
        token: ClientToken,
        /// What to launch.
        spec: Box<LaunchSpec>,
    },
    /// Wait for whichever of these is due and answers first.
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
        /// The job's mark on its tasks.
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
    /// The job is over: archive its snapshot.
    Archive,
    /// The time for this process is up although the job is not over: keep the snapshot and say what
    /// remains.
    GiveUp,
}

/// Things to wait for. Times that have passed are due at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Describe this task then. → `Described`, `Missing`, `DescribeFailed`
    pub describe: Option<(TaskArn, Timestamp)>,
    /// Look up the public address of this interface then. → `Addressed`, `AddressFailed`
    pub address: Option<(InterfaceId, Timestamp)>,
    /// Try to reach the container there then. → `Answered`, `Unreachable`
    pub probe: Option<(Destination, Timestamp)>,
    /// Come back then. → `TimePassed`
    pub until: Timestamp,
}

/// A run to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// What runs.
    pub order: RunOrder,
    /// Whether the container is known to have the script: then only attach.
    pub started: bool,
    /// Byte of the output to go on from.
    pub from: u64,
    /// When to come back whatever happens.
    pub until: Option<Timestamp>,
}
