//! What the world answered, or what a caller asked for: the machine's only input besides time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Claim, ConnectError, ControlError, Greeting, RunContainer, RunError, Signal, StopReason,
    TaskArn, TaskReport, Usage,
};

/// One thing that was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observation {
    /// A process began to work on the job: all connections of the one before are gone.
    Opened {
        /// Its process id.
        process: u32,
        /// Why it was called: a custom-executor stage, or a tool's command.
        purpose: String,
    },
    /// The job took over a warm task, and launches none.
    Claimed(Box<Claim>),
    /// RunTask answered with a task.
    Launched(Arc<TaskReport>),
    /// RunTask failed, or answered with failures and no task.
    LaunchFailed(ControlError),
    /// DescribeTasks answered.
    Described(Arc<TaskReport>),
    /// DescribeTasks does not know the task (yet, or any more).
    Missing,
    /// DescribeTasks failed.
    DescribeFailed(ControlError),
    /// EC2 returned the interface's public address, or that it has none yet.
    Addressed(Option<String>),
    /// EC2 failed to return it.
    AddressFailed(ControlError),
    /// The container answered, and it is the right one.
    Answered(Greeting),
    /// An attempt to reach the container failed.
    Unreachable(ConnectError),
    /// gitlab-runner wants a script to run.
    RunRequested {
        /// The custom-executor stage.
        stage: String,
        /// SHA-256 of gitlab-runner's script, hexadecimal.
        digest: String,
        /// Where it is to run. Older drivers had one container only.
        #[serde(default, skip_serializing_if = "RunContainer::is_coordinator")]
        container: RunContainer,
    },
    /// The container has the script and runs it.
    Delivered,
    /// Output was handed on up to this offset.
    Progress {
        /// Bytes from the run's beginning.
        offset: u64,
    },
    /// The script ended, and all its output was handed on.
    Exited {
        /// Exit status as the shell reports it.
        code: i32,
        /// Bytes of output in all.
        total: u64,
    },
    /// The container reported what it has used so far. No decision depends on it.
    Measured {
        /// The container.
        container: RunContainer,
        /// What it has used.
        usage: Usage,
    },
    /// Starting, following or signalling the run failed.
    RunFailed(RunError),
    /// The run's process group got a signal.
    Signalled(Signal),
    /// gitlab-runner ends the stage (SIGTERM).
    CancelRequested,
    /// The job's task is to end.
    StopRequested(StopReason),
    /// ListTasks answered with the tasks of this job's `startedBy`.
    Found(Vec<TaskArn>),
    /// ListTasks failed.
    FindFailed(ControlError),
    /// StopTask was accepted.
    StopAccepted,
    /// StopTask failed.
    StopFailed(ControlError),
    /// Nothing happened until the time that the action had set.
    TimePassed,
}
