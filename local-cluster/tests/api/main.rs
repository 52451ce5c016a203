//! The API as a client sees it: AWS's protocol, a task's life, ECS's refusals, scripted faults.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod access;
mod definitions;
mod faults;
#[path = "../signer/mod.rs"]
mod signer;

use std::time::{Duration, SystemTime};

use local_cluster::{Credentials, Faults, LocalCluster, Profile, Settings, Times};
use serde_json::{Value, json};
use signer::Signer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An answer: HTTP status and body.
struct Answer {
    status: u16,
    body: String,
}

async fn post(
    cluster: &LocalCluster,
    service: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> Answer {
    let Credentials { access_key_id, secret_access_key } = cluster.credentials();
    let signer = Signer { access_key_id, secret_access_key, service, at: SystemTime::now() };
    send(cluster, &signer, headers, body).await
}

/// A call that is signed like this.
async fn send(
    cluster: &LocalCluster,
    signer: &Signer<'_>,
    headers: &[(&'static str, String)],
    body: &str,
) -> Answer {
    let signature =
        signer.sign("POST", &format!("{}/", cluster.endpoint()), headers, body.as_bytes());
    raw(cluster, "POST /", &[headers, &signature].concat(), body).await
}

/// A request as it is.
async fn raw(
    cluster: &LocalCluster,
    request: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> Answer {
    let endpoint = cluster.endpoint();
    let host = endpoint.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), body: body.to_owned() }
}

fn ecs_headers(action: &str) -> Vec<(&'static str, String)> {
    vec![
        ("x-amz-target", format!("AmazonEC2ContainerServiceV20141113.{action}")),
        ("content-type", "application/x-amz-json-1.1".to_owned()),
    ]
}

fn form_headers() -> Vec<(&'static str, String)> {
    vec![("content-type", "application/x-www-form-urlencoded".to_owned())]
}

/// Calls an ECS action: its answer, or its error code.
async fn ecs(cluster: &LocalCluster, action: &str, parameters: Value) -> Result<Value, String> {
    let answer = post(cluster, "ecs", &ecs_headers(action), &parameters.to_string()).await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    if answer.status == 200 {
        Ok(body)
    } else {
        Err(format!("{} {}: {}", answer.status, body["__type"].as_str().unwrap(), body["message"]))
    }
}

fn launch() -> Value {
    json!({
        "cluster": "local",
        "taskDefinition": "local-job",
        "startedBy": "test",
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-local"] } },
        "overrides": { "containerOverrides": [{ "name": "ci-coordinator", "environment": [{ "name": "SSH_PUBLIC_KEY", "value": "ssh-ed25519 AAAA" }] }] },
    })
}

fn with(mut parameters: Value, key: &str, value: Value) -> Value {
    parameters[key] = value;
    parameters
}

async fn run(cluster: &LocalCluster) -> String {
    let answer = ecs(cluster, "RunTask", launch()).await.unwrap();
    answer["tasks"][0]["taskArn"].as_str().unwrap().to_owned()
}

async fn describe(cluster: &LocalCluster, task: &str) -> Value {
    ecs(cluster, "DescribeTasks", json!({ "cluster": "local", "tasks": [task] })).await.unwrap()
}

/// Describes the task until it looks as wanted; all statuses on the way, in order.
async fn until(
    cluster: &LocalCluster,
    task: &str,
    wanted: impl Fn(&Value) -> bool,
) -> (Value, Vec<String>) {
    let mut statuses: Vec<String> = Vec::new();
    for _ in 0..4000 {
        let answer = describe(cluster, task).await;
        let seen = &answer["tasks"][0];
        if let Some(status) = seen["lastStatus"].as_str()
            && statuses.last().is_none_or(|last| last != status)
        {
            statuses.push(status.to_owned());
        }
        if wanted(seen) {
            return (seen.clone(), statuses);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the task does not get there: {statuses:?}");
}

fn is(status: &'static str) -> impl Fn(&Value) -> bool {
    move |task| task["lastStatus"] == status
}

async fn start() -> LocalCluster {
    let times = Times { deprovisioning: Duration::from_millis(100).into(), ..Times::default() };
    LocalCluster::start(Settings { times, ..Settings::default() }).await.unwrap()
}

#[tokio::test]
async fn a_task_passes_through_ecss_states() {
    // Longer than a busy machine keeps this test from looking.
    let (second, half) = (Duration::from_secs(1).into(), Duration::from_millis(500).into());
    let times = Times {
        describe_lag: second,
        provisioning: Duration::from_secs(2).into(),
        pending: half,
        activating: half,
        ..Times::default()
    };
    let cluster = LocalCluster::start(Settings { times, ..Settings::default() }).await.unwrap();
    let task = run(&cluster).await;
    let missing = describe(&cluster, &task).await;
    assert_eq!(
        (missing["failures"][0]["reason"].as_str(), missing["tasks"].as_array().unwrap().len()),
        (Some("MISSING"), 0),
        "not visible yet"
    );

    let (running, statuses) = until(&cluster, &task, is("RUNNING")).await;
    assert_eq!(statuses, ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING"]);
    assert_eq!(running["containers"][0]["name"], "ci-coordinator");
    let details = running["attachments"][0]["details"].as_array().unwrap();
    let detail = |name: &str| {
        details.iter().find(|d| d["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert!(detail("networkInterfaceId").starts_with("eni-"));

    // A real SSH server answers at the task's own address.
    let address = format!("{}:{}", detail("privateIPv4Address"), cluster.ssh_port());
    let mut session = None;
    for attempt in 0.. {
        session = TcpStream::connect(&address).await.ok();
        if session.is_some() {
            break;
        }
        assert!(attempt < 2000, "nothing listens on {address}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut session, mut banner) = (session.unwrap(), [0; 8]);
    session.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"SSH-2.0-");

    let stop = json!({ "cluster": "local", "task": task, "reason": "enough" });
    assert_eq!(ecs(&cluster, "StopTask", stop).await.unwrap()["task"]["desiredStatus"], "STOPPED");
    let (stopped, _) = until(&cluster, &task, is("STOPPED")).await;
    assert_eq!(
        (stopped["stopCode"].as_str(), stopped["stoppedReason"].as_str()),
        (Some("UserInitiated"), Some("enough"))
    );
    assert!(TcpStream::connect(&address).await.is_err(), "the server is gone with its task");
    let mut rest = Vec::new();
    let ends = tokio::time::timeout(Duration::from_secs(30), session.read_to_end(&mut rest));
    assert!(ends.await.is_ok(), "its connections end with it");
}

#[tokio::test]
async fn a_client_token_launches_once() {
    let cluster = start().await;
    let first = ecs(&cluster, "RunTask", with(launch(), "clientToken", json!("t1"))).await.unwrap();
    let again = ecs(&cluster, "RunTask", with(launch(), "clientToken", json!("t1"))).await.unwrap();
    assert_eq!(first["tasks"][0]["taskArn"], again["tasks"][0]["taskArn"]);
    let other = with(with(launch(), "clientToken", json!("t1")), "startedBy", json!("another"));
    assert!(ecs(&cluster, "RunTask", other).await.unwrap_err().contains("ConflictException"));
    assert_eq!(cluster.tasks().len(), 1);
}

#[tokio::test]
async fn started_by_is_the_only_filter_of_a_list() {
    let cluster = start().await;
    let task = run(&cluster).await;
    until(&cluster, &task, is("RUNNING")).await;
    let list = async |more: Value| {
        let mut parameters = json!({ "cluster": "local", "startedBy": "test" });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ecs(&cluster, "ListTasks", parameters).await
    };
    assert_eq!(list(json!({})).await.unwrap()["taskArns"], json!([task]));
    for more in [
        json!({ "desiredStatus": "STOPPED" }),
        json!({ "desiredStatus": "RUNNING" }),
        json!({ "family": "local-job" }),
    ] {
        assert!(list(more).await.unwrap_err().contains("InvalidParameterException"));
    }
    // What is told to stop is not meant to run.
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    assert_eq!(list(json!({})).await.unwrap()["taskArns"], json!([]));
}

#[tokio::test]
async fn tags_are_propagated_and_shown_on_request() {
    let cluster = start().await;
    let tag = |key: &str, value: &str| json!({ "key": key, "value": value });
    let definition = json!({
        "family": "tagged", "containerDefinitions": [{ "name": "ci-coordinator", "image": "local" }],
        "tags": [tag("cost-centre", "42"), tag("team", "definition")],
    });
    ecs(&cluster, "RegisterTaskDefinition", definition).await.unwrap();
    let mut wanted = with(
        with(launch(), "taskDefinition", json!("tagged")),
        "tags",
        json!([tag("team", "job")]),
    );
    let shown = async |parameters: Value| {
        let launched = ecs(&cluster, "RunTask", parameters).await.unwrap();
        let task = launched["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
        until(&cluster, &task, is("RUNNING")).await;
        assert_eq!(
            describe(&cluster, &task).await["tasks"][0]["tags"],
            json!([]),
            "without `include`"
        );
        let asked = json!({ "cluster": "local", "tasks": [task], "include": ["TAGS"] });
        ecs(&cluster, "DescribeTasks", asked).await.unwrap()["tasks"][0]["tags"].clone()
    };
    assert_eq!(shown(wanted.clone()).await, json!([tag("team", "job")]));
    wanted["propagateTags"] = json!("TASK_DEFINITION");
    wanted["enableECSManagedTags"] = json!(true);
    assert_eq!(
        shown(wanted).await,
        json!([tag("team", "job"), tag("cost-centre", "42"), tag("aws:ecs:clusterName", "local")])
    );
}

#[tokio::test]
async fn a_task_that_runs_gets_more_tags_within_ecss_limits() {
    let cluster = start().await;
    let tag = |key: &str, value: &str| json!({ "key": key, "value": value });
    let mut wanted = with(launch(), "tags", json!([tag("team", "warm"), tag("pool", "p")]));
    wanted["enableECSManagedTags"] = json!(true);
    let launched = ecs(&cluster, "RunTask", wanted).await.unwrap();
    let task = launched["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
    until(&cluster, &task, is("RUNNING")).await;
    let put = async |arn: &str, tags: Value| {
        ecs(&cluster, "TagResource", json!({ "resourceArn": arn, "tags": tags })).await
    };
    put(&task, json!([tag("team", "job"), tag("job", "7")])).await.unwrap();
    let asked = json!({ "cluster": "local", "tasks": [task], "include": ["TAGS"] });
    let shown = ecs(&cluster, "DescribeTasks", asked).await.unwrap()["tasks"][0]["tags"].clone();
    let expected = [
        tag("pool", "p"),
        tag("aws:ecs:clusterName", "local"),
        tag("team", "job"),
        tag("job", "7"),
    ];
    assert_eq!(shown, json!(expected));

    let many: Vec<Value> = (0..48).map(|number| tag(&format!("k{number}"), "v")).collect();
    for (arn, tags, error) in [
        (task.as_str(), json!([tag("aws:x", "y")]), "InvalidParameterException"),
        (&task, json!([tag("k", &"v".repeat(257))]), "InvalidParameterException"),
        (&task, json!(many), "more than 50"),
        ("arn:aws:ecs:us-east-1:1:task/local/none", json!([]), "ResourceNotFoundException"),
    ] {
        let refused = put(arn, tags).await.unwrap_err();
        assert!(refused.contains(error), "{refused}");
    }
    put(&task, json!(many[..47])).await.unwrap();
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    until(&cluster, &task, is("STOPPED")).await;
    assert!(put(&task, json!([])).await.unwrap_err().contains("is stopped"));
}

#[tokio::test]
async fn a_repeated_launch_can_be_a_conflict() {
    let cluster = start().await;
    cluster.set_faults(Faults { conflicts: 1, ..Faults::default() });
    let launch = || ecs(&cluster, "RunTask", with(launch(), "clientToken", json!("t1")));
    let first = launch().await.unwrap();
    assert!(launch().await.unwrap_err().contains("ConflictException"));
    assert_eq!(launch().await.unwrap()["tasks"][0]["taskArn"], first["tasks"][0]["taskArn"]);
}

#[tokio::test]
async fn refusals_match_those_of_ecs() {
    let cluster = start().await;
    ecs(&cluster, "CreateCluster", json!({ "clusterName": "bare" })).await.unwrap();
    let tagged =
        |key: &str, value: &str| with(launch(), "tags", json!([{ "key": key, "value": value }]));
    let vpc = |value: Value| with(launch(), "networkConfiguration", value);
    let cases = [
        (with(launch(), "cluster", json!("nowhere")), "ClusterNotFoundException"),
        (with(launch(), "taskDefinition", json!("nothing:7")), "TaskDefinition not found"),
        (
            with(launch(), "cluster", json!("bare")),
            "No Container Instances were found in your cluster.",
        ),
        (with(launch(), "platformVersion", json!("9.x")), "PlatformUnknownException"),
        (with(launch(), "startedBy", json!("not valid!")), "InvalidParameterException"),
        (
            with(launch(), "overrides", json!({ "containerOverrides": [{ "name": "other" }] })),
            "Override for container named other is not a container in the TaskDefinition.",
        ),
        (vpc(Value::Null), "Network Configuration must be provided"),
        (vpc(json!({ "awsvpcConfiguration": { "subnets": [] } })), "subnets can not be empty"),
        (
            with(
                with(launch(), "launchType", json!("FARGATE")),
                "capacityProviderStrategy",
                json!([{ "capacityProvider": "FARGATE" }]),
            ),
            "both",
        ),
        (with(launch(), "clientToken", json!("x".repeat(65))), "clientToken"),
        (
            with(launch(), "capacityProviderStrategy", json!([{ "capacityProvider": "FARGATE" }])),
            "weight of 0",
        ),
        (with(launch(), "propagateTags", json!("SERVICE")), "propagateTags"),
        (tagged("AWS:x", "y"), "Invalid tag"),
        (tagged("x", "aws:y"), "Invalid tag"),
        // A combining accent.
        (tagged("x", "e\u{301}"), "Invalid tag"),
    ];
    for (parameters, expected) in cases {
        let error = ecs(&cluster, "RunTask", parameters).await.unwrap_err();
        assert!(error.starts_with("400 ") && error.contains(expected), "{error}");
    }
    assert!(cluster.tasks().is_empty());
    assert!(
        ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": "gone" }))
            .await
            .unwrap_err()
            .contains("referenced task was not found")
    );
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    assert!(
        ecs(&cluster, "DescribeTasks", json!({ "cluster": "local", "tasks": many }))
            .await
            .unwrap_err()
            .contains("100")
    );
    assert!(
        ecs(&cluster, "Dance", json!({})).await.unwrap_err().contains("UnknownOperationException")
    );
}

#[tokio::test]
async fn definitions_are_registered_and_described() {
    let cluster = start().await;
    let register = json!({ "family": "mine", "containerDefinitions": [{ "name": "build", "image": "local" }] });
    for revision in 1..=2 {
        let answer = ecs(&cluster, "RegisterTaskDefinition", register.clone()).await.unwrap();
        assert_eq!(answer["taskDefinition"]["revision"], revision);
    }
    let latest =
        ecs(&cluster, "DescribeTaskDefinition", json!({ "taskDefinition": "mine" })).await.unwrap();
    assert_eq!(latest["taskDefinition"]["revision"], 2);
    assert_eq!(latest["taskDefinition"]["containerDefinitions"][0]["name"], "build");
    let clusters = ecs(&cluster, "DescribeClusters", json!({ "clusters": ["local", "nowhere"] }))
        .await
        .unwrap();
    assert_eq!(clusters["clusters"][0]["clusterName"], "local");
    assert_eq!(clusters["failures"][0]["reason"], "MISSING");
}

#[tokio::test]
async fn tasks_are_listed_by_who_started_them_in_pages() {
    let cluster = start().await;
    let mut ours = Vec::new();
    for _ in 0..3 {
        ours.push(run(&cluster).await);
    }
    ecs(&cluster, "RunTask", with(launch(), "startedBy", json!("others"))).await.unwrap();
    until(&cluster, &ours[2], |task| task["lastStatus"].is_string()).await;
    let list = |more: Value| {
        let mut parameters = json!({ "cluster": "local", "startedBy": "test" });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ecs(&cluster, "ListTasks", parameters)
    };
    let first = list(json!({ "maxResults": 2 })).await.unwrap();
    let second = list(json!({ "maxResults": 2, "nextToken": first["nextToken"] })).await.unwrap();
    let listed: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|page| page["taskArns"].as_array().unwrap())
        .map(|arn| arn.as_str().unwrap())
        .collect();
    assert_eq!(listed, ours);
    assert!(second.get("nextToken").is_none());
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": ours[1] })).await.unwrap();
    assert_eq!(list(json!({})).await.unwrap()["taskArns"], json!([ours[0], ours[2]]));
    let stopped = json!({ "cluster": "local", "desiredStatus": "STOPPED" });
    assert_eq!(ecs(&cluster, "ListTasks", stopped).await.unwrap()["taskArns"], json!([ours[1]]));
}

#[tokio::test]
async fn ec2_returns_public_addresses() {
    let cluster = start().await;
    let public = with(
        launch(),
        "networkConfiguration",
        json!({ "awsvpcConfiguration": { "subnets": ["s"], "assignPublicIp": "ENABLED" } }),
    );
    for (parameters, has) in [(launch(), false), (public, true)] {
        let task = ecs(&cluster, "RunTask", parameters).await.unwrap()["tasks"][0]["taskArn"]
            .as_str()
            .unwrap()
            .to_owned();
        // From PENDING on, it has an interface.
        let attached = |task: &Value| {
            task["lastStatus"].as_str().is_some_and(|status| status != "PROVISIONING")
        };
        let (seen, _) = until(&cluster, &task, attached).await;
        let details = seen["attachments"][0]["details"].as_array().unwrap().clone();
        let interface =
            details.iter().find(|d| d["name"] == "networkInterfaceId").unwrap()["value"]
                .as_str()
                .unwrap()
                .to_owned();
        let form = format!(
            "Action=DescribeNetworkInterfaces&Version=2016-11-15&NetworkInterfaceId.1={interface}"
        );
        let answer = post(&cluster, "ec2", &form_headers(), &form).await;
        assert_eq!(
            (answer.status, answer.body.contains("<publicIp>127.")),
            (200, has),
            "{}",
            answer.body
        );
    }
    let unknown = post(
        &cluster,
        "ec2",
        &form_headers(),
        "Action=DescribeNetworkInterfaces&NetworkInterfaceId.1=eni-0",
    )
    .await;
    assert!(
        unknown.status == 400 && unknown.body.contains("InvalidNetworkInterfaceID.NotFound"),
        "{}",
        unknown.body
    );
}

#[tokio::test]
async fn sts_returns_the_identity_and_services_that_are_missing_are_refused() {
    let cluster = start().await;
    let identity = "Action=GetCallerIdentity&Version=2011-06-15";
    let answer = post(&cluster, "sts", &form_headers(), identity).await;
    let arn = "<Arn>arn:aws:iam::000000000000:user/local</Arn>";
    assert!(answer.status == 200 && answer.body.contains(arn), "{}", answer.body);
    let stranger = post(&cluster, "ec2", &form_headers(), identity).await;
    assert!(stranger.body.contains("SignatureDoesNotMatch"), "{}", stranger.body);
    let role = "Action=GetRole&Version=2010-05-08&RoleName=x";
    let refused = post(&cluster, "iam", &form_headers(), role).await;
    assert!(refused.status == 400 && refused.body.contains("InvalidAction"), "{}", refused.body);
}

#[tokio::test]
async fn a_task_of_the_fargate_profile_has_fargates_times() {
    let cluster = LocalCluster::start(Settings::of(Profile::Fargate, 0.1, 5)).await.unwrap();
    let task = run(&cluster).await;
    assert_eq!(describe(&cluster, &task).await["failures"][0]["reason"], "MISSING");
    let (running, statuses) = until(&cluster, &task, is("RUNNING")).await;
    assert_eq!(statuses, ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING"]);
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    let (stopped, statuses) = until(&cluster, &task, is("STOPPED")).await;
    assert!(
        statuses.ends_with(
            &["DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"].map(str::to_owned)
        ),
        "{statuses:?}"
    );
    // No less than drawn, by ECS's own times; more is the machine's doing.
    let at = |task: &Value, name: &str| task[name].as_f64().unwrap();
    let (start, stop) = (
        at(&running, "startedAt") - at(&running, "createdAt"),
        at(&stopped, "stoppedAt") - at(&stopped, "startedAt"),
    );
    assert!(start >= 40.0 * 0.1 && stop >= 13.0 * 0.1, "started in {start} s, stopped in {stop} s");
    // It is listed seconds after it is described, on Fargate.
    let listed =
        ecs(&cluster, "ListTasks", json!({ "cluster": "local", "desiredStatus": "STOPPED" }))
            .await
            .unwrap();
    assert_eq!(listed["taskArns"], json!([task]));
}

#[tokio::test]
async fn tasks_run_on_container_instances_where_there_are_any() {
    let on = |parameters: Value| with(parameters, "launchType", json!("EC2"));
    let without = LocalCluster::start(Settings::default()).await.unwrap();
    let refused = ecs(&without, "RunTask", on(launch())).await.unwrap_err();
    assert!(refused.contains("No Container Instances were found"), "{refused}");

    let settings = Settings { instances: true, ..Settings::default() };
    let cluster = LocalCluster::start(settings).await.unwrap();
    let answer = ecs(&cluster, "RunTask", on(launch())).await.unwrap();
    let task = &answer["tasks"][0];
    assert_eq!((&task["launchType"], &task["capacityProviderName"]), (&json!("EC2"), &Value::Null));
    let strategy = |names: &[&str]| {
        let items = names.iter().map(|name| json!({ "capacityProvider": name, "weight": 1 }));
        with(launch(), "capacityProviderStrategy", items.collect())
    };
    let answer = ecs(&cluster, "RunTask", strategy(&["instances"])).await.unwrap();
    assert_eq!(answer["tasks"][0]["capacityProviderName"], "instances");
    assert_eq!(answer["tasks"][0]["launchType"], "EC2");
    let answer = ecs(&cluster, "RunTask", strategy(&["FARGATE_SPOT"])).await.unwrap();
    assert_eq!(answer["tasks"][0]["capacityProviderName"], "FARGATE_SPOT");
    assert_eq!(answer["tasks"][0]["attributes"][0]["value"], "x86_64");

    let mut public = on(launch());
    public["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = json!("ENABLED");
    let mut storage = on(launch());
    storage["overrides"]["ephemeralStorage"] = json!({ "sizeInGiB": 50 });
    let platform = with(on(launch()), "platformVersion", json!("1.4.0"));
    for (parameters, said) in [
        (strategy(&["instances", "FARGATE"]), "cannot contain both Fargate and"),
        (public, "Assign public IP is not supported"),
        (platform, "platform version must be null"),
        (storage, "Ephemeral storage"),
    ] {
        let refused = ecs(&cluster, "RunTask", parameters).await.unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
}
