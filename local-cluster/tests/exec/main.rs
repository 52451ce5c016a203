//! ECS Exec as a client sees it: the API, data channels, a shell on a terminal, and what goes wrong.
//! The client here has a codec of its own and follows AWS's client.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod client;

use std::time::Duration;

use client::{Client, Frame, Opened, Seen, closes, dial, digest, ecs, encode, kms, ssm, task, until_connected};
use local_cluster::{Cut, CutKind, EarlyEnd, ExecFaults, ExecSettings, Faults, Handshake, LocalCluster, Pause, Settings, Times, Upgrades};
use serde_json::{Value, json};

async fn start(exec: ExecSettings) -> LocalCluster {
    LocalCluster::start(Settings { exec, ..Settings::default() }).await.unwrap()
}

/// A running task with a connected agent.
async fn prepared(exec: ExecSettings) -> (LocalCluster, String) {
    let cluster = start(exec).await;
    let task = task(&cluster, true).await;
    until_connected(&cluster, &task).await;
    (cluster, task)
}

async fn execute(cluster: &LocalCluster, task: &str, command: &str) -> Result<Opened, String> {
    let parameters = json!({ "cluster": "local", "task": task, "command": command, "interactive": true });
    ecs(cluster, "ExecuteCommand", parameters).await.map(|answer| Opened::from(&answer["session"]))
}

async fn session(cluster: &LocalCluster, task: &str, command: &str) -> Client {
    let opened = execute(cluster, task, command).await.unwrap();
    Client::open(&opened, &opened.token).await
}

