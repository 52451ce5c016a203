//! The state of the cluster: clusters, task definitions, tasks, and the record of API calls.

mod shown;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use crate::{
    clock::{seconds, unix_millis},
    definitions::{Definition, Definitions},
    exec::{ExecAgent, Session, Sessions, Surroundings, keys::Keys},
    faults::Faults,
    ids::random_id,
    settings::Settings,
    task::processes,
    times::{self, TaskTimes},
};

/// How many API calls are remembered.
const CALLS: usize = 10_000;

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
    /// When its container became reachable, in milliseconds since the Unix epoch: its SSH server
    /// listened, or its exec agent was connected.
    pub ready_at_ms: Option<u64>,
    /// The time that each session takes from ExecuteCommand to its first byte, in milliseconds,
    /// without its client.
    pub session_starts_ms: Vec<u64>,
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
}

/// The state of a running cluster.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    pub(crate) sessions: Sessions,
    pub(crate) keys: Keys,
    address: SocketAddr,
    ssh_port: u16,
    _held: TcpListener,
    faults: Mutex<Faults>,
    known: Mutex<Known>,
    definitions: Mutex<Definitions>,
    calls: Mutex<VecDeque<Call>>,
    connections: Mutex<Vec<TcpStream>>,
    /// Notifies connections that they are cut.
    pub(crate) cut: Notify,
}

#[derive(Default)]
struct Known {
    /// Cluster name → whether it has a default capacity provider strategy.
    clusters: BTreeMap<String, bool>,
    tasks: Vec<Arc<Task>>,
    tokens: HashMap<String, (Value, Arc<Task>)>,
}

/// What RunTask overrides in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ContainerOverride {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) command: Option<Vec<String>>,
}

/// The parameters of a RunTask.
pub(crate) struct Launch {
    pub(crate) cluster: String,
    pub(crate) definition: Arc<Definition>,
    pub(crate) started_by: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) tags: Value,
    pub(crate) overrides: Value,
    pub(crate) launch_type: Option<String>,
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
    /// Environment and directory of its commands, once it runs.
    pub(crate) surroundings: Arc<OnceLock<Surroundings>>,
    created: Instant,
    state: watch::Sender<TaskState>,
    ready: OnceLock<u64>,
    session_starts: Mutex<Vec<u64>>,
}

/// The part of a task that changes.
#[derive(Debug, Clone)]
pub(crate) struct TaskState {
    pub(crate) status: Status,
    /// Set once its desired status is STOPPED.
    pub(crate) stop: Option<Stop>,
    times: BTreeMap<&'static str, f64>,
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
    pub(crate) fn state(&self) -> TaskState {
        self.state.borrow().clone()
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
            match status {
                Status::Running => drop(state.times.insert("startedAt", seconds())),
                Status::Stopping => drop(state.times.insert("stoppingAt", seconds())),
                Status::Stopped => drop(state.times.insert("stoppedAt", seconds())),
                _ => {}
            }
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

    /// Completes when a stop of the task was requested.
    pub(crate) async fn stop_requested(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| state.stop.is_some()).await;
    }
}

impl Cluster {
    pub(crate) fn new(
        settings: Settings,
        address: SocketAddr,
        held: TcpListener,
    ) -> io::Result<Self> {
        let ssh_port = held.local_addr()?.port();
        let mut known = Known::default();
        known.clusters.insert(settings.cluster.clone(), settings.default_strategy);
        let mut definitions = Definitions::default();
        // It is valid, and the first of its family.
        if let Ok(definition) = Definition::parse(&json!({
            "family": "local-job",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": "1024",
            "memory": "2048",
            "containerDefinitions": [{ "name": "ci-coordinator", "image": "local" }],
        })) {
            let _ = definitions.register(definition, Duration::ZERO);
        }
        Ok(Self {
            settings,
            sessions: Sessions::default(),
            keys: Keys::default(),
            address,
            ssh_port,
            _held: held,
            faults: Mutex::default(),
            known: Mutex::new(known),
            definitions: Mutex::new(definitions),
            calls: Mutex::default(),
            connections: Mutex::default(),
            cut: Notify::new(),
        })
    }

    pub(crate) fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(crate) fn arn(&self, resource: &str) -> String {
        format!("arn:aws:ecs:{}:{}:{resource}", self.settings.region, self.settings.account)
    }

    pub(crate) fn task_arn(&self, task: &Task) -> String {
        self.arn(&format!("task/{}/{}", task.launch.cluster, task.id))
    }

    pub(crate) fn container_arn(&self, task: &Task, container: &str) -> String {
        self.arn(&format!("container/{}/{}/{container}", task.launch.cluster, task.id))
    }

