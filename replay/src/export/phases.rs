//! What becomes of the tasks of a job that must end. As in `fields`, a field that is added does not
//! compile here.

use states::{OtherTasks, StopPhase, TaskArn};

use super::pseudonyms::Pseudonyms;

impl Pseudonyms {
    pub(super) fn phase(&mut self, phase: &StopPhase) -> StopPhase {
        match phase {
            StopPhase::Searching { launched, listed, others } => StopPhase::Searching {
                launched: *launched,
                listed: *listed,
                others: self.other_tasks(others),
            },
            StopPhase::Checking { task, launched, others } => StopPhase::Checking {
                task: self.task(task),
                launched: *launched,
                others: self.other_tasks(others),
            },
            StopPhase::Requesting { task, launched, sent, others } => StopPhase::Requesting {
                task: self.task(task),
                launched: *launched,
                sent: *sent,
                others: self.other_tasks(others),
            },
            StopPhase::Ending { task, launched, others } => StopPhase::Ending {
                task: self.task(task),
                launched: *launched,
                others: self.tasks(others),
            },
            StopPhase::Over { task } => {
                StopPhase::Over { task: task.as_ref().map(|task| self.task(task)) }
            }
        }
    }

    fn other_tasks(&mut self, others: &OtherTasks) -> OtherTasks {
        let OtherTasks { to_stop, ending } = others;
        OtherTasks { to_stop: self.tasks(to_stop), ending: self.tasks(ending) }
    }

    fn tasks(&mut self, tasks: &[TaskArn]) -> Vec<TaskArn> {
        tasks.iter().map(|task| self.task(task)).collect()
    }
}