/// What a terminal that prints these numbers, without translation, sends.
fn numbers(to: u32) -> Vec<u8> {
    (1..=to).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

/// Prints numbers, byte for byte, and then waits for a line.
fn counting(to: u32) -> String {
    format!("/bin/sh -c 'stty raw -echo; seq 1 {to}; read line'")
}

fn faults(exec: ExecFaults) -> Faults {
    Faults { exec, ..Faults::default() }
}

#[tokio::test]
async fn execute_command_is_refused_as_ecs_does() {
    let times = Times { exec_connects: Duration::from_millis(300), ..Times::default() };
    let cluster = LocalCluster::start(Settings { times, ..Settings::default() }).await.unwrap();
    let without = task(&cluster, false).await;
    let with = task(&cluster, true).await;
    let command = |task: &str| json!({ "cluster": "local", "task": task, "command": "sh", "interactive": true });
    let refused = async |parameters: Value| ecs(&cluster, "ExecuteCommand", parameters).await.unwrap_err();

    let states = client::managed_agent_states(&cluster, &with).await;
    assert_eq!(states, ["PENDING", "RUNNING"], "before it is connected");
    assert!(refused(command(&with)).await.starts_with("TargetNotConnectedException"), "not connected yet");
    until_connected(&cluster, &with).await;

    let changed = |name: &str, value: Value| {
        let mut parameters = command(&with);
        parameters[name] = value;
        parameters
    };
    let cases = [
        (command(&without), "InvalidParameterException: The execute command failed because execute command was not enabled"),
        (changed("interactive", json!(false)), "InvalidParameterException: Interactive is the only mode"),
        (changed("task", json!("short")), "InvalidParameterException: taskId length should be one of [32,36]"),
        (changed("task", json!("0".repeat(32))), "InvalidParameterException: The referenced task was not found"),
        (changed("container", json!("other")), "InvalidParameterException: The container other"),
        (changed("command", json!("")), "InvalidParameterException: Command"),
        (changed("cluster", json!("nowhere")), "ClusterNotFoundException"),
    ];
    for (parameters, expected) in cases {
        let error = refused(parameters).await;
        assert!(error.starts_with(expected), "{error}");
    }
    let answer = ecs(&cluster, "ExecuteCommand", changed("container", json!("ci-coordinator"))).await.unwrap();
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
async fn a_command_runs_on_a_terminal_of_its_own() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client = session(
        &cluster,
        &task,
        "/bin/sh -c 'stty -echo; echo up; read size; tty; stty size; echo $TERM $LANG $$; cut -d\" \" -f6 /proc/$$/stat; kill -9 $$'",
    )
    .await;
    client.until_output(b"up\r\n").await;
    // Acknowledged once it has been used, not before the terminal is there.
    client.send_until_acknowledged(3, br#"{"cols":133,"rows":41}"#).await;
    client.send_until_acknowledged(1, b"go\n").await;
    let (output, closed) = client.until_closed().await;
    let output = String::from_utf8(output[4..].to_vec()).unwrap();
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{output}");
    assert_eq!((lines[1], lines[3]), ("41 133", lines[2].rsplit(' ').next().unwrap()), "the leader of its session");
    assert!(lines[2].starts_with("xterm-256color C.UTF-8 "), "{output}");
    assert_eq!(closed, "");
    assert_eq!(client.flags[0], 1, "SYN");
    assert!(client.flags[1..].iter().all(|flags| *flags == 0));
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
async fn input_is_put_in_order_and_acknowledged_once_it_is_safe() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client = session(&cluster, &task, "sh -c 'stty raw -echo; echo up; head -c 6; echo over'").await;
    client.until_output(b"up").await;
    // Early ones are acknowledged at once, doubles every time.
    for (sequence, payload) in [(2, b"c"), (1, b"b"), (2, b"c")] {
        client.send(sequence, 1, payload).await;
        assert_eq!(client.next_acknowledgement().await, sequence);
    }
    client.send(0, 1, b"a").await;
    assert_eq!(client.next_acknowledgement().await, 0);
    client.send(1, 1, b"b").await;
    assert_eq!(client.next_acknowledgement().await, 1, "again, though it was used");
    client.send(3, 1, b"def").await;
    let (output, _) = client.until_closed().await;
    assert!(String::from_utf8_lossy(&output).contains("abcdef"), "{output:?}");
}

#[tokio::test]
async fn input_that_comes_too_early_is_acknowledged_and_lost() {
    let exec = ExecSettings { start: Duration::from_secs(3), ..ExecSettings::default() };
    let (cluster, task) = prepared(exec).await;
    let mut client = session(&cluster, &task, "sh -c 'stty -echo; head -n 1'").await;
    // The first half: acknowledged at once.
    while client.is_acknowledged_soon(1, format!("{}\n", client.next).as_bytes()).await {
        client.next += 1;
    }
    assert!(client.next > 0, "some of it came too early");
    // The second half: only once the command runs.
    let kept = client.next;
    client.send_until_acknowledged(1, format!("{kept}\n").as_bytes()).await;
    let (output, _) = client.until_closed().await;
    // The terminal may still have echoed it.
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.lines().all(|line| line.trim() == kept.to_string()) && !output.is_empty(), "{output}");
}

#[tokio::test]
async fn only_the_oldest_message_is_sent_again() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client = session(&cluster, &task, &counting(2000)).await;
    client.acknowledges = false;
    let mut seen = Vec::new();
    while seen.iter().filter(|sequence| **sequence == 0).count() < 4 {
        if let Seen::Output { sequence, .. } = client.next().await {
            seen.push(sequence);
        }
    }
    let mut later: Vec<i64> = seen.into_iter().filter(|sequence| *sequence != 0).collect();
    let all = later.len();
    later.dedup();
    later.sort_unstable();
    later.dedup();
    assert!(all > 1 && later.len() == all, "the others came once");
}

#[tokio::test]
async fn output_passes_the_agents_filter_in_small_messages() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    // A genuine replacement character loses two bytes, an invalid byte passes; the last three may be kept.
    let command = r"sh -c 'stty raw -echo; printf \357\277\275; printf \377; seq 1 3000; echo end'";
    let mut client = session(&cluster, &task, &command.replace('\\', r"\\")).await;
    let (output, _) = client.until_closed().await;
    let mut expected = b"\xef\xff".to_vec();
    expected.extend(numbers(3000));
    expected.extend(b"end\n");
    assert_eq!(output, expected);
    assert!(client.longest <= 1027, "{}", client.longest);
}

