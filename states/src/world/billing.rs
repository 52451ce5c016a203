//! What a task's bill depends on, as ECS reports it, and what of that its containers use.

use serde::{Deserialize, Serialize};

use super::additions::{Architecture, TaskSize};
use crate::Timestamp;

/// What ECS reports of a task that its bill depends on. A report may have only a part of it: times
/// come as the task goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Billing {
    /// The size that the task really has.
    #[serde(default, skip_serializing_if = "TaskSize::is_default")]
    pub size: TaskSize,
    /// The CPU architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// `launchType`: `FARGATE`, `EC2`, `MANAGED_INSTANCES` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<String>,
    /// The capacity provider that the task got: `FARGATE_SPOT` …; `None` with a launch type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_provider: Option<String>,
    /// `pullStartedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_started: Option<Timestamp>,
    /// `startedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// `executionStoppedAt`: when the task's containers had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_stopped: Option<Timestamp>,
    /// `stoppedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Timestamp>,
}

impl Billing {
    /// Takes over what a later report of the same task shows.
    pub fn learn(&mut self, later: &Self) {
        fn take<T: Clone>(known: &mut Option<T>, later: &Option<T>) {
            if later.is_some() {
                known.clone_from(later);
            }
        }
        let TaskSize { cpu, memory, ephemeral_storage } = &mut self.size;
        take(cpu, &later.size.cpu);
        take(memory, &later.size.memory);
        take(ephemeral_storage, &later.size.ephemeral_storage);
        take(&mut self.architecture, &later.architecture);
        take(&mut self.launch_type, &later.launch_type);
        take(&mut self.capacity_provider, &later.capacity_provider);
        take(&mut self.pull_started, &later.pull_started);
        take(&mut self.started, &later.started);
        take(&mut self.execution_stopped, &later.execution_stopped);
        take(&mut self.stopped, &later.stopped);
    }
}

/// What a container has used since it began, by the kernel's accounting (cgroups).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The most memory at any time, in bytes, with the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processor time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
}
