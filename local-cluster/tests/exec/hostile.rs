//! Clients that mean no good.

use local_cluster::ExecSettings;

use crate::{
    client::{self, Client, Frame, digest, encode},
    execute, prepared, session,
};

#[tokio::test]
async fn hostile_clients_are_survived() {
    let (cluster, task) = prepared(ExecSettings::default()).await;
    let mut client =
        session(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'").await;
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
        encode(
            "acknowledge",
            0,
            0,
            br#"{"AcknowledgedMessageSequenceNumber":9223372036854775807}"#,
        ),
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
    let opened = execute(&cluster, &task, "sh -c 'stty -echo; echo up; read line; echo got $line'")
        .await
        .unwrap();
    let mut client = Client::open(&opened, &opened.token).await;
    client.until_output(b"up").await;
    client::say(&mut client.socket, Frame::binary(vec![0; 2 * 1024 * 1024])).await;
    client.until_lost().await;
    let mut client = client.reopen(&opened).await;
    client.send_until_acknowledged(1, b"on\n").await;
    assert!(String::from_utf8_lossy(&client.until_closed().await.0).contains("got on"));
}

#[tokio::test]
async fn hostile_clients_cannot_grow_memory() {
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