#[tokio::test]
async fn a_session_goes_on_over_another_connection() {
    for how in [CutKind::Reset, CutKind::Bye, CutKind::Silence] {
        let (cluster, task) = prepared(ExecSettings::default()).await;
        let cut = Cut { how, after_bytes: Some(20_000), after_ms: None, times: 2 };
        cluster.set_faults(faults(ExecFaults { cut: Some(cut), ..ExecFaults::default() }));
        let opened = execute(&cluster, &task, &counting(20_000)).await.unwrap();
        let mut client = Client::open(&opened, &opened.token).await;
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(client.until_lost().await);
            let again = Opened::from(&ssm(&cluster, "ResumeSession", json!({ "SessionId": opened.id })).await.unwrap());
            client = client.reopen(&again).await;
        }
        client.until_output(b"20000\n").await;
        client.send_until_acknowledged(1, b"\n").await;
        let (output, closed) = client.until_closed().await;
        assert!(output == numbers(20_000), "{how:?}: {} bytes", output.len());
        assert_eq!(closed, "");
        let bye = ends.iter().all(|end| end.as_deref() == Some("1000 Bye"));
        assert_eq!(bye, how == CutKind::Bye, "{ends:?}");
    }
}

#[tokio::test]
async fn the_newer_connection_wins_and_closing_ends_nothing() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let opened = execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo $line'").await.unwrap();
    let mut first = Client::open(&opened, &opened.token).await;
    first.until_output(b"up").await;
    let again = Opened::from(&ssm(&cluster, "ResumeSession", json!({ "SessionId": opened.id })).await.unwrap());
    let mut second = Client::open(&again, &again.token).await;
    second.continue_from(&first);
    assert_eq!(first.until_lost().await.as_deref(), Some("1000 Bye"));
    let third = second.reopen(&again).await;
    drop(first);
    let mut third = third;
    third.send_until_acknowledged(1, b"still here\n").await;
    let (output, closed) = third.until_closed().await;
    assert!(String::from_utf8_lossy(&output).contains("still here"));
    assert_eq!(closed, "");
    let resumed = ssm(&cluster, "ResumeSession", json!({ "SessionId": opened.id })).await.unwrap();
    assert!(resumed.get("TokenValue").is_none(), "it is over");
    assert!(ssm(&cluster, "ResumeSession", json!({ "SessionId": "none" })).await.unwrap_err().starts_with("DoesNotExistException"));
}

#[tokio::test]
async fn noise_on_the_line_loses_nothing() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let noise = ExecFaults {
        drop_percent: 4,
        duplicate_percent: 10,
        reorder_percent: 10,
        corrupt_percent: 4,
        wrong_digest_percent: 4,
        ..ExecFaults::default()
    };
    cluster.set_faults(faults(noise));
    let mut client = session(&cluster, &task, "sh -c 'stty raw -echo; seq 1 6000; head -c 2000 | cksum; read line'").await;
    client.until_output(b"6000\n").await;
    let input: Vec<u8> = (0..2000).map(|n: u32| b'a' + (n % 26) as u8).collect();
    for piece in input.chunks(200) {
        client.send_until_acknowledged(1, piece).await;
    }
    client.until_output(b" 2000\n").await;
    assert!(client.output.starts_with(&numbers(6000)), "in order, once");
    assert!(client.dropped > 0, "damaged messages came");
}

#[tokio::test]
async fn the_service_pauses_its_client() {
    for announced in [true, false] {
        let (cluster, task) = prepared(ExecSettings::default()).await;
        let pause = Pause { after_bytes: 5_000, for_ms: 300, announced, times: 1 };
        cluster.set_faults(faults(ExecFaults { pause: Some(pause), ..ExecFaults::default() }));
        let mut client = session(&cluster, &task, &counting(5000)).await;
        client.until_output(b"5000\n").await;
        assert_eq!(client.output, numbers(5000));
        assert_eq!((client.pauses, client.starts), (1, usize::from(announced)));
    }
}

#[tokio::test]
async fn sessions_end_when_told_or_idle() {
    let exec = ExecSettings { idle_timeout: Duration::from_millis(600), ..ExecSettings::default() };
    let (cluster, task) = prepared(exec).await;
    // Output does not count.
    let mut idle = session(&cluster, &task, "sh -c 'while :; do echo x; sleep 0.1; done'").await;
    let (_, closed) = idle.until_closed().await;
    assert!(closed.contains("timed out due to inactivity"), "{closed}");

    let opened = execute(&cluster, &task, "sh -c 'trap : HUP TERM; echo up; while :; do sleep 0.1; done'").await.unwrap();
    let mut told = Client::open(&opened, &opened.token).await;
    told.until_output(b"up").await;
    ssm(&cluster, "TerminateSession", json!({ "SessionId": opened.id })).await.unwrap();
    assert_eq!(told.until_closed().await.1, "");
    client::eventually("the leader is killed", || cluster.tasks()[0].processes.is_empty()).await;
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
    assert!(execute(&cluster, &task, "sh").await.err().unwrap().starts_with("TargetNotConnectedException"));
    assert!(execute(&cluster, &task, "sh").await.is_ok());
}

