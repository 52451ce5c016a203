//! A job whose tasks must end: why, and what is still to happen until they have.

use serde::{Deserialize, Deserializer, Serialize};

use super::Asking;
use crate::{ControlError, StopReason, TaskArn, Timestamp};

/// The task must end; why is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoppingOnDisk")]
pub struct Stopping {
    /// Why.
    pub reason: StopReason,
    /// Since when.
    pub since: Timestamp,
    /// When this process stops waiting.
    pub deadline: Timestamp,
    /// What the job waits for.
    pub phase: StopPhase,
    /// Calls to ECS.
    pub describing: Asking,
    /// The last call's failure.
    pub problem: Option<ControlError>,
}

/// What a job that must end waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopPhase {
    /// RunTask may have launched a task without its answer reaching the driver. ListTasks searches
    /// for that task by `startedBy`.
    Searching {
        /// When RunTask may have reached ECS last.
        launched: Timestamp,
        /// When the driver sent the ListTasks that has not been answered yet.
        listed: Option<Timestamp>,
        /// The job's other tasks.
        others: OtherTasks,
    },
    /// ListTasks found a task. DescribeTasks tells whether it is the one that was launched, or an
    /// earlier attempt's, which is stopping already.
    Checking {
        /// The task found.
        task: TaskArn,
        /// When RunTask may have reached ECS last.
        launched: Timestamp,
        /// The job's other tasks.
        others: OtherTasks,
    },
    /// ECS is to accept StopTask.
    Requesting {
        /// The task to stop.
        task: TaskArn,
        /// When RunTask may have reached ECS last, if ECS refused to describe the task: another
        /// one may be the one that was launched.
        launched: Option<Timestamp>,
        /// Whether StopTask may have reached ECS.
        sent: bool,
        /// The job's other tasks.
        others: OtherTasks,
    },
    /// ECS has accepted to stop every known task, or shows its desired status as STOPPED. Only
    /// their end is awaited.
    Ending {
        /// The task that is described.
        task: TaskArn,
        /// As in `Requesting`.
        launched: Option<Timestamp>,
        /// The other tasks. They are described after this one.
        others: Vec<TaskArn>,
    },
    /// No task of the job is left.
    Over {
        /// The task that ended last; `None` if no task was launched.
        task: Option<TaskArn>,
    },
}

/// A stopping job's tasks besides the one that it works on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherTasks {
    /// Tasks that are still to be stopped.
    pub to_stop: Vec<TaskArn>,
    /// Tasks whose stop ECS has accepted, and that may not have ended.
    pub ending: Vec<TaskArn>,
}

impl OtherTasks {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to_stop.is_empty() && self.ending.is_empty()
    }
}

impl Stopping {
    /// The task that the job works on, or that ended last; `None` while it is searched for, and
    /// when no task was launched.
    #[must_use]
    pub fn task(&self) -> Option<&TaskArn> {
        match &self.phase {
            StopPhase::Searching { .. } => None,
            StopPhase::Checking { task, .. }
            | StopPhase::Requesting { task, .. }
            | StopPhase::Ending { task, .. } => Some(task),
            StopPhase::Over { task } => task.as_ref(),
        }
    }

    /// The tasks that may not have ended.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskArn> {
        let (task, ending, to_stop): (_, &[_], &[_]) = match &self.phase {
            StopPhase::Searching { others, .. } => (None, &others.ending, &others.to_stop),
            StopPhase::Checking { task, others, .. }
            | StopPhase::Requesting { task, others, .. } => {
                (Some(task), &others.ending, &others.to_stop)
            }
            StopPhase::Ending { task, others, .. } => (Some(task), others, &[]),
            StopPhase::Over { .. } => (None, &[], &[]),
        };
        task.into_iter().chain(ending).chain(to_stop)
    }

    /// When RunTask may have launched a task that the driver does not know for certain.
    #[must_use]
    pub fn unanswered_launch(&self) -> Option<Timestamp> {
        match &self.phase {
            StopPhase::Searching { launched, .. } | StopPhase::Checking { launched, .. } => {
                Some(*launched)
            }
            StopPhase::Requesting { launched, .. } | StopPhase::Ending { launched, .. } => {
                *launched
            }
            StopPhase::Over { .. } => None,
        }
    }

    /// Whether ECS has accepted to stop every task of the job, so that only their end is waited
    /// for.
    #[must_use]
    pub fn all_accepted(&self) -> bool {
        matches!(
            self.phase,
            StopPhase::Ending { launched: None, .. } | StopPhase::Over { task: Some(_) }
        )
    }

    /// Whether StopTask for [`Stopping::task`] may have reached ECS.
    #[must_use]
    pub fn has_asked(&self) -> bool {
        matches!(self.phase, StopPhase::Requesting { sent: true, .. } | StopPhase::Ending { .. })
    }

    /// Whether no task of the job is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, StopPhase::Over { .. })
    }
}

/// [`Stopping`], also as older drivers wrote it: with a flag for each thing that had happened.
#[derive(Deserialize)]
struct StoppingOnDisk {
    reason: StopReason,
    since: Timestamp,
    deadline: Timestamp,
    #[serde(default, deserialize_with = "present")]
    phase: Option<StopPhase>,
    describing: Asking,
    problem: Option<ControlError>,
    #[serde(default)]
    task: Option<TaskArn>,
    #[serde(default)]
    unsettled: Option<Timestamp>,
    #[serde(default)]
    listing: Option<Timestamp>,
    #[serde(default)]
    asked: bool,
    #[serde(default)]
    accepted: bool,
    #[serde(default)]
    over: bool,
    #[serde(default)]
    rest: Vec<TaskArn>,
    #[serde(default)]
    ending: Vec<TaskArn>,
}

/// A field that is there has its value alone, without `Some`.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<StopPhase>, D::Error> {
    StopPhase::deserialize(from).map(Some)
}

impl From<StoppingOnDisk> for Stopping {
    fn from(disk: StoppingOnDisk) -> Self {
        let StoppingOnDisk { reason, since, deadline, phase, describing, problem, .. } = disk;
        let (launched, sent) = (disk.unsettled, disk.asked);
        let mut others = OtherTasks { to_stop: disk.rest, ending: disk.ending };
        let older = || match (disk.task, launched) {
            (task, _) if disk.over => StopPhase::Over { task },
            (None, None) => StopPhase::Over { task: None },
            (None, Some(launched)) => {
                StopPhase::Searching { launched, listed: disk.listing, others }
            }
            (Some(task), launched) if disk.accepted && others.to_stop.is_empty() => {
                StopPhase::Ending { task, launched, others: others.ending }
            }
            // The drivers before waited for one task's end before they stopped the next.
            (Some(task), launched) if disk.accepted => {
                let next = others.to_stop.remove(0);
                others.ending.push(task);
                StopPhase::stop(next, launched, others)
            }
            (Some(task), Some(launched)) if describing.has_no_result() => {
                StopPhase::Checking { task, launched, others }
            }
            (Some(task), launched) => StopPhase::Requesting { task, launched, sent, others },
        };
        let phase = phase.unwrap_or_else(older);
        Self { reason, since, deadline, phase, describing, problem }
    }
}
