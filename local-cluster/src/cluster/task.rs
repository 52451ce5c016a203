//! A task: what it was launched with, and how far it has got.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::watch;

use super::lock;
use crate::{
    clock::{seconds, unix_millis},
    containers::Runtime,
    definitions::Definition,
    exec::ExecAgent,
    ids::random_id,
    settings::INSTANCES,
    times::TaskTimes,
};

/// What RunTask overrides in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ContainerOverride {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) command: Option<Vec<String>>,
}

/// Where a task's capacity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// A launch type: `FARGATE` or `EC2`.
    LaunchType(&'static str),
    /// A capacity provider.
    Provider(&'static str),
}

impl Capacity {
    /// `launchType`, as tasks show it.
    pub(crate) fn launch_type(self) -> &'static str {
        match self {
            Self::LaunchType(name) => name,
            Self::Provider(INSTANCES) => "EC2",
            Self::Provider(_) => "FARGATE",
        }
    }

    /// `capacityProviderName`.
    pub(crate) fn provider(self) -> Option<&'static str> {
        match self {
            Self::LaunchType(_) => None,
            Self::Provider(name) => Some(name),
        }
    }
}

/// The parameters of a RunTask.
pub(crate) struct Launch {
    pub(crate) cluster: String,
    pub(crate) definition: Arc<Definition>,
    pub(crate) started_by: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) tags: Value,
    pub(crate) overrides: Value,
    pub(crate) capacity: Capacity,
    pub(crate) container_overrides: BTreeMap<String, ContainerOverride>,
    pub(crate) public: bool,
    pub(crate) exec: bool,
    pub(crate) token: Option<(String, Value)>,
}

/// A task.
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) launch: Launch,
    pub(crate) address: Ipv4Addr,
    pub(crate) interface: String,
    pub(crate) agent: ExecAgent,
    pub(crate) times: TaskTimes,
    pub(crate) runtime: Runtime,
    created: Instant,
    state: watch::Sender<TaskState>,
    tags: Mutex<Value>,
    /// When its container became reachable.
    pub(super) ready: OnceLock<u64>,
    pub(super) session_starts: Mutex<Vec<u64>>,
}

/// The part of a task that changes.
#[derive(Debug, Clone)]
pub(crate) struct TaskState {
    pub(crate) status: Status,
    /// Set once its desired status is STOPPED.
    pub(crate) stop: Option<Stop>,
    /// The times that the API shows, by name.
    pub(super) times: BTreeMap<&'static str, f64>,
}

/// Why a task stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) container_reason: Option<String>,
    pub(crate) exit_code: Option<i32>,
}

/// `lastStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Provisioning,
    Pending,
    Activating,
    Running,
    Deactivating,
    Stopping,
    Deprovisioning,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Stopped => "STOPPED",
        }
    }
}

impl Task {
    pub(super) fn new(launch: Launch, address: Ipv4Addr, times: TaskTimes) -> Self {
        Self {
            id: random_id(16),
            interface: format!("eni-{}", random_id(8)),
            times,
            runtime: Runtime::new(&launch.definition),
            tags: Mutex::new(launch.tags.clone()),
            launch,
            address,
            agent: ExecAgent::new(),
            created: Instant::now(),
            state: watch::Sender::new(TaskState {
                status: Status::Provisioning,
                stop: None,
                times: BTreeMap::from([("createdAt", seconds())]),
            }),
            ready: OnceLock::new(),
            session_starts: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> TaskState {
        self.state.borrow().clone()
    }

    pub(crate) fn tags(&self) -> Value {
        lock(&self.tags).clone()
    }

    /// Adds tags, and replaces those of the same names, if `check` admits all that it has then.
    pub(crate) fn tag<E>(
        &self,
        more: &[Value],
        check: impl Fn(&[Value]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut tags = lock(&self.tags);
        let mut all = tags.as_array().cloned().unwrap_or_default();
        all.retain(|tag| more.iter().all(|other| other["key"] != tag["key"]));
        all.extend_from_slice(more);
        check(&all)?;
        *tags = all.into();
        Ok(())
    }

    /// Returns a container's id on its host.
    pub(crate) fn runtime_id(&self, container: &str) -> String {
        format!("{}-{container}", self.id)
    }

    /// Whether DescribeTasks shows it. ECS is eventually consistent: at first, reads do not show a
    /// new task.
    pub(crate) fn is_described(&self) -> bool {
        self.created.elapsed() >= self.times.describe_lag
    }

    /// Whether ListTasks shows it.
    pub(crate) fn is_listed(&self) -> bool {
        self.created.elapsed() >= self.times.list_lag
    }

    /// Enters a status.
    pub(crate) fn enter(&self, status: Status) {
        tracing::debug!(task = self.id, status = status.name(), "entered");
        self.state.send_modify(|state| {
            state.status = status;
            let time = match status {
                Status::Pending => "pullStartedAt",
                Status::Activating => "pullStoppedAt",
                Status::Running => "startedAt",
                Status::Stopping => "stoppingAt",
                Status::Deprovisioning => "executionStoppedAt",
                Status::Stopped => "stoppedAt",
                Status::Provisioning | Status::Deactivating => return,
            };
            state.times.insert(time, seconds());
        });
    }

    /// Records that its container is reachable.
    pub(crate) fn mark_ready(&self) {
        self.ready.get_or_init(unix_millis);
    }

    /// Records how long a session takes to its first byte.
    pub(crate) fn note_session(&self, start: Duration) {
        lock(&self.session_starts).push(u64::try_from(start.as_millis()).unwrap_or(u64::MAX));
    }

    /// Requests the task's end. The first reason stays.
    pub(crate) fn request_stop(&self, stop: Stop) {
        self.state.send_if_modified(|state| {
            let first = state.stop.is_none();
            state.stop.get_or_insert(stop);
            first
        });
    }

    /// Completes when it has entered a status.
    pub(super) async fn until(&self, status: Status) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| state.status == status).await;
    }

    /// Completes when its containers have ended.
    pub(crate) async fn containers_ended(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ =
            self.state.subscribe().wait_for(|state| state.status >= Status::Deprovisioning).await;
    }

    /// Completes when a stop of the task was requested.
    pub(crate) async fn stop_requested(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| state.stop.is_some()).await;
    }
}
