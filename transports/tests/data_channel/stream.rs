//! Output and input over a line that loses, doubles, reorders and damages messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use transports::{
    Terminal as _,
    ecs_exec::frame::{Frame, Kind, payload_type},
};

use crate::service::{acknowledgement, encoded, read, running, session};

#[tokio::test]
async fn reordered_output_is_delivered_in_order() {
    let (terminal, mut service) = session().await;
    service.opening().await;
    // A message without output is among them.
    for sequence in [0, 3, 1, 2, 5, 4] {
        let kind =
            if sequence == 2 { payload_type::HANDSHAKE_COMPLETE } else { payload_type::OUTPUT };
        service.send(Kind::Output, sequence, kind, sequence.to_string().as_bytes()).await;
    }
    assert_eq!(read(&terminal, 5).await, b"01345");
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 6 {
        let frame = service.frame().await;
        if frame.kind == Kind::Acknowledge {
            let said: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
            acknowledged.push(said["AcknowledgedMessageSequenceNumber"].as_i64().unwrap());
        }
    }
    assert_eq!(acknowledged, [0, 3, 1, 2, 5, 4], "each as it came");
}

#[tokio::test]
async fn duplicates_are_delivered_once_and_acknowledged_each_time() {
    let (terminal, mut service) = running().await;
    for sequence in [1, 1, 3, 3, 2, 2, 3, 1] {
        service.output(sequence, sequence.to_string().as_bytes()).await;
    }
    assert_eq!(service.acknowledgements(8).await, [1, 1, 3, 3, 2, 2, 3, 1]);
    assert_eq!(read(&terminal, 3).await, b"123");
}

/// At first, the agent is silent, as its terminal is not ready; then three of ten messages are lost
/// in either direction.
#[tokio::test]
async fn lost_input_is_sent_again() {
    let (terminal, mut service) = running().await;
    let input: Vec<u8> = (0..60_000_u32).flat_map(u32::to_be_bytes).collect();
    let sent = tokio::spawn({
        let input = Bytes::from(input.clone());
        async move {
            for piece in input.chunks(16 * 1024) {
                terminal.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            terminal
        }
    });
    let mut arrived = BTreeMap::<i64, Frame>::new();
    let (mut ignored, mut size) = (0, 0);
    while size < input.len() {
        let frame = service.input().await;
        ignored += 1;
        if ignored <= 50 || rand::random_ratio(3, 10) {
            continue;
        }
        assert!(frame.payload.len() <= 1024, "{} bytes in a message", frame.payload.len());
        if !rand::random_ratio(3, 10) {
            service.acknowledge(&frame).await;
        }
        if let std::collections::btree_map::Entry::Vacant(place) = arrived.entry(frame.sequence) {
            size += frame.payload.len();
            place.insert(frame);
        }
    }
    assert!(
        arrived.keys().copied().eq(1..=i64::try_from(arrived.len()).unwrap()),
        "numbered without a gap"
    );
    let arrived: Vec<u8> = arrived.into_values().flat_map(|frame| frame.payload).collect();
    assert!(arrived == input);
    drop(sent.await.unwrap());
}

/// How a pause ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LiftedBy {
    Start,
    Acknowledgement,
    Output,
}

#[tokio::test]
async fn a_pause_holds_input_until_it_is_over() {
    for lifted in [LiftedBy::Start, LiftedBy::Acknowledgement, LiftedBy::Output] {
        let (terminal, mut service) = running().await;
        terminal.write(Bytes::from_static(b"before")).await.unwrap();
        let before = service.input().await;
        service.send(Kind::PausePublication, 0, 0, b"").await;
        service.settled().await;
        terminal.write(Bytes::from_static(b"held")).await.unwrap();
        service.assert_silence().await;
        match lifted {
            LiftedBy::Start => service.send(Kind::StartPublication, 0, 0, b"").await,
            LiftedBy::Acknowledgement => service.acknowledge(&before).await,
            LiftedBy::Output => service.output(1, b"x").await,
        }
        let mut held = false;
        while !held {
            let frame = service.frame().await;
            held = frame.payload == "held";
        }
    }
}

#[tokio::test]
async fn invalid_messages_are_ignored_and_not_acknowledged() {
    let (terminal, mut service) = running().await;
    let good = encoded(Kind::Output, 1, payload_type::OUTPUT, b"good");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.to_vec();
        change(&mut frame);
        frame
    };
    let bad = [
        good[..119].to_vec(),
        changed(&|f| f[..4].fill(0)),
        changed(&|f| f[3] = 115),
        changed(&|f| f[..4].fill(0xff)),
        changed(&|f| f[119] ^= 1),
        changed(&|f| f[4..36].fill(b' ')),
        changed(&|f| f[40..48].fill(0)),
        changed(&|f| f[80] ^= 1),
        changed(&|f| f[120] ^= 1),
        Vec::new(),
    ];
    for frame in bad {
        service.raw(frame).await;
    }
    service.send(Kind::Other("interactive_shell".to_owned()), 1, 1, b"never").await;
    service.send(Kind::Input, 1, 1, b"never").await;
    // Payloads that a client does not use are part of the stream, too.
    service.output(1, b"good").await;
    service.send(Kind::Output, 2, payload_type::EXIT_CODE, b"EXIT_CODE: 7").await;
    service.send(Kind::Output, 3, 13, b"?").await;
    service.output(4, &[b'x'; 1027]).await;
    assert_eq!(service.acknowledgements(4).await, [1, 2, 3, 4]);
    assert_eq!(read(&terminal, 4 + 1027).await, [&b"good"[..], &[b'x'; 1027]].concat());
    service.assert_silence().await;
}

#[tokio::test]
async fn a_wrong_digest_is_repaired_by_the_next_copy() {
    let (terminal, mut service) = running().await;
    let good = encoded(Kind::Output, 1, payload_type::OUTPUT, b"good");
    let mut damaged = good.to_vec();
    damaged[81] ^= 1;
    service.raw(damaged).await;
    service.assert_silence().await;
    service.raw(good).await;
    assert_eq!(service.acknowledged().await, 1);
    assert_eq!(read(&terminal, 4).await, b"good");
}

#[tokio::test]
async fn acknowledgements_of_unknown_messages_are_ignored() {
    let (terminal, mut service) = running().await;
    terminal.write(Bytes::from_static(b"x")).await.unwrap();
    let sent = service.input().await;
    let mut other = sent.clone();
    other.id.0[3] ^= 1;
    service.raw(acknowledgement(&other)).await;
    let again = service.input().await;
    assert_eq!((again.sequence, again.id), (sent.sequence, sent.id), "it is sent again");
}
