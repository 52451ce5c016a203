//! A command on a terminal: its input and its output, over one connection and over several.

use std::time::Duration;

use local_cluster::{AgentRules, Cut, CutKind, ExecFaults, ExecSettings, Pause};
use serde_json::json;

use crate::{
    client::{Client, Opened, Seen, ssm},
    counting, execute, faults, numbers, prepared, session,
};

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
    assert_eq!(
        (lines[1], lines[3]),
        ("41 133", lines[2].rsplit(' ').next().unwrap()),
        "the leader of its session"
    );
    assert!(lines[2].starts_with("xterm-256color C.UTF-8 "), "{output}");
    assert_eq!(closed, "");
    assert_eq!(client.flags[0], 1, "SYN");
    assert!(client.flags[1..].iter().all(|flags| *flags == 0));
}

#[tokio::test]
async fn input_is_ordered_and_acknowledged_once_it_is_used() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client =
        session(&cluster, &task, "sh -c 'stty raw -echo; echo up; head -c 6; echo over'").await;
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
    let agent = AgentRules { start: Duration::from_secs(6), ..AgentRules::quick() };
    let exec = ExecSettings { agent, ..ExecSettings::default() };
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
    assert!(
        output.lines().all(|line| line.trim() == kept.to_string()) && !output.is_empty(),
        "{output}"
    );
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
    // A genuine replacement character loses two bytes, an invalid byte passes; the last three may
    // be kept.
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
async fn a_session_continues_over_another_connection() {
    for how in [CutKind::Reset, CutKind::Bye, CutKind::Silence] {
        let (cluster, task) = prepared(ExecSettings::default()).await;
        let cut = Cut { how, after_bytes: Some(20_000), after_ms: None, times: 2 };
        cluster.set_faults(faults(ExecFaults { cut: Some(cut), ..ExecFaults::default() }));
        let opened = execute(&cluster, &task, &counting(20_000)).await.unwrap();
        let mut client = Client::open(&opened, &opened.token).await;
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(client.until_lost().await);
            let again = Opened::from(
                &ssm(&cluster, "ResumeSession", json!({ "SessionId": opened.id })).await.unwrap(),
            );
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
    let opened = execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo $line'")
        .await
        .unwrap();
    let mut first = Client::open(&opened, &opened.token).await;
    first.until_output(b"up").await;
    let again = Opened::from(
        &ssm(&cluster, "ResumeSession", json!({ "SessionId": opened.id })).await.unwrap(),
    );
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
    assert!(
        ssm(&cluster, "ResumeSession", json!({ "SessionId": "none" }))
            .await
            .unwrap_err()
            .starts_with("DoesNotExistException")
    );
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
    let mut client = session(
        &cluster,
        &task,
        "sh -c 'stty raw -echo; seq 1 6000; head -c 2000 | cksum; read line'",
    )
    .await;
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
