//! The driver's requests to AWS, word for word, recorded by a server that refuses them.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    http::Message,
    runner::{Job, SYSTEM_FAILURE},
};

/// A server that answers every request alike, and keeps the requests.
struct Recorder {
    endpoint: String,
    requests: Arc<Mutex<Vec<Message>>>,
}

impl Recorder {
    fn start(status: &'static str, body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(request) = Message::read(&stream) else { continue };
                kept.lock().unwrap().push(request);
                let headers = vec![
                    "Content-Type: application/x-amz-json-1.1".to_owned(),
                    "x-amzn-RequestId: 7b0d".to_owned(),
                ];
                let _ = Message {
                    first: format!("HTTP/1.1 {status}"),
                    headers,
                    body: body.as_bytes().to_vec(),
                }
                .write(&stream);
            }
        });
        Self { endpoint, requests }
    }

    fn asked(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }
}

/// Returns a job of the local cluster whose driver calls the recorder instead.
fn job(recorder: &Recorder, fargate: &str) -> (Cluster, Job) {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.set("AWS_ENDPOINT_URL", &recorder.endpoint);
    let text = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, text.replace("EnablePublicIP = false\n", fargate)).unwrap();
    (cluster, job)
}

const DENIED: &str = r#"{"__type":"AccessDeniedException","message":"User: arn:aws:iam::1:user/x is not authorized to perform: ecs:RunTask"}"#;

#[test]
fn run_task_sends_every_setting() {
    let recorder = Recorder::start("400 Bad Request", DENIED);
    let (_cluster, mut job) = job(
        &recorder,
        "EnablePublicIP = true\nSubnets = [\"subnet-b\"]\nSecurityGroups = [\"sg-b\"]\nPlatformVersion = \"1.4.0\"\n\
         CapacityProviders = [{ Name = \"FARGATE_SPOT\", Weight = 3, Base = 1 }]\nTags = { team = \"ci\" }\n",
    );
    job.set("CUSTOM_ENV_CI_JOB_ID", "4711");
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("docs/iam.md") && prepared.stderr.contains("request 7b0d"),
        "{}",
        prepared.stderr
    );

    let asked = recorder.asked();
    assert_eq!(
        asked.len(),
        1,
        "a refusal for good is not asked again, and nothing needs to be looked for: {asked:?}"
    );
    assert_eq!(asked[0].header("x-amz-target"), Some("AmazonEC2ContainerServiceV20141113.RunTask"));
    assert!(
        asked[0].header("authorization").unwrap().contains("/us-east-1/ecs/aws4_request"),
        "{:?}",
        asked[0].headers
    );
    assert!(
        asked[0].header("user-agent").unwrap().contains("app/fargate-driver"),
        "{:?}",
        asked[0].headers
    );
    let mut said: Value = serde_json::from_slice(&asked[0].body).unwrap();

    // These values differ from run to run.
    let take = |value: &mut Value, pointer: &str| {
        value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")).take()
    };
    let started_by = take(&mut said, "/startedBy").as_str().unwrap().to_owned();
    let token = take(&mut said, "/clientToken").as_str().unwrap().to_owned();
    let key = take(&mut said, "/overrides/containerOverrides/0/environment/0/value")
        .as_str()
        .unwrap()
        .to_owned();
    let secret = take(&mut said, "/overrides/containerOverrides/0/environment/1/value")
        .as_str()
        .unwrap()
        .to_owned();
    let mut tags = take(&mut said, "/tags").as_array().unwrap().clone();
    assert!(started_by.starts_with("gitlab-4711-") && started_by.len() <= 36, "{started_by}");
    assert!(token.starts_with(&format!("{started_by}-")) && token.len() <= 64, "{token}");
    assert!(key.starts_with("ssh-ed25519 AAAA"), "{key}");
    assert!(
        secret.len() == 64 && secret.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{secret}"
    );
    tags.retain(|tag| !tag["key"].as_str().unwrap().starts_with("fargate-driver:"));
    tags.sort_by_key(|tag| tag["key"].as_str().unwrap().to_owned());
    let expected_tags = json!([
        { "key": "gitlab:job", "value": "4711" },
        { "key": "gitlab:job-name", "value": "build _1/2_" },
        { "key": "gitlab:pipeline", "value": "77" },
        { "key": "gitlab:project", "value": "https://gitlab.example/group/project" },
        { "key": "gitlab:runner", "value": "tOk3n_-x" },
        { "key": "team", "value": "ci" },
    ]);
    assert_eq!(Value::from(tags), expected_tags);
    let expected = json!({
        "cluster": "local",
        "taskDefinition": "local-job:1",
        "count": 1,
        "clientToken": null,
        "startedBy": null,
        "platformVersion": "1.4.0",
        "enableExecuteCommand": false,
        "capacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 3, "base": 1 }],
        "networkConfiguration": { "awsvpcConfiguration": {
            "subnets": ["subnet-local", "subnet-b"],
            "securityGroups": ["sg-0a1b2c3d", "sg-b"],
            "assignPublicIp": "ENABLED",
        } },
        "overrides": { "containerOverrides": [{ "name": "ci-coordinator", "environment": [
            { "name": "SSH_PUBLIC_KEY", "value": null },
            { "name": "FARGATE_HOST_PROOF_KEY", "value": null },
        ] }] },
        "tags": null,
    });
    assert_eq!(said, expected);
}

