//! The first messages, byte by byte, and none too early.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use transports::{
    Terminal as _,
    ecs_exec::frame::{Frame, Kind, payload_type},
};

use crate::service::{TOKEN, encoded, read, read_to_end, session};

#[tokio::test]
async fn the_opening_message_matches_awss_client() {
    let (terminal, mut service) = session().await;
    assert!(
        service.path.ends_with("?role=publish_subscribe&cell-number=AAEAAT+/x=="),
        "byte for byte: {}",
        service.path
    );
    assert_eq!(service.headers["x-signed"], "yes");
    assert!(
        !service.path.contains(TOKEN)
            && !service.headers.values().any(|value| value.contains(TOKEN))
    );
    let opening: Value = serde_json::from_str(&service.opening().await).unwrap();
    assert_eq!(
        (&opening["MessageSchemaVersion"], &opening["TokenValue"]),
        (&json!("1.0"), &json!(TOKEN))
    );
    for id in ["RequestId", "ClientId"] {
        assert_eq!(opening[id].as_str().unwrap().len(), 36, "{opening}");
    }
    assert_eq!(opening["ClientVersion"].as_str().unwrap().split('.').count(), 4);
    // A type that is padded with NULs is accepted, too.
    let mut first = encoded(Kind::Output, 0, payload_type::OUTPUT, b"BOOT").to_vec();
    first[4..36].iter_mut().filter(|b| **b == b' ').for_each(|b| *b = 0);
    service.raw(first).await;
    assert_eq!(read(&terminal, 4).await, b"BOOT");

    let (acknowledgement, size) =
        (binary(service.message().await), binary(service.message().await));
    assert_eq!(acknowledgement[..4], [0, 0, 0, 116]);
    assert_eq!(acknowledgement[4..36], *b"acknowledge                     ");
    assert_eq!(acknowledgement[36..40], [0, 0, 0, 1], "the schema's version");
    assert_ne!(acknowledgement[40..48], [0; 8], "a date");
    assert_eq!(
        acknowledgement[48..64],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        "no number, both flags"
    );
    assert_eq!(acknowledgement[112..116], [0; 4]);
    let announced = u32::from_be_bytes(acknowledgement[116..120].try_into().unwrap());
    assert_eq!(announced as usize, acknowledgement.len() - 120);
    assert_eq!(size[4..36], *b"input_stream_data               ");
    assert_eq!(size[48..64], [0; 16], "number 0, no flags");
    assert_eq!(
        (&size[112..116], &size[120..]),
        (&[0, 0, 0, 3][..], &br#"{"cols":200,"rows":50}"#[..])
    );
}

fn binary(message: Message) -> Bytes {
    match message {
        Message::Binary(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_output() {
    let (terminal, mut service) = session().await;
    terminal.write(Bytes::from_static(b"early")).await.unwrap();
    service.opening().await;
    service.assert_silence().await;
    service.say(b"BOOT").await;
    assert_eq!(service.acknowledged().await, 0);
    let (size, early) = (service.input().await, service.input().await);
    assert_eq!((size.sequence, size.payload_type), (0, payload_type::SIZE));
    assert_eq!((early.sequence, &early.payload[..]), (1, &b"early"[..]));
}

fn request(actions: &Value) -> Vec<u8> {
    json!({ "AgentVersion": "3.3.0.0", "RequestedClientActions": actions }).to_string().into_bytes()
}

fn kind_of_session() -> Value {
    json!({ "ActionType": "SessionType", "ActionParameters": { "SessionType": "InteractiveCommands", "Properties": null } })
}

fn response(frame: &Frame) -> Value {
    assert_eq!(frame.payload_type, payload_type::HANDSHAKE_RESPONSE);
    serde_json::from_slice(&frame.payload).unwrap()
}

#[tokio::test]
async fn a_handshake_is_answered_once_and_input_waits_for_its_end() {
    let (terminal, mut service) = session().await;
    terminal.write(Bytes::from_static(b"held")).await.unwrap();
    service.opening().await;
    for _ in 0..3 {
        service
            .send(
                Kind::Output,
                0,
                payload_type::HANDSHAKE_REQUEST,
                &request(&json!([kind_of_session()])),
            )
            .await;
    }
    let (mut responses, mut acknowledgements) = (Vec::new(), 0);
    while acknowledgements < 3 || responses.is_empty() {
        let frame = service.frame().await;
        match frame.kind {
            Kind::Acknowledge => acknowledgements += 1,
            _ => responses.push(frame),
        }
    }
    assert_eq!(responses.len(), 1, "{responses:?}");
    assert_eq!(response(&responses[0])["ProcessedClientActions"][0]["ActionStatus"], 1);
    service.acknowledge(&responses[0]).await;
    service.assert_silence().await;
    service.send(Kind::Output, 1, payload_type::HANDSHAKE_COMPLETE, b"{}").await;
    assert_eq!(service.acknowledged().await, 1);
    assert_eq!(service.input().await.payload_type, payload_type::SIZE);
    assert_eq!(service.input().await.payload, "held");
}

#[tokio::test]
async fn unknown_handshake_actions_are_answered_as_unsupported() {
    let (terminal, mut service) = session().await;
    service.opening().await;
    let actions = json!([kind_of_session(), { "ActionType": "Dance", "ActionParameters": {} }]);
    service.send(Kind::Output, 0, payload_type::HANDSHAKE_REQUEST, &request(&actions)).await;
    assert_eq!(service.acknowledged().await, 0);
    let answer = response(&service.input().await);
    let statuses: Vec<_> = answer["ProcessedClientActions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["ActionStatus"].as_i64())
        .collect();
    assert_eq!(statuses, [Some(1), Some(3)], "{answer}");
    let (_, why) = read_to_end(&terminal).await;
    assert!(why.as_deref().is_some_and(|why| why.contains("Dance")), "{why:?}");
}
