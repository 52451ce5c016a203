//! The state of the cluster: clusters, task definitions, tasks, and the record of API calls.

mod shown;
mod task;
mod views;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::{
    clock::unix_millis,
    definitions::{Definition, Definitions},
    exec::{Session, Sessions, keys::Keys},
    faults::{EarlyStop, Faults},
    lifecycle,
    settings::Settings,
    task::processes,
    times,
};
pub(crate) use task::{Capacity, ContainerOverride, Launch, Status, Stop, Task, TaskState};
pub use views::{Call, ContainerSummary, ContainerView, TaskView};

/// How many API calls are remembered.
const CALLS: usize = 10_000;

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
            "requiresCompatibilities": ["EC2", "FARGATE"],
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
        let number = known.tasks.len() as u64;
        let times = self.settings.times.draw(number, times::image_megabytes(&launch.tags));
        let task = Arc::new(Task::new(launch, address, times));
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

    /// Ends every running task like a crash.
    pub(crate) fn crash_all(&self, end: &EarlyStop) {
        let tasks = self.all();
        for task in tasks.iter().filter(|task| task.state().status == Status::Running) {
            let EarlyStop { code, reason, container_reason, exit_code } = end.clone();
            lifecycle::crash(task, Stop { code, reason, container_reason, exit_code });
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
        task.until(Status::Stopped).await;
    }

    /// Kills every process of every task at once.
    pub(crate) fn kill_all(&self) {
        for task in self.all() {
            processes::signal(&task.id, rustix::process::Signal::KILL);
            task.runtime.kill();
        }
    }
}

/// Locks a mutex. After a panic of its holder, the plain data is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
