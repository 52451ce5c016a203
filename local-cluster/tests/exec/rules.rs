//! What AWS's own agent insists on, and how long it takes ([`AgentRules::real`]).

use std::time::{Duration, Instant};

use local_cluster::{AgentRules, EarlyEnd, ExecFaults, ExecSettings, Handshake, LocalCluster};
use serde_json::json;

use crate::{
    client::{Client, Opened, ssm},
    counting, execute, faults, prepared, session,
};

const WAITS: &str = "sh -c 'echo up; read line'";

fn real(change: impl FnOnce(&mut AgentRules)) -> ExecSettings {
    let mut agent = AgentRules::real();
    // Most of these tests are not about its pace.
    agent.first_output = Duration::from_millis(50);
    change(&mut agent);
    ExecSettings { agent, ..ExecSettings::default() }
}

/// Leaves most of the five seconds in which a session must get a slot to a busy machine.
fn frees_soon(rules: &mut AgentRules) {
    rules.release = Duration::from_millis(200);
}

async fn up(cluster: &LocalCluster, task: &str) -> Client {
    let mut client = session(cluster, task, WAITS).await;
    client.until_output(b"up").await;
    client
}

async fn terminate(cluster: &LocalCluster, opened: &Opened) {
    ssm(cluster, "TerminateSession", json!({ "SessionId": opened.id })).await.unwrap();
}

#[tokio::test]
async fn a_third_session_waits_and_a_fourth_is_retried() {
    let (cluster, task) = prepared(real(frees_soon)).await;
    let (mut first, mut second) = (up(&cluster, &task).await, up(&cluster, &task).await);
    let (mut third, mut fourth) =
        (session(&cluster, &task, WAITS).await, session(&cluster, &task, WAITS).await);
    assert!(
        third.is_silent(Duration::from_millis(300)).await
            && fourth.is_silent(Duration::from_millis(1)).await
    );
    first.send_until_acknowledged(1, b"\n").await;
    assert_eq!(first.until_closed().await.1, "");
    third.until_output(b"up").await;
    second.send_until_acknowledged(1, b"\n").await;
    second.until_closed().await;
    fourth.until_output(b"up").await;
}

#[tokio::test]
async fn a_session_without_a_slot_for_five_seconds_blocks_the_agent_for_good() {
    let (cluster, task) = prepared(real(|_| {})).await;
    let (first, second) = (up(&cluster, &task).await, up(&cluster, &task).await);
    let _third = session(&cluster, &task, WAITS).await;
    let _fourth = session(&cluster, &task, WAITS).await;
    tokio::time::sleep(Duration::from_millis(5200)).await;
    for mut client in [first, second] {
        client.send_until_acknowledged(1, b"\n").await;
        client.until_closed().await;
    }
    let mut late = session(&cluster, &task, WAITS).await;
    assert!(late.is_silent(Duration::from_secs(4)).await, "no session ever starts again");
}

#[tokio::test]
async fn a_terminated_session_keeps_its_place_in_the_queue() {
    let (cluster, task) = prepared(real(frees_soon)).await;
    let (mut first, _second) = (up(&cluster, &task).await, up(&cluster, &task).await);
    let queued = execute(&cluster, &task, WAITS).await.unwrap();
    let mut third = Client::open(&queued, &queued.token).await;
    terminate(&cluster, &queued).await;
    assert_eq!(third.until_closed().await.1, "", "for its client it is over");
    let mut fourth = session(&cluster, &task, WAITS).await;
    assert!(fourth.is_silent(Duration::from_millis(1500)).await, "its place is still taken");
    first.send_until_acknowledged(1, b"\n").await;
    first.until_closed().await;
    fourth.until_output(b"up").await;
}

#[tokio::test]
async fn a_slot_is_free_two_seconds_after_its_session() {
    let (cluster, task) = prepared(real(|rules| rules.workers = 1)).await;
    let opened = execute(&cluster, &task, WAITS).await.unwrap();
    let mut first = Client::open(&opened, &opened.token).await;
    first.until_output(b"up").await;
    terminate(&cluster, &opened).await;
    first.until_closed().await;
    let ended = Instant::now();
    up(&cluster, &task).await;
    assert!(ended.elapsed() >= Duration::from_millis(1900), "{:?}", ended.elapsed());
}

