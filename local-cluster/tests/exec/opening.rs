//! How a session begins: what cannot start, tokens and signatures, the handshake, encryption.

use std::time::Duration;

use local_cluster::{EarlyEnd, ExecFaults, ExecSettings, Faults, Handshake, Upgrades};
use serde_json::json;

use crate::{
    client::{self, Client, Frame, closes, dial, encode, kms},
    execute, faults, prepared, session,
};

#[tokio::test]
async fn a_session_that_cannot_start_says_why() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let cases = [
        (
            "nosuch -x",
            "Unable to start command: Failed to start pty: exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            "/no/such",
            "Unable to start command: Failed to start pty: fork/exec /no/such: no such file or directory",
        ),
        (
            "'unclosed",
            "Unable to start command: Failed to parse commands input: EOF found when expecting closing quote",
        ),
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
    assert_eq!(
        Client::open(&opened, &opened.token).await.until_closed().await.1,
        "no space left on device"
    );
}

#[tokio::test]
async fn connections_are_opened_by_token_signed_or_not() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let opened = execute(&cluster, &task, "sh -c 'echo up; read line'").await.unwrap();
    let http = opened.url.replacen("ws", "http", 1);
    let signed = client::signature(cluster.credentials(), "ssmmessages", "GET", &http, &[], b"");
    let wrong = client::signature(cluster.credentials(), "ecs", "GET", &http, &[], b"");
    let [authorization, date] = &*signed else { panic!("{signed:?}") };
    let (rest, last) = authorization.1.split_at(authorization.1.len() - 1);
    let forged =
        [(authorization.0, format!("{rest}{}", if last == "0" { 1 } else { 0 })), date.clone()];
    let refusing =
        |upgrades| faults(ExecFaults { refuses_upgrades: Some(upgrades), ..ExecFaults::default() });
    let status = async |headers: &[(&'static str, String)]| dial(&opened.url, headers).await.err();
    assert_eq!(status(&signed).await, None);
    assert_eq!((status(&wrong).await, status(&forged).await), (Some(403), Some(403)));
    cluster.set_faults(refusing(Upgrades::Unsigned));
    assert_eq!((status(&[]).await, status(&signed).await), (Some(403), None));
    cluster.set_faults(refusing(Upgrades::Signed));
    assert_eq!((status(&[]).await, status(&signed).await), (None, Some(403)));
    cluster.set_faults(faults(ExecFaults {
        refuses_upgrades: Some(Upgrades::All),
        upgrade_status: Some(410),
        ..ExecFaults::default()
    }));
    assert_eq!(status(&signed).await, Some(410));
    cluster.set_faults(Faults::default());
    let twice = format!("{}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00", opened.url);
    assert_eq!(
        (dial(&twice, &[]).await.err(), dial(&twice, &signed).await.err()),
        (None, Some(400)),
        "signed twice"
    );
    assert_eq!(
        dial(&opened.url.replace('+', "%20"), &[]).await.err(),
        Some(400),
        "not the cell that was given"
    );
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
async fn tokens_expire() {
    let exec = ExecSettings { token_lifetime: Duration::ZERO, ..ExecSettings::default() };
    let (cluster, task) = prepared(exec).await;
    let opened = execute(&cluster, &task, "sh").await.unwrap();
    let mut late = dial(&opened.url, &[]).await.unwrap();
    client::say(&mut late, Frame::text(client::opening(&opened.token))).await;
    assert!(closes(&mut late).await.is_some());
}

#[tokio::test]
async fn sessions_begin_with_a_handshake_if_configured() {
    let (cluster, task) =
        prepared(ExecSettings { handshake: Handshake::Plain, ..ExecSettings::default() }).await;
    let mut client = session(&cluster, &task, "sh -c 'echo up'").await;
    let request = client.until_payload(5).await;
    assert_eq!(
        request["RequestedClientActions"][0]["ActionParameters"]["SessionType"],
        "InteractiveCommands"
    );
    // What is no answer is thrown away.
    client.send_until_acknowledged(1, b"lost").await;
    let success = json!({ "ActionType": "SessionType", "ActionStatus": 1, "ActionResult": null, "Error": "" });
    let response =
        json!({ "ClientVersion": "1.2.0.0", "ProcessedClientActions": [success], "Errors": null });
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
async fn sessions_are_encrypted_if_configured() {
    let (cluster, task) =
        prepared(ExecSettings { handshake: Handshake::Kms, ..ExecSettings::default() }).await;
    for right in [true, false] {
        let opened =
            execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'")
                .await
                .unwrap();
        let mut client = Client::open(&opened, &opened.token).await;
        let request = client.until_payload(5).await;
        let key_id = &request["RequestedClientActions"][1]["ActionParameters"]["KMSKeyId"];
        let id = task.rsplit('/').next().unwrap();
        let target = if right {
            format!("ecs:local_{id}_{id}-ci-coordinator")
        } else {
            "ecs:local_other".to_owned()
        };
        let context = json!({ "aws:ssm:SessionId": opened.id, "aws:ssm:TargetId": target });
        let key = kms(
            &cluster,
            json!({ "KeyId": key_id, "NumberOfBytes": 64, "EncryptionContext": context }),
        )
        .await
        .unwrap();
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
        assert_eq!(
            client.until_payload(7).await["CustomerMessage"],
            "This session is encrypted using AWS KMS."
        );
        client.until_output(b"up\r\n").await;
        let sealed = client.seal(b"secret\n");
        client.send_until_acknowledged(1, &sealed).await;
        let (output, closed) = client.until_closed().await;
        assert_eq!(
            (String::from_utf8_lossy(&output).trim(), closed.as_str()),
            ("up\r\ngot secret", "")
        );
    }
}
