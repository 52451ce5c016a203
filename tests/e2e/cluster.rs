//! The clusters that the driver is tested on.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use local_cluster::{Credentials, LocalCluster, Settings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    http,
    moto::{self, Moto},
    proxy::Proxy,
};

#[path = "../../local-cluster/tests/signer/mod.rs"]
mod signer;

/// A cluster on which the driver runs jobs.
pub enum Cluster {
    Local(Local),
    Moto(Moto),
}

/// A task, as the cluster sees it.
#[derive(Debug)]
pub struct TaskSeen {
    pub status: String,
    pub processes: usize,
}

impl Cluster {
    pub fn moto() -> Self {
        Self::Moto(Moto::start(None))
    }

    /// moto, and a proxy before the containers.
    pub fn moto_behind(proxy: &Arc<Proxy>) -> Self {
        Self::Moto(Moto::start(Some(Arc::clone(proxy))))
    }

    pub fn local() -> Self {
        Self::Local(Local::start())
    }

    /// The local cluster, whose tasks have no SSH server.
    pub fn local_by_ecs_exec() -> Self {
        Self::local_by("ecs-exec")
    }

    /// The local cluster, with the tests' own transport: tests/pipes.
    pub fn local_by_pipes() -> Self {
        Self::local_by("pipes")
    }

    /// The local cluster with images: root file systems in a directory.
    pub fn local_with_images(images: &std::path::Path, transport: &'static str) -> Self {
        let settings = Settings { images: Some(images.to_owned()), ..Settings::default() };
        let mut local = Local::here(settings);
        local.transport = transport;
        Self::Local(local)
    }

    fn local_by(transport: &'static str) -> Self {
        let mut local = Local::start();
        local.transport = transport;
        Self::Local(local)
    }

    /// Returns faults that prevent connections to new tasks, for any transport.
    pub fn never_lets_in(&self) -> Value {
        if self.is_by_ecs_exec() {
            json!({ "exec": { "never_connects": true } })
        } else {
            json!({ "ssh": { "never_listens": true } })
        }
    }

    /// Returns faults that cut connections this often, after so many bytes: of SSH, or of ECS Exec,
    /// which compresses output.
    pub fn cuts_connections(&self, after_bytes: u64, after_packed_bytes: u64, times: u32) -> Value {
        if self.is_by_ecs_exec() {
            json!({ "exec": { "cut": { "how": "reset", "after_bytes": after_packed_bytes, "times": times } } })
        } else {
            json!({ "ssh": { "cut_after_bytes": after_bytes, "cuts": times } })
        }
    }

    /// Returns the name of its tasks' transport.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Local(local) => local.transport,
            Self::Moto(_) => "ssh",
        }
    }

    pub fn is_by_ecs_exec(&self) -> bool {
        self.transport() == "ecs-exec"
    }

    /// Whether jobs have a key with which the driver logs in.
    pub fn has_keys(&self) -> bool {
        self.transport() == "ssh"
    }

    /// Returns the local cluster, to inject faults.
    pub fn as_local(&self) -> &Local {
        match self {
            Self::Local(local) => local,
            Self::Moto(_) => unreachable!("faults are scripted on the local cluster"),
        }
    }

    pub fn endpoint(&self) -> &str {
        match self {
            Self::Local(local) => &local.endpoint,
            Self::Moto(moto) => &moto.endpoint,
        }
    }

    /// Returns the `[Fargate]` and `[SSH]` tables of `fargate.toml`, as users of the Go driver
    /// write them.
    pub fn configuration(&self) -> String {
        let (cluster, subnet, definition, port) = match self {
            Self::Local(local) => ("local", "subnet-local", "local-job:1", local.ssh_port),
            Self::Moto(moto) => {
                (moto.cluster.as_str(), moto.subnet.as_str(), "job:1", moto.ssh_port)
            }
        };
        let fargate = format!(
            "[Fargate]\nCluster = \"{cluster}\"\nRegion = \"us-east-1\"\nSubnet = \"{subnet}\"\nSecurityGroup = \"sg-0a1b2c3d\"\n\
             TaskDefinition = \"{definition}\"\nEnablePublicIP = false\n\n"
        );
        if !self.has_keys() {
            return format!("Transport = {:?}\n\n{fargate}", self.transport());
        }
        format!("{fargate}[SSH]\nUsername = \"root\"\nPort = {port}\nVerifyHost = \"required\"\n\n")
    }

    /// Returns the AWS settings for gitlab-runner's environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let (access_key_id, secret_access_key) = match self {
            Self::Local(local) => (
                local.credentials.access_key_id.as_str(),
                local.credentials.secret_access_key.as_str(),
            ),
            Self::Moto(_) => ("test", "test"),
        };
        let pairs = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", access_key_id),
            ("AWS_SECRET_ACCESS_KEY", secret_access_key),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Calls ECS with JSON.
    pub fn ecs(&self, action: &str, parameters: &Value) -> Value {
        match self {
            Self::Local(local) => local.ecs(action, parameters),
            Self::Moto(moto) => moto::ecs(&moto.endpoint, action, parameters),
        }
    }

    pub fn tasks(&self) -> Vec<TaskSeen> {
        match self {
            Self::Local(local) => {
                let tasks = local.get("/_tasks");
                let seen = |task: &Value| TaskSeen {
                    status: task["status"].as_str().unwrap().to_owned(),
                    processes: task["processes"].as_array().unwrap().len(),
                };
                tasks.as_array().unwrap().iter().map(seen).collect()
            }
            Self::Moto(moto) => moto
                .tasks()
                .into_iter()
                .map(|(_, status, processes)| TaskSeen { status, processes })
                .collect(),
        }
    }

    /// Fails unless there were so many tasks, and each is stopped, or DEPROVISIONING and then
    /// stopped, and has no process left.
    pub fn assert_nothing_is_left(&self, tasks: usize) {
        let seen = self.tasks();
        assert_eq!(seen.len(), tasks, "{seen:?}");
        let ended = |task: &TaskSeen| {
            matches!(task.status.as_str(), "DEPROVISIONING" | "STOPPED") && task.processes == 0
        };
        assert!(seen.iter().all(ended), "{seen:?}");
        eventually("all tasks are STOPPED", || {
            self.tasks().iter().all(|task| task.status == "STOPPED" && task.processes == 0)
        });
    }
}

