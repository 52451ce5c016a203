//! Much output for a slow reader, much input for a command that reads none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use transports::{
    Terminal as _,
    ecs_exec::frame::{Kind, payload_type},
};

use crate::service::{LONG, encoded, read, running};

/// The buffers between two processes of this machine, with a margin.
const KERNEL: usize = 16 * 1024 * 1024;

#[tokio::test]
async fn a_slow_reader_delays_the_service_and_loses_nothing() {
    const MESSAGES: i64 = 40_000;
    const SIZE: usize = 1027;
    let payload = |sequence: i64| -> Vec<u8> {
        sequence.to_string().into_bytes().into_iter().cycle().take(SIZE).collect()
    };
    let (terminal, service) = running().await;
    let (socket, _terminated) = service.into_parts();
    let (mut sink, mut stream) = socket.split();
    let sent = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            for sequence in 1..=MESSAGES {
                sink.send(Message::Binary(encoded(
                    Kind::Output,
                    sequence,
                    payload_type::OUTPUT,
                    &payload(sequence),
                )))
                .await
                .unwrap();
                sent.fetch_add(SIZE, Ordering::Relaxed);
            }
            sink
        }
    });
    // Reads acknowledgements off the connection.
    let reader =
        tokio::spawn(
            async move { while stream.next().await.is_some_and(|message| message.is_ok()) {} },
        );
    let on_the_way = || sent.load(Ordering::Relaxed);
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if on_the_way() == before {
            break;
        }
        before = on_the_way();
    }
    assert!(before < KERNEL, "{before} bytes were taken before a read");
    let expected: Vec<u8> = (1..=MESSAGES).flat_map(payload).collect();
    assert!(read(&terminal, expected.len()).await == expected);
    let _sink = timeout(LONG, writer).await.expect("all was sent").unwrap();
    reader.abort();
}

/// As in a job that is cancelled while its script is being sent.
#[tokio::test]
async fn a_terminal_dropped_with_pending_input_ends_the_session() {
    let (terminal, mut service) = running().await;
    terminal.write(Bytes::from(vec![b'x'; 100_000])).await.unwrap();
    assert_eq!(service.input().await.payload.len(), 1024);
    let (_socket, terminated) = service.into_parts();
    drop(terminal);
    terminated.assert_called().await;
}

/// Input is neither acknowledged nor refused: closing still takes a bounded time.
#[tokio::test]
async fn closing_a_session_that_does_not_end_takes_a_bounded_time() {
    let (terminal, service) = running().await;
    let (_socket, terminated) = service.into_parts();
    timeout(LONG, terminal.close()).await.expect("it is left");
    terminated.assert_called().await;
}
