//! A command's channel over a shared connection. It is read even if its follower is slow.
//!
//! russh has one loop per connection, and that loop waits for room in a channel whose reader is
//! slow. Meanwhile it reads nothing else: no answer to a signal, no window for a script, no
//! keep-alive. So every channel has a task that reads up to a limit; beyond it, a slow reader holds
//! up the server. While a caller waits for an answer, which may be behind the output, the limit is
//! far higher.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client::Msg};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::watcher::CloseReason;
use crate::delivery::{self, Chunk, queue::Queue};

/// Counts the callers that wait for an answer over the connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    awaited: AtomicUsize,
    changed: Notify,
}

/// One awaited answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Awaited(Arc<Answers>);

impl Awaited {
    pub(super) fn new(answers: &Arc<Answers>) -> Self {
        answers.awaited.fetch_add(1, Ordering::Relaxed);
        answers.changed.notify_waiters();
        Self(Arc::clone(answers))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command that runs over the connection.
pub(super) struct SshChannel {
    reading: Reading,
    write: Arc<ChannelWriteHalf<Msg>>,
    answers: Arc<Answers>,
    alive: watch::Receiver<()>,
    _awaited: Option<Awaited>,
}

impl SshChannel {
    /// Creates the channel. `alive` changes when the connection has ended, and `awaited` is set if a
    /// caller waits for the command's end.
    pub(super) fn new(
        reading: Reading,
        write: ChannelWriteHalf<Msg>,
        answers: &Arc<Answers>,
        alive: watch::Receiver<()>,
        awaited: Option<Awaited>,
    ) -> Self {
        let answers = Arc::clone(answers);
        Self { reading, write: Arc::new(write), answers, alive, _awaited: awaited }
    }

    /// Sends the command a signal (RFC 4254, section 6.9). Servers may ignore it.
    pub(super) async fn signal(&self, signal: Sig) -> Result<(), russh::Error> {
        self.write.signal(signal).await
    }
}

impl Drop for SshChannel {
    /// Closes the channel, which russh leaves open. That ends the command's input, and with it a
    /// follower.
    fn drop(&mut self) {
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let write = Arc::clone(&self.write);
            runtime.spawn(async move {
                // Fails if the connection is gone, and its channels with it.
                let _ = write.close().await;
            });
        }
    }
}

#[async_trait]
impl delivery::Channel for SshChannel {
    async fn next(&mut self) -> Chunk {
        self.reading.queue.next().await
    }

    async fn send(&mut self, input: Bytes) -> Result<(), String> {
        // The server's window for the input comes over the connection, too.
        let _awaited = Awaited::new(&self.answers);
        tokio::select! {
            biased;
            sent = self.write.data_bytes(input) => sent.map_err(super::errors::text),
            // As in `Shell::run`.
            _ = self.alive.changed() => Err("the SSH connection ended".to_owned()),
        }
    }
}

/// A channel that is being read.
pub(super) struct Reading {
    queue: Arc<Queue<Chunk>>,
    reader: JoinHandle<()>,
}

impl Reading {
    /// Begins to read.
    pub(super) fn begin(
        read: ChannelReadHalf,
        answers: &Arc<Answers>,
        close_reason: CloseReason,
    ) -> Self {
        let queue = Arc::<Queue<Chunk>>::default();
        let reader =
            tokio::spawn(fill(Arc::clone(&queue), read, Arc::clone(answers), close_reason));
        Self { queue, reader }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn fill(
    queue: Arc<Queue<Chunk>>,
    mut read: ChannelReadHalf,
    answers: Arc<Answers>,
    close_reason: CloseReason,
) {
    let mut status = None;
    loop {
        room(&queue, &answers).await;
        queue.push(match read.wait().await {
            Some(ChannelMsg::Data { data }) => Chunk::Out(data),
            Some(ChannelMsg::ExtendedData { data, .. }) => Chunk::Err(data),
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                status = Some(exit_status);
                continue;
            }
            Some(ChannelMsg::Failure) => {
                Chunk::Lost("the server refused to run a command".to_owned())
            }
            // Data may follow an exit status, never the end.
            Some(ChannelMsg::Eof | ChannelMsg::Close) => Chunk::Ended { status },
            Some(_) => continue,
            None => {
                let why = close_reason
                    .get()
                    .cloned()
                    .unwrap_or_else(|| "the SSH connection ended".to_owned());
                return queue.push(Chunk::Lost(why));
            }
        });
    }
}

/// Waits until the queue has room.
async fn room(queue: &Queue<Chunk>, answers: &Answers) {
    loop {
        let changed = answers.changed.notified();
        tokio::pin!(changed);
        // Changes from here on are not missed.
        changed.as_mut().enable();
        if !queue.is_full(answers.awaited.load(Ordering::Relaxed) > 0) {
            return;
        }
        tokio::select! {
            () = queue.taken() => {}
            () = changed => {}
        }
    }
}
