//! Servers that send allowed messages without end, before and after the host key.

use std::time::Duration;

use bytes::Bytes;
use states::{HostProof, Run, RunError, RunId, RunOrder, Session, Target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use crate::{
    Job, connect, listen,
    server::{Attack, Identity},
};

/// How long an attempt may take here. The flood continues meanwhile.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Accepts one connection and sends `first`, then `again` until the client closes it.
async fn flood(first: &'static [u8], again: Vec<u8>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sends = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        client.write_all(first).await.unwrap();
        let (mut from, mut to) = client.split();
        let closed = async {
            let mut bytes = [0; 1024];
            while from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        };
        let sends = async { while to.write_all(&again).await.is_ok() {} };
        tokio::select! {
            () = closed => {}
            () = sends => {}
        }
    });
    (port, sends)
}

/// The attempt must end by itself, and the connection with it.
async fn is_given_up(first: &'static [u8], again: Vec<u8>) {
    let job = Job::new();
    let (port, sends) = flood(first, again).await;
    let target = Target {
        connect_timeout: ATTEMPT,
        attempt_timeout: ATTEMPT,
        ..job.target(port, Some(HostProof::Offered))
    };
    // The engine ends an attempt that takes longer than its target says.
    let attempt = tokio::time::timeout(ATTEMPT * 2, connect(&target)).await;
    if let Ok(Ok(_)) = attempt {
        panic!("the flood was taken for a server");
    }
    let closed = tokio::time::timeout(Duration::from_secs(30), sends).await;
    closed.expect("the connection is closed").unwrap();
}

#[tokio::test]
async fn lines_before_the_identification_are_limited() {
    is_given_up(b"", b"Welcome!\r\n".repeat(100)).await;
}

#[tokio::test]
async fn an_endless_identification_is_not_buffered() {
    is_given_up(b"SSH-2.0-", vec![b'x'; 1000]).await;
}

/// RFC 4253, section 11: messages that a peer must ignore, at any time after the identification.
#[tokio::test]
async fn messages_to_be_ignored_do_not_keep_an_attempt_alive() {
    const IGNORE: u8 = 2;
    const DEBUG: u8 = 4;
    for kind in [IGNORE, DEBUG] {
        // Length, padding's length, message, its string's length, padding: a multiple of 8 bytes.
        let packet = [&[0, 0, 0, 12, 4, kind, 0, 0, 0, 2][..], b"xx", &[0; 4]].concat();
        assert_eq!(packet.len(), 16);
        is_given_up(b"SSH-2.0-hostile\r\n", packet.repeat(64)).await;
    }
}

#[tokio::test]
async fn endless_rekeying_ends_the_connection() {
    let job = Job::new();
    let (port, _) = listen(Identity::unproven(), Attack::KeyExchanges).await;
    let (session, _) = connect(&job.target(port, None)).await.unwrap();
    let order = RunOrder {
        run: RunId::new("0001-a").unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    };
    let mut run = session.start(&order, Bytes::from_static(b"echo")).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Err(error) = run.next().await {
                break error;
            }
        }
    });
    let Ok(RunError::ConnectionLost(why)) = why.await else { panic!("another end, or none") };
    assert!(why.contains("makes new session keys again and again"), "{why}");
}
