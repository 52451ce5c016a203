//! The cloud's task control, changed by a test.

use std::time::Duration;

use states::*;

use crate::world::{
    cloud::Control,
    manager::{Manager, ProcessWith},
};

type Refusal = Box<dyn Fn(&[TaskArn]) -> Option<ControlError> + Send + Sync>;
type Change = Box<dyn Fn(&mut Described) + Send + Sync>;

pub struct ChangedControl {
    control: Control,
    /// Whether RunTask never answers.
    pub is_launch_silent: bool,
    /// How long DescribeTasks takes.
    pub describes_within: Duration,
    /// Refuses to describe these tasks.
    pub refuses_describe: Refusal,
    /// Changes the cloud's report on a task.
    pub changes_answer: Change,
}

impl ChangedControl {
    /// Returns a process of this manager with changed task control.
    pub fn process(
        manager: &Manager,
        change: impl FnOnce(&mut Self),
    ) -> ProcessWith<ChangedControl> {
        let mut control = Self {
            control: manager.control(),
            is_launch_silent: false,
            describes_within: Duration::ZERO,
            refuses_describe: Box::new(|_| None),
            changes_answer: Box::new(|_| {}),
        };
        change(&mut control);
        manager.process_with(control, manager.wire())
    }
}

impl TaskControl for ChangedControl {
    async fn launch(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
    ) -> Result<TaskReport, ControlError> {
        if self.is_launch_silent {
            std::future::pending::<()>().await;
        }
        self.control.launch(token, spec).await
    }

    async fn describe(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> Result<Vec<Described>, ControlError> {
        if !self.describes_within.is_zero() {
            tokio::time::sleep(self.describes_within).await;
        }
        if let Some(refusal) = (self.refuses_describe)(tasks) {
            return Err(refusal);
        }
        let mut described = self.control.describe(cluster, tasks).await?;
        described.iter_mut().for_each(&self.changes_answer);
        Ok(described)
    }

    async fn find(
        &self,
        cluster: &str,
        started_by: &StartedBy,
    ) -> Result<Vec<TaskArn>, ControlError> {
        self.control.find(cluster, started_by).await
    }

    async fn stop(
        &self,
        cluster: &str,
        task: &TaskArn,
        reason: &StopReason,
    ) -> Result<StopAnswer, ControlError> {
        self.control.stop(cluster, task, reason).await
    }

    async fn tag(&self, task: &TaskArn, tags: &[(String, String)]) -> Result<(), ControlError> {
        self.control.tag(task, tags).await
    }

    async fn public_address(
        &self,
        interface: &InterfaceId,
    ) -> Result<Option<String>, ControlError> {
        self.control.public_address(interface).await
    }
}
