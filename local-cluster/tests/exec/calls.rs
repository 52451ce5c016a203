//! ExecuteCommand, the slots of a container, its agent, and how sessions end.

use std::time::Duration;

use local_cluster::{Credentials, ExecFaults, ExecSettings, LocalCluster, Settings, Times};
use serde_json::{Value, json};

use crate::{
    client::{self, Client, Frame, ecs, ssm, task, until_connected},
    execute, faults, prepared, session, start,
};

#[tokio::test]
async fn execute_command_is_refused_as_ecs_does() {
    let times = Times { exec_connects: Duration::from_secs(2).into(), ..Times::default() };
    let cluster = LocalCluster::start(Settings { times, ..Settings::default() }).await.unwrap();
    let without = task(&cluster, false).await;
    let with = task(&cluster, true).await;
    let command = |task: &str| json!({ "cluster": "local", "task": task, "command": "sh", "interactive": true });
    let refused =
        async |parameters: Value| ecs(&cluster, "ExecuteCommand", parameters).await.unwrap_err();

    let states = client::managed_agent_states(&cluster, &with).await;
    assert_eq!(states, ["PENDING", "RUNNING"], "before it is connected");
    assert!(
        refused(command(&with)).await.starts_with("TargetNotConnectedException"),
        "not connected yet"
    );
    until_connected(&cluster, &with).await;

    let changed = |name: &str, value: Value| {
        let mut parameters = command(&with);
        parameters[name] = value;
        parameters
    };
    let cases = [
        (
            command(&without),
            "InvalidParameterException: The execute command failed because execute command was not enabled",
        ),
        (
            changed("interactive", json!(false)),
            "InvalidParameterException: Interactive is the only mode",
        ),
        (
            changed("task", json!("short")),
            "InvalidParameterException: taskId length should be one of [32,36]",
        ),
        (
            changed("task", json!("0".repeat(32))),
            "InvalidParameterException: The referenced task was not found",
        ),
        (changed("container", json!("other")), "InvalidParameterException: The container other"),
        (changed("command", json!("")), "InvalidParameterException: Command"),
        (changed("cluster", json!("nowhere")), "ClusterNotFoundException"),
    ];
    for (parameters, expected) in cases {
        let error = refused(parameters).await;
        assert!(error.starts_with(expected), "{error}");
    }
    let answer = ecs(&cluster, "ExecuteCommand", changed("container", json!("ci-coordinator")))
        .await
        .unwrap();
    assert_eq!(
        (&answer["containerName"], &answer["interactive"], &answer["taskArn"]),
        (&json!("ci-coordinator"), &json!(true), &json!(with))
    );
    let url = answer["session"]["streamUrl"].as_str().unwrap();
    let (_, cell) = url.split_once("?role=publish_subscribe&cell-number=").unwrap();
    assert!(["+", "/", "="].iter().all(|c| cell.contains(c)), "{url}");

    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": with })).await.unwrap();
    assert!(refused(command(&with)).await.contains("not running"));
}

#[tokio::test]
async fn a_client_without_the_credentials_gets_no_shell() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let other = Credentials::random();
    let parameters =
        json!({ "cluster": "local", "task": task, "command": "sh", "interactive": true });
    let refused = client::post_as(
        &cluster,
        &other,
        "ecs",
        "AmazonEC2ContainerServiceV20141113.ExecuteCommand",
        &parameters,
    )
    .await;
    assert!(refused.unwrap_err().starts_with("UnrecognizedClientException"));
    // Nor does it get into somebody else's session: neither by ResumeSession nor by a guessed
    // token.
    let opened = execute(&cluster, &task, "sh").await.unwrap();
    let resume = json!({ "SessionId": opened.id });
    let refused =
        client::post_as(&cluster, &other, "ssm", "AmazonSSM.ResumeSession", &resume).await;
    assert!(refused.unwrap_err().starts_with("UnrecognizedClientException"));
    let mut guessing = client::dial(&opened.url, &[]).await.unwrap();
    client::say(&mut guessing, Frame::text(client::opening(&format!("AAEAA{}", "0".repeat(96)))))
        .await;
    assert!(client::closes(&mut guessing).await.is_some());
}

#[tokio::test]
async fn a_task_with_an_agent_and_without_a_key_has_no_ssh_server() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let address = cluster.tasks()[0].address;
    // By the time that the agent is connected, a server would listen.
    assert!(tokio::net::TcpStream::connect((address, cluster.ssh_port())).await.is_err());
    let mut client = session(&cluster, &task, "sh -c 'sleep 1000 & echo up; wait'").await;
    client.until_output(b"up").await;
    assert!(cluster.tasks()[0].processes.len() >= 2, "they carry the task's mark");
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    client.until_closed_or_gone().await;
    client::until(&cluster, &task, |task| task["lastStatus"] == "STOPPED").await;
    assert!(cluster.tasks()[0].processes.is_empty());
}

