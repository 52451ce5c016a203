//! moto (a public mock of AWS), and a proxy before it that puts a real sshd behind each task.
//!
//! moto's tasks are RUNNING at once and have a made-up address. The proxy reads `SSH_PUBLIC_KEY`
//! from RunTask, starts sshd a moment later on a loopback address, and shows that address instead.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    http::{self, Message},
    openssh::Sshd,
    processes,
    proxy::Proxy,
};

const TARGET: &str = "AmazonEC2ContainerServiceV20141113";

/// How long a container's sshd takes to come up.
const SSHD_DELAY: Duration = Duration::from_millis(300);

/// The one moto of this test process; it ends with it.
///
/// moto's CloudFormation lacks the attribute `Value` of a parameter in Systems Manager: it is added.
pub fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        let python = std::env::var("FARGATE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let program = "import os, sys, threading\n\
            threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n\
            from moto.server import main\n\
            from moto.ssm.models import Parameter\n\
            Parameter.has_cfn_attr = classmethod(lambda cls, name: name == 'Value')\n\
            Parameter.get_cfn_attribute = lambda self, name: self.value\n\
            main(['-H', '127.0.0.1', '-p', '0'])";
        let mut moto = Command::new(python)
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto needs python3; scripts/test installs it");
        let mut lines = BufReader::new(moto.stderr.take().unwrap()).lines();
        let endpoint = loop {
            let line = lines.next().expect("moto ended; scripts/test installs it").unwrap();
            if let Some((_, url)) = line.split_once("Running on ") {
                break url.trim().to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        // It reads its end from stdin, which closes when this process is gone.
        std::mem::forget(moto);
        // Tasks stay RUNNING until they are stopped.
        let transition = json!({ "model_name": "ecs::task", "transition": { "progression": "manual", "times": 1_000_000 } });
        let set = http::request(
            &endpoint,
            "POST",
            "/moto-api/state-manager/set-transition",
            &["content-type: application/json"],
            transition.to_string().as_bytes(),
        );
        assert!(set.status() < 300, "{set:?}");
        endpoint
    })
}

