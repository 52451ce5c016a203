//! Why a job's task must end, and how a task ended, as facts in the words of ECS and the container.
//!
//! The crate `diagnosis` makes sentences and remedies of these facts. So rewording a text changes
//! nothing that is persisted or compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ConnectError, ConnectTo, ControlError, ControlErrorKind, Header, JOB_CONTAINER, RunError,
    StateName, TaskReport, TaskStatus, time::span,
};

/// Why a job's task must end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub enum StopReason {
    /// The job is over: gitlab-runner called `cleanup`.
    Cleanup,
    /// gitlab-runner cancelled the stage (cancel, time-out).
    Cancelled,
    /// A person or `reap` asked for it, for this reason.
    Asked(String),
    /// It is a warm task that its pool no longer keeps, or that a job could not use.
    Retired(Retirement),
    /// ECS refused the launch for good.
    LaunchRefused(ControlError),
    /// ECS refused a call that the job depends on.
    ControlFailed(ControlError),
    /// The task stopped, and not by this driver.
    TaskStopped {
        /// How it ended, as ECS reports it.
        end: TaskEnd,
    },
    /// ECS does not know the task any more.
    TaskVanished,
    /// A state lasted too long; in `Executing`, the loss of the connection did.
    Deadline {
        /// The state.
        state: StateName,
        /// Its limit.
        #[serde(with = "span")]
        limit: Duration,
        /// What it waited for.
        last: Obstacle,
    },
    /// The container cannot be used.
    Unusable(ConnectError),
    /// The run was given up: its exit status cannot be learned.
    RunAbandoned(RunLoss),
}

/// Why a warm task is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Retirement {
    /// The pool keeps fewer tasks now.
    Surplus,
    /// It is as old as the pool keeps tasks.
    Aged,
    /// A task that is launched today would be another one: settings have changed, or the task
    /// definition has a newer revision.
    Outdated,
    /// The configuration has no such pool any more.
    NoPool,
    /// The manager is being drained.
    Drained,
    /// It has ended, or does not answer.
    Unusable,
}

/// How a task ended, as ECS reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Its `lastStatus`.
    pub status: TaskStatus,
    /// `stopCode`.
    #[serde(default)]
    pub code: Option<String>,
    /// `stoppedReason`.
    #[serde(default)]
    pub reason: Option<String>,
    /// The containers for which ECS reports an exit code or a reason. The one that runs the scripts
    /// comes first.
    #[serde(default)]
    pub containers: Vec<ContainerEnd>,
    /// The sentence that an older driver recorded instead of facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
}

/// How a container ended, as ECS reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEnd {
    /// Its name in the task definition.
    pub name: String,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// ECS's reason.
    pub reason: Option<String>,
}

/// What a state that lasted too long waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// RunTask did not answer.
    Launch,
    /// ECS did not show the task as RUNNING.
    Start,
    /// ECS showed the task as RUNNING, but without an address of this kind.
    Address(ConnectTo),
    /// The container did not answer. Holds the last attempt's error, if there was an attempt.
    Connection(Option<ConnectError>),
    /// The sentence that an older driver recorded instead of facts.
    Recorded(String),
}

/// Why a run was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunLoss {
    /// Several connections in a row were lost without a byte of output and before they had worked
    /// for long.
    NoProgress {
        /// How many.
        connections: u32,
        /// How long a connection must work to count as progress.
        #[serde(with = "span")]
        within: Duration,
        /// How the last one was lost.
        error: RunError,
    },
    /// Several connections in a row were lost moments after they began.
    ShortLived {
        /// How many.
        connections: u32,
        /// How long a connection must last to count.
        #[serde(with = "span")]
        within: Duration,
        /// How the last one was lost.
        error: RunError,
    },
    /// The container does not know the run.
    Unknown {
        /// The run's directory.
        run_dir: String,
        /// What the container answered.
        error: RunError,
    },
    /// The sentence that an older driver recorded instead of facts.
    Recorded(String),
}

/// Who is responsible for an end, as gitlab-runner distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The job ended as it should.
    None,
    /// The job: a build failure.
    Job,
    /// Anything else: a system failure.
    System,
}

impl StopReason {
    /// Who is responsible, as gitlab-runner distinguishes it.
    #[must_use]
    pub fn fault(&self, header: &Header) -> Fault {
        match self {
            Self::Cleanup | Self::Retired(_) => Fault::None,
            Self::LaunchRefused(error)
                if error.kind == ControlErrorKind::TaskDefinition
                    && header.definition_from_project =>
            {
                Fault::Job
            }
            _ => Fault::System,
        }
    }