#[tokio::test]
async fn agents_stay_away_or_come_late_or_stop() {
    let cluster = start(ExecSettings::default()).await;
    cluster.set_faults(faults(ExecFaults { never_connects: true, ..ExecFaults::default() }));
    let away = task(&cluster, true).await;
    client::until(&cluster, &away, |task| task["containers"][0]["managedAgents"][0]["lastStatus"] == "RUNNING").await;
    assert!(execute(&cluster, &away, "sh").await.err().unwrap().starts_with("TargetNotConnectedException"));

    cluster.set_faults(faults(ExecFaults { late_ms: 300, ..ExecFaults::default() }));
    let late = task(&cluster, true).await;
    client::until(&cluster, &late, |task| task["containers"][0]["managedAgents"][0]["lastStatus"] == "RUNNING").await;
    assert!(execute(&cluster, &late, "sh").await.err().unwrap().starts_with("TargetNotConnectedException"));
    until_connected(&cluster, &late).await;

    cluster.set_faults(faults(ExecFaults { agent_stops: Some("read-only".into()), ..ExecFaults::default() }));
    let stopped = task(&cluster, true).await;
    let seen = client::until(&cluster, &stopped, |task| task["containers"][0]["managedAgents"][0]["lastStatus"] == "STOPPED").await;
    assert_eq!(seen["containers"][0]["managedAgents"][0]["reason"], "read-only");
    assert!(execute(&cluster, &stopped, "sh").await.err().unwrap().starts_with("InvalidParameterException"));
}

#[tokio::test]
async fn a_session_that_cannot_start_says_why() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let cases = [
        ("nosuch -x", "Unable to start command: Failed to start pty: exec: \"nosuch\": executable file not found in $PATH"),
        ("/no/such", "Unable to start command: Failed to start pty: fork/exec /no/such: no such file or directory"),
        ("'unclosed", "Unable to start command: Failed to parse commands input: EOF found when expecting closing quote"),
        ("# nothing", "Commands cannot be empty for session type InteractiveCommands"),
    ];
    for (command, expected) in cases {
        assert_eq!(session(&cluster, &task, command).await.until_closed().await.1, expected);
    }
    let end = EarlyEnd { output: "no space left on device".into(), times: 1 };
    cluster.set_faults(faults(ExecFaults { ends_at_start: Some(end), ..ExecFaults::default() }));
    let opened = execute(&cluster, &task, "touch ran").await.unwrap();
    let mut client = Client::open(&opened, &opened.token).await;
    assert_eq!(client.until_closed().await, (Vec::new(), "no space left on device".into()));
    // Who comes later is told too.
    assert_eq!(Client::open(&opened, &opened.token).await.until_closed().await.1, "no space left on device");
}