pub fn authorization(service: &str) -> String {
    format!(
        "authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// A call to ECS, as JSON.
pub fn ecs(endpoint: &str, action: &str, parameters: &Value) -> Value {
    let headers = [
        authorization("ecs"),
        format!("x-amz-target: {TARGET}.{action}"),
        "content-type: application/x-amz-json-1.1".to_owned(),
    ];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let body =
        http::request(endpoint, "POST", "/", &headers, parameters.to_string().as_bytes()).body;
    serde_json::from_slice(&body)
        .unwrap_or_else(|e| panic!("{action}: {e}: {}", String::from_utf8_lossy(&body)))
}

/// A call to EC2: an action with its parameters. Returns the answer's XML.
fn ec2(query: &str) -> String {
    let body = format!("Action={query}&Version=2016-11-15");
    let answer = http::request(server(), "POST", "/", &[&authorization("ec2")], body.as_bytes());
    String::from_utf8(answer.body).unwrap()
}

/// Returns the text of the first element of this name.
fn element(xml: &str, name: &str) -> String {
    let rest = xml.split(&format!("<{name}>")).nth(1).unwrap_or_else(|| panic!("{name}: {xml}"));
    rest.split('<').next().unwrap().to_owned()
}

/// Returns a subnet of the default VPC, and that VPC.
pub fn default_subnet() -> (String, String) {
    let subnets = ec2("DescribeSubnets&Filter.1.Name=default-for-az&Filter.1.Value.1=true");
    (element(&subnets, "subnetId"), element(&subnets, "vpcId"))
}

/// Runs a job with each task definition of docs/. moto checks a definition's shape like ECS. The
/// container of its tasks is a real sshd in any case, so both jobs use SSH.
#[test]
#[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
fn the_documented_task_definitions_run_jobs() {
    let cluster = crate::cluster::Cluster::moto();
    for text in [
        include_str!("../../deploy/task-definition-ssh.json"),
        include_str!("../../deploy/task-definition-ecs-exec.json"),
    ] {
        let mut definition: Value = serde_json::from_str(text).unwrap();
        // On Fargate the task's size is enough; moto requires reservations of containers.
        definition["containerDefinitions"][0]["memory"] = json!(512);
        let registered = ecs(server(), "RegisterTaskDefinition", &definition);
        let family = definition["family"].as_str().unwrap();
        assert_eq!(registered["taskDefinition"]["family"], family, "{registered}");
        assert_eq!(registered["taskDefinition"]["cpu"], definition["cpu"], "{registered}");
        let mut job = crate::runner::Job::on(&cluster);
        job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", family);
        job.prepare();
        let run = job.run("build_script", "echo by the book");
        assert_eq!(String::from_utf8_lossy(&run.stdout), "by the book\n", "{run:#?}");
        job.cleanup();
    }
    cluster.assert_nothing_is_left(2);
}

/// A cluster on moto with real containers.
pub struct Moto {
    pub endpoint: String,
    pub cluster: String,
    pub subnet: String,
    pub ssh_port: u16,
    containers: Arc<Containers>,
    _held: [TcpListener; 2],
}

#[derive(Default)]
struct Containers {
    /// Where the driver connects.
    port: u16,
    /// The proxy in front of the containers, and the port of their sshd behind it.
    proxy: Option<(Arc<Proxy>, u16)>,
    /// moto's address → the real one.
    addresses: Mutex<HashMap<String, Ipv4Addr>>,
    /// Task ARN → its container; `None` once it is stopped.
    running: Mutex<HashMap<String, Option<Sshd>>>,
    /// How long a task is DEACTIVATING after StopTask: moto's own are STOPPED at once.
    stops_take: Mutex<Duration>,
    /// Task ARN → when its stop was requested.
    stop_requested: Mutex<HashMap<String, Instant>>,
}

impl Containers {
    /// Changes the tasks in an answer as if they took time to stop.
    fn show_ending(&self, answer: &mut Value) {
        let (stops_take, requested) =
            (*self.stops_take.lock().unwrap(), self.stop_requested.lock().unwrap());
        let show = |task: &mut Value| {
            if task["taskArn"]
                .as_str()
                .and_then(|arn| requested.get(arn))
                .is_some_and(|at| at.elapsed() < stops_take)
            {
                task["lastStatus"] = json!("DEACTIVATING");
            }
        };
        if let Some(task) = answer.get_mut("task") {
            show(task);
        }
        answer.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten().for_each(show);
    }
}

impl Moto {
    /// Starts a cluster; connections to its containers pass through the proxy, if there is one.
    pub fn start(proxy: Option<Arc<Proxy>>) -> Self {
        let upstream = server();
        let cluster = format!("ci-{:08x}", rand::random::<u32>());
        ecs(
            upstream,
            "CreateCluster",
            &json!({ "clusterName": cluster, "capacityProviders": ["FARGATE"],
            "defaultCapacityProviderStrategy": [{ "capacityProvider": "FARGATE", "weight": 1, "base": 0 }] }),
        );
        for family in ["job", "other"] {
            ecs(
                upstream,
                "RegisterTaskDefinition",
                &json!({ "family": family, "networkMode": "awsvpc", "cpu": "256", "memory": "512",
                "requiresCompatibilities": ["FARGATE"], "containerDefinitions": [{ "name": "ci-coordinator", "image": "x", "essential": true, "memory": 512 }] }),
            );
        }
        let (subnet, _) = default_subnet();
        Self::with(cluster, subnet, proxy)
    }

    /// Puts containers behind the tasks of a cluster that moto has already.
    pub fn with(cluster: String, subnet: String, proxy: Option<Arc<Proxy>>) -> Self {
        let upstream = server();
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [ssh_port, sshd_port] =
            [&held[0], &held[1]].map(|held| held.local_addr().unwrap().port());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let containers = Arc::new(Containers {
            port: ssh_port,
            proxy: proxy.map(|proxy| (proxy, sshd_port)),
            ..Containers::default()
        });
        let shared = Arc::clone(&containers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || pass(&stream, upstream, &shared));
            }
        });
        Self { endpoint, cluster, subnet, ssh_port, containers, _held: held }
    }

    /// Registers a container instance, so that tasks can have the launch type EC2.
    pub fn register_instance(&self) {
        let instance = element(
            &ec2("RunInstances&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1"),
            "instanceId",
        );
        let identity = json!({ "instanceId": instance }).to_string();
        let registered = ecs(
            server(),
            "RegisterContainerInstance",
            &json!({ "cluster": self.cluster, "instanceIdentityDocument": identity }),
        );
        assert_eq!(registered["containerInstance"]["status"], "ACTIVE", "{registered}");
    }

    /// Returns the address of the tasks' containers.
    #[allow(dead_code, reason = "for the benchmark `stages`")]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.containers.addresses.lock().unwrap().values().copied().collect()
    }

    /// Sets how long tasks take to stop, including those that are stopping.
    pub fn stops_take(&self, time: Duration) {
        *self.containers.stops_take.lock().unwrap() = time;
    }

    /// Runs an action on the only container.
    pub fn with_sshd(&self, act: impl FnOnce(&mut Sshd)) {
        let mut running = self.containers.running.lock().unwrap();
        let mut alive = running.values_mut().flatten();
        act(alive.next().expect("a container"));
        assert!(alive.next().is_none(), "there are several containers");
    }

    /// Returns task ARN, `lastStatus` and living processes of every task.
    pub fn tasks(&self) -> Vec<(String, String, usize)> {
        let mut tasks = Vec::new();
        for status in ["RUNNING", "STOPPED"] {
            let listed = ecs(
                server(),
                "ListTasks",
                &json!({ "cluster": self.cluster, "desiredStatus": status }),
            );
            for arn in listed["taskArns"].as_array().unwrap() {
                let arn = arn.as_str().unwrap().to_owned();
                let alive = processes::marked(&mark(&arn)).len();
                tasks.push((arn, status.to_owned(), alive));
            }
        }
        tasks
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.containers.running.lock().unwrap().clear();
    }
}