#[tokio::test]
async fn a_container_takes_two_sessions_and_one_that_waits() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut first = session(&cluster, &task, "sh -c 'echo up; read line'").await;
    let mut second = session(&cluster, &task, "sh -c 'echo up; read line'").await;
    first.until_output(b"up").await;
    second.until_output(b"up").await;
    let mut third = session(&cluster, &task, "sh -c 'echo third'").await;
    let full = execute(&cluster, &task, "sh").await.err().unwrap();
    assert!(full.starts_with("TargetNotConnectedException"), "{full}");
    assert!(third.is_silent(Duration::from_millis(200)).await, "it waits");
    first.send_until_acknowledged(1, b"\n").await;
    assert_eq!(first.until_closed().await.1, "");
    assert!(String::from_utf8_lossy(&third.until_closed().await.0).contains("third"));

    cluster.set_faults(faults(ExecFaults { slots_taken: 1, ..ExecFaults::default() }));
    assert!(
        execute(&cluster, &task, "sh")
            .await
            .err()
            .unwrap()
            .starts_with("TargetNotConnectedException")
    );
    assert!(execute(&cluster, &task, "sh").await.is_ok());
}

#[tokio::test]
async fn sessions_are_listed_by_container_and_start() {
    let (cluster, container) = prepared(ExecSettings::default()).await;
    let describe = async |parameters: Value| ssm(&cluster, "DescribeSessions", parameters).await;
    let before =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let opened = execute(&cluster, &container, "sh").await.unwrap();
    let all = describe(json!({ "State": "Active" })).await.unwrap();
    let shown = all["Sessions"][0].clone();
    assert_eq!((&shown["SessionId"], &shown["Status"]), (&json!(opened.id), &json!("Connected")));
    assert!(shown["StartDate"].as_f64().unwrap() >= before - 0.001);
    let target = shown["Target"].as_str().unwrap();
    assert!(target.starts_with("ecs:local_"), "{target}");
    let of = async |target: &str, state: &str| {
        let filters = json!([{ "key": "Target", "value": target }]);
        describe(json!({ "State": state, "Filters": filters })).await.unwrap()["Sessions"]
            .as_array()
            .unwrap()
            .len()
    };
    // Whoever waited for the agent had sessions of its own.
    let ended = of(target, "History").await;
    assert_eq!((of(target, "Active").await, of("ecs:local_0_1", "Active").await), (1, 0));
    ssm(&cluster, "TerminateSession", json!({ "SessionId": opened.id })).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while of(target, "Active").await != 0 {}
    })
    .await
    .expect("it is over");
    assert_eq!(of(target, "History").await, ended + 1);
    assert!(describe(json!({})).await.unwrap_err().starts_with("ValidationException"));
}

#[tokio::test]
async fn agents_can_be_missing_late_or_stopped() {
    let cluster = start(ExecSettings::default()).await;
    cluster.set_faults(faults(ExecFaults { never_connects: true, ..ExecFaults::default() }));
    let away = task(&cluster, true).await;
    client::until(&cluster, &away, |task| {
        task["containers"][0]["managedAgents"][0]["lastStatus"] == "RUNNING"
    })
    .await;
    assert!(
        execute(&cluster, &away, "sh")
            .await
            .err()
            .unwrap()
            .starts_with("TargetNotConnectedException")
    );

    cluster.set_faults(faults(ExecFaults { late_ms: 3000, ..ExecFaults::default() }));
    let late = task(&cluster, true).await;
    client::until(&cluster, &late, |task| {
        task["containers"][0]["managedAgents"][0]["lastStatus"] == "RUNNING"
    })
    .await;
    assert!(
        execute(&cluster, &late, "sh")
            .await
            .err()
            .unwrap()
            .starts_with("TargetNotConnectedException")
    );
    until_connected(&cluster, &late).await;

    cluster.set_faults(faults(ExecFaults {
        agent_stops: Some("read-only".into()),
        ..ExecFaults::default()
    }));
    let stopped = task(&cluster, true).await;
    let seen = client::until(&cluster, &stopped, |task| {
        task["containers"][0]["managedAgents"][0]["lastStatus"] == "STOPPED"
    })
    .await;
    assert_eq!(seen["containers"][0]["managedAgents"][0]["reason"], "read-only");
    assert!(
        execute(&cluster, &stopped, "sh")
            .await
            .err()
            .unwrap()
            .starts_with("InvalidParameterException")
    );
}

#[tokio::test]
async fn sessions_end_when_terminated_or_idle() {
    let exec = ExecSettings { idle_timeout: Duration::from_millis(600), ..ExecSettings::default() };
    let (cluster, task) = prepared(exec).await;
    // Output does not count.
    let mut idle = session(&cluster, &task, "sh -c 'while :; do echo x; sleep 0.1; done'").await;
    let (_, closed) = idle.until_closed().await;
    assert!(closed.contains("timed out due to inactivity"), "{closed}");

    // This one must not be idle for too long before it is terminated.
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let opened =
        execute(&cluster, &task, "sh -c 'trap : HUP TERM; echo up; while :; do sleep 0.1; done'")
            .await
            .unwrap();
    let mut terminated = Client::open(&opened, &opened.token).await;
    terminated.until_output(b"up").await;
    ssm(&cluster, "TerminateSession", json!({ "SessionId": opened.id })).await.unwrap();
    assert_eq!(terminated.until_closed().await.1, "");
    client::eventually("the leader is killed", || cluster.tasks()[0].processes.is_empty()).await;
}