    /// Replaces an older driver's sentence with the facts of `replayed`, the reason that today's
    /// machine finds in the same journal.
    pub(crate) fn learn_facts(&mut self, replayed: &Self) {
        let is_same = match (&*self, replayed) {
            (Self::TaskStopped { end }, Self::TaskStopped { .. }) => end.recorded.is_some(),
            (
                Self::Deadline { state, last: Obstacle::Recorded(_), .. },
                Self::Deadline { state: today, .. },
            ) => state == today,
            (Self::RunAbandoned(RunLoss::Recorded(_)), Self::RunAbandoned(_)) => true,
            // Its message contained what is a deadline today.
            (Self::Unusable(error), Self::Deadline { state: StateName::Executing, .. }) => {
                error.kind == crate::ConnectErrorKind::TimedOut
            }
            _ => false,
        };
        if is_same {
            *self = replayed.clone();
        }
    }
}

impl TaskEnd {
    /// The task's end according to this report. `container` runs the scripts, except those that run
    /// in the job's own.
    #[must_use]
    pub fn of(report: &TaskReport, container: &str) -> Self {
        let rank = |name: &str| match name {
            JOB_CONTAINER => 0,
            name if name == container => 1,
            _ => 2,
        };
        let mut containers: Vec<_> = report.containers.iter().collect();
        containers.sort_by_key(|report| rank(&report.name));
        let ended = containers
            .into_iter()
            .filter(|report| report.exit_code.is_some() || report.reason.is_some());
        let stopped = report.stopped.as_ref();
        Self {
            status: report.status.clone(),
            code: stopped.and_then(|stopped| stopped.code.clone()),
            reason: stopped.and_then(|stopped| stopped.reason.clone()),
            containers: ended
                .map(|report| ContainerEnd {
                    name: report.name.clone(),
                    exit_code: report.exit_code,
                    reason: report.reason.clone(),
                })
                .collect(),
            recorded: None,
        }
    }

    fn recorded(sentence: String) -> Self {
        Self {
            status: TaskStatus::Stopped,
            code: None,
            reason: None,
            containers: Vec::new(),
            recorded: Some(sentence),
        }
    }

    /// Stands for a fact where a snapshot has a sentence instead.
    fn missing() -> Self {
        Self::recorded(String::new())
    }
}

impl Obstacle {
    /// Stands for a fact where a snapshot has a sentence instead.
    fn missing() -> Self {
        Self::Recorded(String::new())
    }
}

/// A reason as stored in snapshots of all versions: up to shape 3, with sentences instead of facts.
#[derive(Deserialize)]
enum Stored {
    Cleanup,
    Cancelled,
    Asked(String),
    Retired(Retirement),
    LaunchRefused(ControlError),
    ControlFailed(ControlError),
    TaskStopped {
        #[serde(default = "TaskEnd::missing")]
        end: TaskEnd,
        #[serde(default)]
        what: String,
        #[serde(default)]
        advice: String,
    },
    TaskVanished,
    Deadline {
        state: StateName,
        #[serde(with = "span")]
        limit: Duration,
        #[serde(default = "Obstacle::missing")]
        last: Obstacle,
        #[serde(default)]
        problem: String,
    },
    Unusable(ConnectError),
    RunLost(String),
    RunAbandoned(RunLoss),
}

impl From<Stored> for StopReason {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Cleanup => Self::Cleanup,
            Stored::Cancelled => Self::Cancelled,
            Stored::Asked(by) => Self::Asked(by),
            Stored::Retired(why) => Self::Retired(why),
            Stored::LaunchRefused(error) => Self::LaunchRefused(error),
            Stored::ControlFailed(error) => Self::ControlFailed(error),
            Stored::TaskStopped { end, what, .. } if what.is_empty() => Self::TaskStopped { end },
            Stored::TaskStopped { what, advice, .. } => {
                Self::TaskStopped { end: TaskEnd::recorded(format!("{what} {advice}")) }
            }
            Stored::TaskVanished => Self::TaskVanished,
            Stored::Deadline { state, limit, last, problem } if problem.is_empty() => {
                Self::Deadline { state, limit, last }
            }
            Stored::Deadline { state, limit, problem, .. } => {
                Self::Deadline { state, limit, last: Obstacle::Recorded(problem) }
            }
            Stored::Unusable(error) => Self::Unusable(error),
            Stored::RunLost(sentence) => Self::RunAbandoned(RunLoss::Recorded(sentence)),
            Stored::RunAbandoned(loss) => Self::RunAbandoned(loss),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a reason of shape 3 and writes it in today's shape.
    fn rewritten(text: &str) -> String {
        let reason: StopReason = ron::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let today = ron::to_string(&reason).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(ron::from_str::<StopReason>(&today), Ok(reason), "{today}");
        today
    }

    #[test]
    fn reasons_of_older_drivers_keep_their_sentence() {
        for text in [
            r#"TaskStopped(what: "It stopped.", advice: "Look.")"#,
            r#"Deadline(state: Running, limit: "3m", problem: "It stopped. Look.")"#,
            r#"RunLost("It stopped. Look.")"#,
        ] {
            let today = rewritten(text);
            assert!(today.contains("It stopped. Look.") && !today.contains("advice"), "{today}");
        }
        assert_eq!(rewritten("Cleanup"), "Cleanup");
    }
}