    /// Returns the URL of a session's data channel.
    pub(crate) fn stream_url(&self, session: &Session) -> String {
        let url = format!("ws://{}{}", self.address, session.path());
        if !self.faults().exec.signs_urls {
            return url;
        }
        let scope =
            format!("local%2F20260101%2F{}%2Fssmmessages%2Faws4_request", self.settings.region);
        format!(
            "{url}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date=20260101T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
        )
    }

    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        lock(&self.known).clusters.contains_key(name)
    }

    pub(crate) fn has_default_strategy(&self, name: &str) -> bool {
        lock(&self.known).clusters.get(name).copied().unwrap_or(false)
    }

    pub(crate) fn add_cluster(&self, name: &str, default_strategy: bool) {
        lock(&self.known).clusters.entry(name.to_owned()).or_insert(default_strategy);
    }

    pub(crate) fn definitions(&self) -> MutexGuard<'_, Definitions> {
        lock(&self.definitions)
    }

    /// Forgets the deleted definitions whose last task has stopped.
    pub(crate) fn forget_definitions(&self) {
        let tasks = self.all();
        self.definitions().forget(|definition| {
            tasks.iter().any(|task| {
                let of = &task.launch.definition;
                (&of.family, of.revision) == (&definition.family, definition.revision)
                    && task.state().status != Status::Stopped
            })
        });
    }

    pub(crate) fn launched_with(&self, token: &str) -> Option<(Value, Arc<Task>)> {
        lock(&self.known).tokens.get(token).cloned()
    }

    pub(crate) fn launch(&self, mut launch: Launch) -> Arc<Task> {
        let token = launch.token.take();
        let mut known = lock(&self.known);
        let address = loop {
            // 127.64.0.0/10: apart from addresses that people use, and wide enough for several
            // clusters.
            let [a, b, c] = rand::random::<[u8; 3]>();
            let address = Ipv4Addr::new(127, 64 | (a & 63), b, c.clamp(1, 254));
            if known.tasks.iter().all(|task| task.address != address) {
                break address;
            }
        };
        let task = Arc::new(Task {
            id: random_id(16),
            interface: format!("eni-{}", random_id(8)),
            times: self
                .settings
                .times
                .draw(known.tasks.len() as u64, times::image_megabytes(&launch.tags)),
            launch,
            address,
            agent: ExecAgent::new(),
            surroundings: Arc::default(),
            created: Instant::now(),
            state: watch::Sender::new(TaskState {
                status: Status::Provisioning,
                stop: None,
                times: BTreeMap::from([("createdAt", seconds())]),
            }),
            ready: OnceLock::new(),
            session_starts: Mutex::default(),
        });
        known.tasks.push(Arc::clone(&task));
        if let Some((token, parameters)) = token {
            known.tokens.insert(token, (parameters, Arc::clone(&task)));
        }
        task
    }

    pub(crate) fn all(&self) -> Vec<Arc<Task>> {
        lock(&self.known).tasks.clone()
    }

    /// Finds a task by id or ARN.
    pub(crate) fn task(&self, given: &str) -> Option<Arc<Task>> {
        let id = given.rsplit('/').next().unwrap_or(given);
        lock(&self.known).tasks.iter().find(|task| task.id == id).cloned()
    }

    pub(crate) fn record(&self, action: &str, error: Option<String>) {
        let mut calls = lock(&self.calls);
        if calls.len() == CALLS {
            calls.pop_front();
        }
        calls.push_back(Call { at_ms: unix_millis(), action: action.to_owned(), error });
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).iter().cloned().collect()
    }

    pub(crate) fn views(&self) -> Vec<TaskView> {
        let mut processes = processes::by_task();
        let view = |task: Arc<Task>| {
            let state = task.state();
            TaskView {
                arn: self.task_arn(&task),
                status: state.status.name().to_owned(),
                started_by: task.launch.started_by.clone(),
                address: task.address,
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
                task.surroundings.get().map(|container| ContainerView {
                    task: self.task_arn(&task),
                    environment: (*container.environment).clone(),
                    directory: container.directory.clone(),
                })
            })
            .collect()
    }

    /// Returns the address of the task's SSH server.
    pub(crate) fn ssh_address(&self, task: &Task) -> SocketAddr {
        SocketAddr::from((task.address, self.ssh_port))
    }

    /// Remembers a connection, so that it can be cut.
    pub(crate) fn remember_connection(&self, connection: TcpStream) {
        let mut connections = lock(&self.connections);
        connections.retain(|known| known.peer_addr().is_ok());
        connections.push(connection);
    }

    pub(crate) fn drop_connections(&self) {
        self.cut.notify_waiters();
        for connection in lock(&self.connections).drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Requests the end of every task. Returns the tasks.
    pub(crate) fn stop_all(&self, why: &str) -> Vec<Arc<Task>> {
        let tasks = self.all();
        for task in &tasks {
            task.request_stop(Stop {
                code: "UserInitiated".to_owned(),
                reason: why.to_owned(),
                container_reason: None,
                exit_code: None,
            });
        }
        tasks
    }

    pub(crate) async fn until_stopped(&self, task: &Task) {
        // The sender is in `task`: it cannot be gone.
        let _ = task.state.subscribe().wait_for(|state| state.status == Status::Stopped).await;
    }

    /// Kills every process of every task at once.
    pub(crate) fn kill_all(&self) {
        for task in self.all() {
            processes::signal(&task.id, rustix::process::Signal::KILL);
        }
    }
}

/// Locks a mutex. After a panic of its holder, the plain data is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
