//! What an observer of the cluster sees, besides the API.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Cluster, Status, Task, lock};
use crate::{containers, task::processes};

/// How many lines of a container's output a view shows.
const LAST_LINES: usize = 20;

/// One API call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `RunTask`, `DescribeTasks` …
    pub action: String,
    /// The error code it was answered with, if any.
    pub error: Option<String>,
}

/// A task as an observer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its ARN.
    pub arn: String,
    /// `lastStatus`.
    pub status: String,
    /// `startedBy`.
    pub started_by: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// `stoppedReason`.
    pub stopped_reason: Option<String>,
    /// Its living processes.
    pub processes: Vec<i32>,
    /// Its containers, in the order of the task definition.
    #[serde(default)]
    pub containers: Vec<ContainerSummary>,
    /// When its container became reachable, in milliseconds since the Unix epoch: its SSH server
    /// listened, or its exec agent was connected.
    pub ready_at_ms: Option<u64>,
    /// The time that each session takes from ExecuteCommand to its first byte, in milliseconds,
    /// without its client.
    pub session_starts_ms: Vec<u64>,
}

/// A container of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSummary {
    /// Its name.
    pub name: String,
    /// `exitCode`.
    pub exit_code: Option<i32>,
    /// `reason`.
    pub reason: Option<String>,
    /// The last lines of its main process's output.
    pub last_lines: Vec<String>,
}

/// A running task's container, for transports that start processes in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// The task's ARN.
    pub task: String,
    /// The environment of its processes.
    pub environment: BTreeMap<String, String>,
    /// The directory that they start in.
    pub directory: PathBuf,
    /// The words in front of a command that lead it into the container's namespaces. None if it
    /// has none.
    #[serde(default)]
    pub enter: Vec<String>,
}

impl Cluster {
    pub(crate) fn views(&self) -> Vec<TaskView> {
        let mut processes = processes::by_task();
        let view = |task: Arc<Task>| {
            let state = task.state();
            TaskView {
                arn: self.task_arn(&task),
                status: state.status.name().to_owned(),
                started_by: task.launch.started_by.clone(),
                address: task.address,
                containers: summaries(&task),
                stopped_reason: state.stop.map(|stop| stop.reason),
                ready_at_ms: task.ready.get().copied(),
                session_starts_ms: lock(&task.session_starts).clone(),
                processes: processes
                    .remove(&task.id)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|pid| pid.as_raw_nonzero().get())
                    .collect(),
            }
        };
        self.all().into_iter().map(view).collect()
    }

    /// Returns the containers of running tasks, for the tests' transport.
    pub(crate) fn containers(&self) -> Vec<ContainerView> {
        let tasks = self.all().into_iter();
        tasks
            .filter(|task| task.state().status == Status::Running)
            .filter_map(|task| {
                let coordinator = &containers::coordinator(&task.launch.definition).name;
                let container = task.runtime.surroundings.get()?.get(coordinator)?;
                Some(ContainerView {
                    task: self.task_arn(&task),
                    environment: (*container.environment).clone(),
                    directory: container.directory.clone(),
                    enter: container.enter.clone(),
                })
            })
            .collect()
    }
}

fn summaries(task: &Task) -> Vec<ContainerSummary> {
    let summary = |name: &String| {
        let state = task.runtime.states.get(name);
        ContainerSummary {
            name: name.clone(),
            exit_code: state.exit_code,
            reason: state.reason,
            last_lines: task.runtime.log(name).map(|log| log.last(LAST_LINES)).unwrap_or_default(),
        }
    };
    task.launch.definition.containers.iter().map(|container| summary(&container.name)).collect()
}