#[tokio::test]
async fn connections_are_opened_by_token_signed_or_not() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let opened = execute(&cluster, &task, "sh -c 'echo up; read line'").await.unwrap();
    let scope = "Credential=AKID/20240501/us-east-1/ssmmessages/aws4_request, SignedHeaders=host;x-amz-date, Signature=00";
    let signed = [("authorization", format!("AWS4-HMAC-SHA256 {scope}")), ("x-amz-date", "20240501T000000Z".to_owned())];
    let wrong = [("authorization", "AWS4-HMAC-SHA256 Credential=AKID/20240501/us-east-1/ecs/aws4_request, Signature=00".to_owned())];
    let refusing = |upgrades| faults(ExecFaults { refuses_upgrades: Some(upgrades), ..ExecFaults::default() });
    let status = async |headers: &[(&'static str, String)]| dial(&opened.url, headers).await.err();
    assert_eq!(status(&signed).await, None);
    assert_eq!(status(&wrong).await, Some(403));
    cluster.set_faults(refusing(Upgrades::Unsigned));
    assert_eq!((status(&[]).await, status(&signed).await), (Some(403), None));
    cluster.set_faults(refusing(Upgrades::Signed));
    assert_eq!((status(&[]).await, status(&signed).await), (None, Some(403)));
    cluster.set_faults(Faults::default());
    assert_eq!(dial(&opened.url.replace('+', "%20"), &[]).await.err(), Some(400), "not the cell that was given");
    assert_eq!(dial(&opened.url.replace("ecs-execute", "ecs-else"), &[]).await.err(), Some(404));

    let mut wrong = dial(&opened.url, &[]).await.unwrap();
    client::say(&mut wrong, Frame::text(client::opening("AAEAAwrong"))).await;
    assert!(closes(&mut wrong).await.is_some());
    let mut binary = dial(&opened.url, &[]).await.unwrap();
    client::say(&mut binary, Frame::binary(encode("input_stream_data", 0, 1, b"x"))).await;
    assert!(closes(&mut binary).await.is_some());
    let mut right = Client::open(&opened, &opened.token).await;
    right.until_output(b"up").await;
}

#[tokio::test]
async fn tokens_grow_old() {
    let exec = ExecSettings { token_lifetime: Duration::ZERO, ..ExecSettings::default() };
    let (cluster, task) = prepared(exec).await;
    let opened = execute(&cluster, &task, "sh").await.unwrap();
    let mut late = dial(&opened.url, &[]).await.unwrap();
    client::say(&mut late, Frame::text(client::opening(&opened.token))).await;
    assert!(closes(&mut late).await.is_some());
}

#[tokio::test]
async fn a_session_begins_with_a_handshake_where_it_is_to() {
    let (cluster, task) = prepared(ExecSettings { handshake: Handshake::Plain, ..ExecSettings::default() }).await;
    let mut client = session(&cluster, &task, "sh -c 'echo up'").await;
    let request = client.until_payload(5).await;
    assert_eq!(request["RequestedClientActions"][0]["ActionParameters"]["SessionType"], "InteractiveCommands");
    // What is no answer is thrown away.
    client.send_until_acknowledged(1, b"lost").await;
    let success = json!({ "ActionType": "SessionType", "ActionStatus": 1, "ActionResult": null, "Error": "" });
    let response = json!({ "ClientVersion": "1.2.0.0", "ProcessedClientActions": [success], "Errors": null });
    client.send_until_acknowledged(6, response.to_string().as_bytes()).await;
    assert!(client.until_payload(7).await["HandshakeTimeToComplete"].is_u64());
    client.until_output(b"up").await;

    let mut refusing = session(&cluster, &task, "sh -c 'echo up'").await;
    refusing.until_payload(5).await;
    let failure = json!({ "ProcessedClientActions": [{ "ActionType": "SessionType", "ActionStatus": 2, "Error": "not today" }] });
    refusing.send(0, 6, failure.to_string().as_bytes()).await;
    let (_, closed) = refusing.until_closed().await;
    assert!(closed.contains("not today"), "{closed}");
}

#[tokio::test]
async fn a_session_is_encrypted_where_it_is_to_be() {
    let (cluster, task) = prepared(ExecSettings { handshake: Handshake::Kms, ..ExecSettings::default() }).await;
    for right in [true, false] {
        let opened = execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'").await.unwrap();
        let mut client = Client::open(&opened, &opened.token).await;
        let request = client.until_payload(5).await;
        let key_id = &request["RequestedClientActions"][1]["ActionParameters"]["KMSKeyId"];
        let id = task.rsplit('/').next().unwrap();
        let target = if right { format!("ecs:local_{id}_{id}-ci-coordinator") } else { "ecs:local_other".to_owned() };
        let context = json!({ "aws:ssm:SessionId": opened.id, "aws:ssm:TargetId": target });
        let key = kms(&cluster, json!({ "KeyId": key_id, "NumberOfBytes": 64, "EncryptionContext": context })).await.unwrap();
        let actions = json!([
            { "ActionType": "SessionType", "ActionStatus": 1 },
            { "ActionType": "KMSEncryption", "ActionStatus": 1, "ActionResult": { "KMSCipherTextKey": key["CiphertextBlob"] } },
        ]);
        let response = json!({ "ClientVersion": "1.2.0.0", "ProcessedClientActions": actions });
        let response = response.to_string();
        if !right {
            client.send(0, 6, response.as_bytes()).await;
            let (_, closed) = client.until_closed().await;
            assert!(closed.contains("Fetching data key failed"), "{closed}");
            continue;
        }
        client.send_until_acknowledged(6, response.as_bytes()).await;
        client.key(&key["Plaintext"]);
        let challenge = client.until_payload(8).await;
        let answer = client.meet(&challenge);
        client.send_until_acknowledged(9, answer.as_bytes()).await;
        assert_eq!(client.until_payload(7).await["CustomerMessage"], "This session is encrypted using AWS KMS.");
        client.until_output(b"up\r\n").await;
        let sealed = client.seal(b"secret\n");
        client.send_until_acknowledged(1, &sealed).await;
        let (output, closed) = client.until_closed().await;
        assert_eq!((String::from_utf8_lossy(&output).trim(), closed.as_str()), ("up\r\ngot secret", ""));
    }
}

#[tokio::test]
async fn hostile_clients_are_survived() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client = session(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'").await;
    client.until_output(b"up").await;
    let good = encode("input_stream_data", 0, 1, b"good\n");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let mut frames = vec![
        changed(&|f| f[..4].fill(0)),
        changed(&|f| f[..4].fill(255)),
        changed(&|f| f[3] = 115),
        changed(&|f| f[4..36].fill(0)),
        changed(&|f| f[4..36].fill(0xff)),
        changed(&|f| f[40..48].fill(0)),
        changed(&|f| f[80] ^= 1),
        encode("input_stream_data", -5, 1, b"before the first"),
        encode("input_stream_data", i64::MAX, 1, b"never"),
        encode("acknowledge", 0, 0, b"no JSON"),
        encode("acknowledge", 0, 0, br#"{"AcknowledgedMessageSequenceNumber":9223372036854775807}"#),
        encode("channel_closed", 0, 0, b"{}"),
        encode("agent_session_state", 0, 0, b"{}"),
        encode("pause_publication", 0, 0, b""),
    ];
    frames.extend((0..good.len()).map(|length| good[..length].to_vec()));
    for frame in frames {
        client::say(&mut client.socket, Frame::binary(frame)).await;
    }
    client.send_until_acknowledged(1, b"good\n").await;
    let (output, _) = client.until_closed().await;
    assert!(String::from_utf8_lossy(&output).contains("got good"), "the session went on");

    // Too long for the service: the connection goes, the session stays.
    let opened = execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'").await.unwrap();
    let mut client = Client::open(&opened, &opened.token).await;
    client.until_output(b"up").await;
    client::say(&mut client.socket, Frame::binary(vec![0; 2 * 1024 * 1024])).await;
    client.until_lost().await;
    let mut client = client.reopen(&opened).await;
    client.send_until_acknowledged(1, b"on\n").await;
    assert!(String::from_utf8_lossy(&client.until_closed().await.0).contains("got on"));
}

#[tokio::test]
async fn what_a_hostile_client_makes_it_keep_is_bounded() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client = session(&cluster, &task, "sh -c 'echo up; sleep 1000'").await;
    client.until_output(b"up").await;
    let before = resident();
    // More than may be kept of early input; what is beyond that is not acknowledged.
    let payload = vec![b'x'; 100 * 1024];
    let sent = 1500;
    let mut acknowledged = 0;
    for sequence in 1..=sent {
        client.send(sequence, 1, &payload).await;
        while client.acknowledgement_is_there().await {
            acknowledged += 1;
        }
    }
    client.send(1, 1, b"x").await;
    while client.next_acknowledgement().await != 1 || acknowledged == 0 {
        acknowledged += 1;
    }
    assert!(acknowledged < 1100, "{acknowledged} messages of 100 KiB are kept");
    let grown = resident().saturating_sub(before);
    assert!(grown < 250 * 1024 * 1024, "it has grown by {} MiB", grown / 1024 / 1024);
    assert_eq!(digest(b"abc")[..2], [0xba, 0x78]);
}

/// This process's memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