#[tokio::test]
async fn the_pace_is_the_real_agents() {
    let (cluster, task) =
        prepared(ExecSettings { agent: AgentRules::real(), ..ExecSettings::default() }).await;
    let asked = Instant::now();
    let mut client = session(&cluster, &task, &counting(150_000)).await;
    client.until_output(b"1\n").await;
    let first = asked.elapsed();
    assert!(first >= Duration::from_millis(1050), "{first:?}");
    client.until_output(b"150000\n").await;
    let took = asked.elapsed() - first;
    // 939 messages: never faster than this, whatever the machine.
    assert!(
        took >= Duration::from_micros(1300) * 900,
        "{took:?} for {} bytes",
        client.output.len()
    );
}

#[tokio::test]
async fn errors_come_in_a_frame() {
    let (cluster, task) = prepared(real(|_| {})).await;
    let closed = session(&cluster, &task, "/no/such").await.until_closed().await.1;
    let text = "Unable to start command: Failed to start pty: fork/exec /no/such: no such file or directory";
    assert_eq!(closed, format!("\n----------ERROR-------\n{text}\n\n"));
    let end = EarlyEnd { output: "no space left on device".into(), times: 1 };
    cluster.set_faults(faults(ExecFaults { ends_at_start: Some(end), ..ExecFaults::default() }));
    let closed = session(&cluster, &task, WAITS).await.until_closed().await.1;
    assert_eq!(closed, "\n----------ERROR-------\nno space left on device\n\n");
}

#[tokio::test]
async fn an_unsolicited_response_hangs_its_reader() {
    let (cluster, task) = prepared(real(|_| {})).await;
    let mut client = up(&cluster, &task).await;
    assert!(!client.is_acknowledged_soon(6, b"{}").await);
    assert!(!client.is_acknowledged_soon(1, b"\n").await, "nothing is read any more");

    let (cluster, task) =
        prepared(ExecSettings { handshake: Handshake::Plain, ..real(|_| {}) }).await;
    let mut asked = session(&cluster, &task, WAITS).await;
    asked.until_payload(5).await;
    let response =
        json!({ "ProcessedClientActions": [{ "ActionType": "SessionType", "ActionStatus": 1 }] });
    asked.send_until_acknowledged(6, response.to_string().as_bytes()).await;
    asked.until_output(b"up").await;
}

#[tokio::test]
async fn invalid_sizes_are_not_acknowledged_and_commands_with_parameters_never_start() {
    let (cluster, task) = prepared(real(|_| {})).await;
    let mut client = up(&cluster, &task).await;
    assert!(!client.is_acknowledged_soon(3, b"wide").await);
    client.send_until_acknowledged(3, br#"{"cols":80,"rows":24}"#).await;
    let mut dropped = session(&cluster, &task, "sh -c 'echo {{ssm:name}}'").await;
    assert!(dropped.is_silent(Duration::from_millis(500)).await);
    let (output, _) = session(&cluster, &task, "sh -c 'echo {{name}}'").await.until_closed().await;
    assert!(String::from_utf8_lossy(&output).contains("{{name}}"));
}

#[tokio::test]
async fn logged_sessions_close_slowly() {
    let (cluster, task) =
        prepared(real(|rules| rules.log_upload = Duration::from_millis(700))).await;
    let mut client = session(&cluster, &task, "sh -c 'echo up; echo over'").await;
    client.until_output(b"over\r\n").await;
    let ended = Instant::now();
    client.until_closed().await;
    assert!(ended.elapsed() >= Duration::from_millis(600), "{:?}", ended.elapsed());
}

/// Without a single acknowledgement of its client, it waits twice as long for the last ones.
#[tokio::test]
async fn the_agent_waits_for_last_acknowledgements() {
    let waits = Duration::from_millis(400);
    let (cluster, task) = prepared(real(|rules| rules.last_acknowledgements = waits)).await;
    let mut client = session(&cluster, &task, "sh -c 'echo up'").await;
    client.acknowledges = false;
    client.until_output(b"up").await;
    let ended = Instant::now();
    client.until_closed().await;
    assert!(ended.elapsed() >= waits * 7 / 4, "{:?}", ended.elapsed());
}