pub fn mark(arn: &str) -> String {
    format!("FARGATE_TEST_TASK={}", arn.rsplit('/').next().unwrap())
}

/// Forwards one request, and its answer back.
fn pass(stream: &TcpStream, upstream: &str, containers: &Arc<Containers>) -> Option<()> {
    let mut request = Message::read(stream)?;
    let target = request.header("x-amz-target").unwrap_or_default().to_owned();
    if target.ends_with(".RegisterTaskDefinition") {
        reserve_memory(&mut request)?;
    }
    let host = upstream.trim_start_matches("http://");
    let above = TcpStream::connect(host).ok()?;
    request.write(&above).ok()?;
    let mut answer = Message::read(&above)?;
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if answer.status() == 200 && target.ends_with(".RunTask") {
        launch(&asked, &serde_json::from_slice(&answer.body).ok()?, containers);
    }
    if answer.status() == 200 && target.ends_with(".StopTask") {
        let reply: Value = serde_json::from_slice(&answer.body).ok()?;
        let arn = reply["task"]["taskArn"].as_str()?.to_owned();
        containers.stop_requested.lock().unwrap().entry(arn.clone()).or_insert_with(Instant::now);
        // Dropped outside the lock: ending sshd takes a moment.
        let container = containers.running.lock().unwrap().insert(arn, None);
        drop(container);
    }
    if answer.status() == 200
        && ["StopTask", "DescribeTasks"].iter().any(|action| target.ends_with(action))
        && let Ok(mut said) = serde_json::from_slice::<Value>(&answer.body)
    {
        containers.show_ending(&mut said);
        answer.body = said.to_string().into_bytes();
    }
    let mut body = String::from_utf8(answer.body).ok()?;
    for (made_up, ours) in containers.addresses.lock().unwrap().iter() {
        body = body.replace(&format!("\"{made_up}\""), &format!("\"{ours}\""));
    }
    answer.body = body.into_bytes();
    answer.write(stream).ok()
}

/// On Fargate the task's size is enough; moto launches only containers with a reservation.
fn reserve_memory(request: &mut Message) -> Option<()> {
    let mut asked: Value = serde_json::from_slice(&request.body).ok()?;
    for container in asked["containerDefinitions"].as_array_mut()? {
        if container.get("memory").is_none() {
            container["memoryReservation"] = json!(16);
        }
    }
    request.body = asked.to_string().into_bytes();
    Some(())
}

fn launch(asked: &Value, reply: &Value, containers: &Arc<Containers>) {
    let task = &reply["tasks"][0];
    let arn = task["taskArn"].as_str().unwrap().to_owned();
    let details = task["attachments"][0]["details"].as_array().unwrap();
    let made_up = details.iter().find(|d| d["name"] == "privateIPv4Address").unwrap()["value"]
        .as_str()
        .unwrap()
        .to_owned();
    let overridden = &asked["overrides"]["containerOverrides"][0];
    assert_eq!(overridden["name"], "ci-coordinator");
    let variables = overridden["environment"].as_array().unwrap();
    if variables.is_empty() {
        // A test of launches only.
        return;
    }
    let variable = |name: &str| {
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap_or_else(|| panic!("no {name}"))["value"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (key, secret) = (variable("SSH_PUBLIC_KEY"), variable("FARGATE_HOST_PROOF_KEY"));
    let [a, b, c] = rand::random::<[u8; 3]>();
    let address = Ipv4Addr::new(127, 128 | (a & 63), b, c.clamp(1, 254));
    containers.addresses.lock().unwrap().insert(made_up, address);
    let containers = Arc::clone(containers);
    std::thread::spawn(move || {
        std::thread::sleep(SSHD_DELAY);
        let mut running = containers.running.lock().unwrap();
        running.entry(arn.clone()).or_insert_with(|| {
            let port =
                containers.proxy.as_ref().map_or(containers.port, |(_, sshd_port)| *sshd_port);
            let sshd = Sshd::start(address, port, &key, &secret, &mark(&arn));
            if let Some((proxy, _)) = &containers.proxy {
                proxy.stand_before(
                    SocketAddr::from((address, containers.port)),
                    SocketAddr::from((address, port)),
                );
            }
            Some(sshd)
        });
    });
}