/// The server of a local cluster.
enum Server {
    Process(Child),
    /// This process, which can set more than the command line.
    Here {
        cluster: Option<LocalCluster>,
        runtime: Runtime,
    },
}

/// `fargate local-cluster`, as a user starts it.
pub struct Local {
    server: Server,
    pub endpoint: String,
    pub ssh_port: u16,
    pub transport: &'static str,
    pub credentials: Credentials,
}

impl Local {
    /// Starts it in this process, with these settings.
    pub fn here(settings: Settings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let cluster = runtime.block_on(LocalCluster::start(settings)).unwrap();
        Self {
            endpoint: cluster.endpoint(),
            ssh_port: cluster.ssh_port(),
            transport: "ssh",
            credentials: cluster.credentials().clone(),
            server: Server::Here { cluster: Some(cluster), runtime },
        }
    }

    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with these arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_fargate"))
            .arg("local-cluster")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let ready = lines.next().unwrap();
        let rest = ready.strip_prefix("local cluster ready: ").unwrap_or_else(|| panic!("{ready}"));
        let (endpoint, port) = rest.split_once(" (ssh port ").unwrap();
        let mut exported = |name: &str| {
            let export = format!("export {name}='");
            lines
                .find_map(|line| {
                    Some(line.strip_prefix(&export)?.trim_end_matches('\'').to_owned())
                })
                .unwrap()
        };
        let credentials = Credentials {
            access_key_id: exported("AWS_ACCESS_KEY_ID"),
            secret_access_key: exported("AWS_SECRET_ACCESS_KEY"),
        };
        std::thread::spawn(move || lines.for_each(drop));
        let ssh_port = port.trim_end_matches(')').parse().unwrap();
        Self {
            server: Server::Process(process),
            endpoint: endpoint.to_owned(),
            ssh_port,
            transport: "ssh",
            credentials,
        }
    }

    /// Calls one of the cluster's own endpoints.
    fn administer(&self, method: &str, path: &str, body: &[u8]) -> http::Message {
        let bearer = format!("Authorization: Bearer {}", self.credentials.secret_access_key);
        let answer = http::request(&self.endpoint, method, path, &[&bearer], body);
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
        answer
    }

    /// Calls ECS, signed with the cluster's credentials.
    fn ecs(&self, action: &str, parameters: &Value) -> Value {
        let Credentials { access_key_id, secret_access_key } = &self.credentials;
        let signer = signer::Signer {
            access_key_id,
            secret_access_key,
            service: "ecs",
            at: SystemTime::now(),
        };
        let (url, body) = (format!("{}/", self.endpoint), parameters.to_string());
        let mut headers = vec![
            ("x-amz-target", format!("AmazonEC2ContainerServiceV20141113.{action}")),
            ("content-type", "application/x-amz-json-1.1".to_owned()),
        ];
        headers.extend(signer.sign("POST", &url, &headers, body.as_bytes()));
        let lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        serde_json::from_slice(
            &http::request(&self.endpoint, "POST", "/", &lines, body.as_bytes()).body,
        )
        .unwrap()
    }

    pub fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.administer("GET", path, b"").body).unwrap()
    }

    pub fn set_faults(&self, faults: &Value) {
        self.administer("PUT", "/_faults", faults.to_string().as_bytes());
    }

    pub fn drop_connections(&self) {
        self.administer("POST", "/_drop-connections", b"");
    }

    /// Ends the running tasks like a crash, with these codes and reasons.
    pub fn crash_tasks(&self, end: &Value) {
        self.administer("POST", "/_crash-tasks", end.to_string().as_bytes());
    }

    /// Returns how often an action was called.
    pub fn calls(&self, action: &str) -> usize {
        self.get("/_calls")
            .as_array()
            .unwrap()
            .iter()
            .filter(|call| call["action"] == action)
            .count()
    }
}

impl Local {
    /// Returns the most calls of an action within so many seconds, of the calls that the cluster
    /// knows.
    pub fn most_within(&self, seconds: u64, action: &str) -> usize {
        let calls = self.get("/_calls");
        let of_action = calls.as_array().unwrap().iter().filter(|call| call["action"] == action);
        let times: Vec<u64> = of_action.map(|call| call["at_ms"].as_u64().unwrap()).collect();
        let within = |from: &u64| {
            times.iter().filter(|at| (*from..from + seconds * 1000).contains(at)).count()
        };
        times.iter().map(within).max().unwrap_or(0)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        match &mut self.server {
            Server::Process(process) => {
                if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::TERM);
                }
                let _ = process.wait();
            }
            Server::Here { cluster, runtime } => {
                if let Some(cluster) = cluster.take() {
                    runtime.block_on(cluster.shutdown());
                }
            }
        }
    }
}

/// Polls until the condition holds; fails after a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < give_up, "it did not come to pass: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