#[test]
fn run_task_requests_more_tags_if_configured() {
    let recorder = Recorder::start("400 Bad Request", DENIED);
    let (_cluster, job) =
        job(&recorder, "PropagateTags = \"TASK_DEFINITION\"\nEnableECSManagedTags = true\n");
    assert_eq!(job.stage(&["prepare"]).code, SYSTEM_FAILURE);
    let said: Value = serde_json::from_slice(&recorder.asked()[0].body).unwrap();
    assert_eq!(
        (&said["propagateTags"], &said["enableECSManagedTags"]),
        (&json!("TASK_DEFINITION"), &json!(true)),
        "{said}"
    );
}

/// The job's name and project have characters that AWS refuses in tags.
fn a_job_whose_names_are_no_tags(cluster: &Cluster) {
    let tag = |key: &str, value: &str| json!({ "key": key, "value": value });
    let definition = json!({
        "family": "tagged", "networkMode": "awsvpc", "cpu": "256", "memory": "512", "requiresCompatibilities": ["FARGATE"],
        "containerDefinitions": [{ "name": "ci-coordinator", "image": "x", "essential": true, "memory": 512 }],
        "tags": [tag("cost-centre", "42")],
    });
    cluster.ecs("RegisterTaskDefinition", &definition);
    let mut job = Job::on(cluster);
    let text = std::fs::read_to_string(&job.config).unwrap();
    let more = "PropagateTags = \"TASK_DEFINITION\"\nEnableECSManagedTags = true\n";
    std::fs::write(&job.config, text.replace("EnablePublicIP = false\n", more)).unwrap();
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", "tagged");
    job.set("CUSTOM_ENV_CI_JOB_NAME", &format!("aws:e\u{301} \u{93f} [1/2], {}", "x".repeat(300)));
    job.prepare();
    let list = json!({ "cluster": job_cluster(&text) });
    let tasks = cluster.ecs("ListTasks", &list)["taskArns"].clone();
    let asked = json!({ "cluster": job_cluster(&text), "tasks": tasks, "include": ["TAGS"] });
    let described = cluster.ecs("DescribeTasks", &asked);
    let tags = described["tasks"][0]["tags"].as_array().unwrap();
    let value = |key: &str| {
        tags.iter()
            .find(|tag| tag["key"] == key)
            .and_then(|tag| tag["value"].as_str())
            .unwrap_or_default()
    };
    assert!(value("gitlab:job-name").starts_with("_aws:e_ _ _1/2__ xxx"), "{tags:?}");
    if let Cluster::Local(_) = cluster {
        assert_eq!(
            (value("cost-centre"), value("aws:ecs:clusterName")),
            ("42", "local"),
            "{tags:?}"
        );
    }
    job.cleanup();
}

/// Returns the cluster that a configuration names.
fn job_cluster(configuration: &str) -> String {
    let line = configuration.lines().find(|line| line.starts_with("Cluster = ")).unwrap();
    line.trim_start_matches("Cluster = ").trim_matches('"').to_owned()
}

crate::parametrised::on_every_cluster!(a_job_whose_names_are_no_tags);

#[test]
fn answers_of_other_servers_are_not_shown_raw() {
    let recorder = Recorder::start("502 Bad Gateway", "<html><body>proxy error</body></html>");
    let (_cluster, job) = job(&recorder, "EnablePublicIP = false\n");
    let text = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(
        &job.config,
        format!("{text}[Deadlines]\nProvisioning = \"2s\"\nStop = \"1s\"\n"),
    )
    .unwrap();
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, SYSTEM_FAILURE, "{prepared:#?}");
    assert!(
        prepared.stderr.contains("HTTP status 502") && !prepared.stderr.contains("<html>"),
        "{}",
        prepared.stderr
    );
    let count = prepared.stderr.matches("could not be launched yet").count();
    assert_eq!(count, 1, "the same trouble is reported once: {}", prepared.stderr);
}

#[test]
fn the_public_address_comes_from_ec2() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    let text = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(
        &job.config,
        text.replace("EnablePublicIP = false\n", "EnablePublicIP = true\nUsePublicIP = true\n"),
    )
    .unwrap();
    job.prepare();
    assert_eq!(job.run("build_script", "echo reached").stdout, b"reached\n");
    job.cleanup();
    let Cluster::Local(local) = &cluster else { unreachable!("it was started above") };
    assert!(local.calls("DescribeNetworkInterfaces") >= 1);
    cluster.assert_nothing_is_left(1);
}
