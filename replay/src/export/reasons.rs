//! Pseudonyms in errors and stop reasons.

use states::{
    ConnectError, ContainerEnd, ControlError, Obstacle, RunError, RunLoss, StopReason, TaskEnd,
    TaskStatus,
};

use super::pseudonyms::{Kind, Pseudonyms};

impl Pseudonyms {
    pub(super) fn control_error(&mut self, error: &ControlError) -> ControlError {
        let ControlError { operation, kind, code, message, cause } = error;
        ControlError {
            operation: self.text(operation),
            kind: *kind,
            code: self.optional_text(code),
            message: self.text(message),
            cause: *cause,
        }
    }

    pub(super) fn connect_error(&mut self, error: &ConnectError) -> ConnectError {
        let ConnectError { kind, message, cause } = error;
        ConnectError { kind: *kind, message: self.text(message), cause: *cause }
    }

    pub(super) fn run_error(&mut self, error: &RunError) -> RunError {
        match error {
            RunError::ConnectionLost(why) => RunError::ConnectionLost(self.text(why)),
            RunError::Unknown(why) => RunError::Unknown(self.text(why)),
            RunError::NoStatus(why) => RunError::NoStatus(self.text(why)),
            RunError::NotStarted(why) => RunError::NotStarted(self.text(why)),
            RunError::Protocol(why) => RunError::Protocol(self.text(why)),
        }
    }

    pub(super) fn reason(&mut self, reason: &StopReason) -> StopReason {
        match reason {
            StopReason::Cleanup
            | StopReason::Cancelled
            | StopReason::Retired(_)
            | StopReason::TaskVanished => reason.clone(),
            StopReason::Asked(why) => StopReason::Asked(self.text(why)),
            StopReason::LaunchRefused(error) => {
                StopReason::LaunchRefused(self.control_error(error))
            }
            StopReason::ControlFailed(error) => {
                StopReason::ControlFailed(self.control_error(error))
            }
            StopReason::TaskStopped { end } => StopReason::TaskStopped { end: self.task_end(end) },
            StopReason::Deadline { state, limit, last } => {
                StopReason::Deadline { state: *state, limit: *limit, last: self.obstacle(last) }
            }
            StopReason::Unusable(error) => StopReason::Unusable(self.connect_error(error)),
            StopReason::RunAbandoned(loss) => StopReason::RunAbandoned(self.run_loss(loss)),
        }
    }

    fn task_end(&mut self, end: &TaskEnd) -> TaskEnd {
        let TaskEnd { status, code, reason, containers, recorded } = end;
        TaskEnd {
            status: self.task_status(status),
            code: self.optional_text(code),
            reason: self.optional_text(reason),
            containers: containers
                .iter()
                .map(|ContainerEnd { name, exit_code, reason }| ContainerEnd {
                    name: self.container(name),
                    exit_code: *exit_code,
                    reason: self.optional_text(reason),
                })
                .collect(),
            recorded: self.optional_text(recorded),
        }
    }

    fn obstacle(&mut self, obstacle: &Obstacle) -> Obstacle {
        match obstacle {
            Obstacle::Launch | Obstacle::Start | Obstacle::Address(_) => obstacle.clone(),
            Obstacle::Connection(error) => {
                Obstacle::Connection(error.as_ref().map(|error| self.connect_error(error)))
            }
            Obstacle::Recorded(sentence) => Obstacle::Recorded(self.text(sentence)),
        }
    }

    fn run_loss(&mut self, loss: &RunLoss) -> RunLoss {
        match loss {
            RunLoss::NoProgress { connections, within, error } => RunLoss::NoProgress {
                connections: *connections,
                within: *within,
                error: self.run_error(error),
            },
            RunLoss::ShortLived { connections, within, error } => RunLoss::ShortLived {
                connections: *connections,
                within: *within,
                error: self.run_error(error),
            },
            RunLoss::Unknown { run_dir, error } => {
                let run_dir = self.register(Kind::Path, run_dir);
                RunLoss::Unknown { run_dir, error: self.run_error(error) }
            }
            RunLoss::Recorded(sentence) => RunLoss::Recorded(self.text(sentence)),
        }
    }

    pub(super) fn task_status(&mut self, status: &TaskStatus) -> TaskStatus {
        match status {
            TaskStatus::Other(other) => TaskStatus::Other(self.text(other)),
            known => known.clone(),
        }
    }
}
