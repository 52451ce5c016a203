//! How a session ends; a broken one never looks like a success.

use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use transports::{Terminal as _, ecs_exec::frame::Kind};

use crate::service::{encoded, read_to_end, running, session};

#[tokio::test]
async fn channel_closed_is_a_failure_only_with_a_reason() {
    let (terminal, mut service) = session().await;
    service.opening().await;
    service.close_channel("fork/exec /bin/sh: no such file or directory").await;
    let (output, why) = read_to_end(&terminal).await;
    assert_eq!(
        (output.len(), why.as_deref()),
        (0, Some("fork/exec /bin/sh: no such file or directory"))
    );

    let (terminal, mut service) = running().await;
    service.output(1, b"last").await;
    service.close_channel("").await;
    assert_eq!(read_to_end(&terminal).await, (b"last".to_vec(), None));
    let (_, terminated) = service.into_parts();
    terminated.assert_never();
}

#[tokio::test]
async fn channel_closed_waits_for_output_that_it_overtook() {
    let (terminal, mut service) = running().await;
    service.output(3, b"c").await;
    service.close_channel("").await;
    service.output(2, b"b").await;
    service.output(1, b"a").await;
    assert_eq!(read_to_end(&terminal).await, (b"abc".to_vec(), None));
}

#[tokio::test]
async fn channel_closed_with_output_missing_is_not_a_success() {
    let (terminal, mut service) = running().await;
    service.output(1, b"a").await;
    service.output(3, b"c").await;
    service.close_channel("").await;
    let (output, why) = read_to_end(&terminal).await;
    assert!(
        output == b"a" && why.as_deref().is_some_and(|why| why.contains("missing")),
        "{output:?} {why:?}"
    );
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Reset,
    Bye,
    /// In the middle of a message.
    Half,
}

#[tokio::test]
async fn a_broken_connection_ends_the_session_after_its_output() {
    for cut in [Cut::Reset, Cut::Bye, Cut::Half] {
        let (terminal, mut service) = running().await;
        service.output(1, b"before").await;
        assert_eq!(service.acknowledged().await, 1);
        let (mut socket, terminated) = service.into_parts();
        match cut {
            Cut::Reset => socket.into_inner().set_zero_linger().unwrap(),
            Cut::Bye => socket
                .close(Some(CloseFrame { code: CloseCode::Normal, reason: "Bye".into() }))
                .await
                .unwrap(),
            Cut::Half => {
                // A WebSocket frame's head, and half of its announced length.
                let message = encoded(Kind::Output, 2, 1, &[b'x'; 900]);
                let mut tcp = socket.into_inner();
                let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                tcp.write_all(&[&[0x82, 126], &length[..], &message[..500]].concat())
                    .await
                    .unwrap();
                tcp.shutdown().await.unwrap();
            }
        }
        let (output, why) = read_to_end(&terminal).await;
        let why = why.unwrap_or_else(|| panic!("{cut:?} looks like a success"));
        assert_eq!(output, b"before", "{cut:?}: {why}");
        assert!(cut != Cut::Bye || why.contains("Bye"), "{why}");
        assert!(terminal.write(b"x"[..].into()).await.is_err());
        // Otherwise it would hold its slot for twenty minutes.
        terminated.assert_called().await;
    }
}

#[tokio::test]
async fn endless_damage_ends_the_session() {
    let (terminal, mut service) = running().await;
    for _ in 0..1000 {
        service.raw(&b"no message at all"[..]).await;
    }
    let (_, why) = read_to_end(&terminal).await;
    assert!(why.as_deref().is_some_and(|why| why.contains("damaged")), "{why:?}");
}
