//! Verbs arrive byte by byte while processes of the session end: busybox's `read` and `printf` lose
//! interrupted data.

use bytes::Bytes;
use transports::{Terminal as _, delivery::terminal::Boot};

use crate::{
    local::{Local, Surroundings},
    pty::Pty,
};

/// Each verb replaces the process that guards the session.
const PINGS: usize = 150;

async fn verbs_in_pieces(surroundings: Surroundings) {
    let local = Local::new(surroundings, crate::local::By::Terminal);
    let (boot, pty) = local.boot().unwrap();
    let nonce = nonce(&boot);
    let mut read = Vec::new();
    until(&pty, &mut read, &format!("BOOT{nonce}\n")).await;
    pty.write(Bytes::from(boot.helper)).await.unwrap();
    until(&pty, &mut read, &format!("~{nonce} ready\n")).await;
    for _ in 0..PINGS {
        for byte in format!("{nonce} ping\n").into_bytes() {
            pty.write(Bytes::from(vec![byte])).await.unwrap();
            tokio::task::yield_now().await;
        }
        until(&pty, &mut read, &format!("~{nonce} pong\n")).await;
    }
}

/// Parsed from the session's command.
fn nonce(boot: &Boot) -> String {
    let command = boot.command();
    command.split_once("BOOT").unwrap().1.chars().take_while(char::is_ascii_hexdigit).collect()
}

/// Returns the bytes read up to and including `wanted`.
async fn until(pty: &Pty, read: &mut Vec<u8>, wanted: &str) {
    loop {
        if let Some(at) = memchr::memmem::find(read, wanted.as_bytes()) {
            read.drain(..at + wanted.len());
            return;
        }
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), pty.read()).await;
        let next = next.unwrap_or_else(|_| {
            panic!("{wanted:?} does not come: {:?}", String::from_utf8_lossy(read))
        });
        read.extend_from_slice(&next.unwrap().expect("the session goes on"));
    }
}

#[tokio::test]
async fn sh() {
    verbs_in_pieces(Surroundings::System).await;
}

#[tokio::test]
#[ignore = "needs bash"]
async fn bash() {
    verbs_in_pieces(Surroundings::Bash).await;
}

#[tokio::test]
#[ignore = "needs busybox"]
async fn busybox() {
    verbs_in_pieces(Surroundings::BusyboxAlone).await;
}
