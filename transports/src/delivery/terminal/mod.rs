//! Commands over one terminal.
//!
//! A terminal has one input and one output, and passes plain ASCII only. So a small program in the
//! container, [`Boot::helper`], reads verbs from the terminal, a line each, and starts the
//! protocol's supervisor for them. Replies of supervisors come back in marked lines, and the output
//! of runs in armor (see [`armor`]). So a signal can be sent while a run is followed.
//!
//! Each verb waits for the answer to the one before. A shell may read ahead of the line that it
//! wants: bash reads up to 4095 bytes of a terminal. A program that it starts would not get those
//! bytes.
//!
//! Besides what `delivery` needs, the container must have `stty`, `head`, `base64` and `setsid`;
//! with `gzip`, output is compressed. Commands run in the terminal's environment, in `$HOME` (or
//! `/root`, or `/`, if that does not exist).
//!
//! An unused session ends itself and its supervisors three minutes after the last verb. Scripts
//! continue to run.
//!
//! The module `protocol` decides, without I/O. This one moves its bytes.

pub mod armor;
mod boot;
mod protocol;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

pub use self::boot::{Boot, BootError};
use self::{
    boot::{Booting, Next},
    protocol::{Event, Item, Progress, Protocol, Verb, next_piece},
};
use super::{Channel, Chunk, Command, Exec, queue::Queue};
use crate::Terminal;

/// How long closing may take: longer than ECS Exec gives a session to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// The terminal's columns and rows: wide, so that no program wraps its lines.
const SIZE: (u32, u32) = (200, 50);

/// Runs commands over a terminal.
pub struct TerminalShell<T: Terminal> {
    inner: Arc<Inner<T>>,
    reader: Option<JoinHandle<()>>,
    pinger: JoinHandle<()>,
}

struct Inner<T> {
    terminal: T,
    state: Mutex<State>,
    /// Wakes the reader when the state has changed.
    wake: Notify,
    /// Wakes all verbs when the protocol has changed.
    changed: Notify,
}

struct State {
    protocol: Protocol,
    /// The queues of the commands that have not ended.
    queues: HashMap<String, Arc<Queue<Item>>>,
    is_leaving: bool,
}

impl<T: Terminal> TerminalShell<T> {
    /// Prepares a session that runs `boot`'s command.
    ///
    /// # Errors
    /// When the connection is lost, or the container lacks what is needed.
    pub async fn boot(terminal: T, boot: &Boot) -> Result<Self, BootError> {
        let mut booting = Booting::new(boot);
        let mut bytes = Bytes::new();
        let armor = loop {
            match booting.on_bytes(&bytes)? {
                Next::Read => {
                    bytes = match terminal.read().await {
                        Ok(Some(bytes)) => bytes,
                        Ok(None) => return Err(booting.on_end(None)),
                        Err(why) => return Err(booting.on_end(Some(why))),
                    }
                }
                Next::SendHelper => {
                    terminal.resize(SIZE.0, SIZE.1).await.map_err(BootError::Lost)?;
                    let mut helper = Bytes::from(boot.helper.clone());
                    while let Some(piece) = next_piece(&mut helper) {
                        terminal.write(piece).await.map_err(BootError::Lost)?;
                    }
                    bytes = Bytes::new();
                }
                Next::Begin(armor) => break armor,
            }
        };
        let state = State {
            protocol: Protocol::new(&boot.nonce, armor, now()),
            queues: HashMap::new(),
            is_leaving: false,
        };
        let inner = Arc::new(Inner {
            terminal,
            state: Mutex::new(state),
            wake: Notify::new(),
            changed: Notify::new(),
        });
        let reader = Some(tokio::spawn(Arc::clone(&inner).read()));
        let pinger = tokio::spawn(Arc::clone(&inner).ping());
        Ok(Self { inner, reader, pinger })
    }

    fn leave(&self) {
        self.inner.state().is_leaving = true;
        self.inner.wake.notify_one();
    }
}

impl<T: Terminal> Drop for TerminalShell<T> {
    fn drop(&mut self) {
        self.pinger.abort();
        self.leave();
    }
}

#[async_trait]
impl<T: Terminal> Exec for TerminalShell<T> {
    async fn exec(&self, command: Command, input: Bytes) -> Result<Box<dyn Channel>, String> {
        let nonce = command.nonce().to_owned();
        let queue = Arc::new(Queue::default());
        if command.follows() {
            // The output of a run has nothing before it here.
            let begin = Bytes::from(format!("{nonce} begin\n"));
            queue.push(Item::Chunk(Chunk::Out(begin)));
        }
        let verb = {
            let mut state = self.inner.state();
            state.queues.insert(nonce.clone(), Arc::clone(&queue));
            state.protocol.run(&command, input, now())
        };
        let channel = TerminalChannel { inner: Arc::clone(&self.inner), queue, nonce };
        self.inner.drive(verb).await?;
        Ok(Box::new(channel))
    }

    /// The session's own pings show a connection that is lost: its reader has then ended.
    fn is_open(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
    }

    async fn answers(&self) -> bool {
        self.is_open()
    }

    /// Ends the session's command and closes the terminal.
    async fn close(mut self: Box<Self>) {
        self.leave();
        if let Some(reader) = self.reader.take() {
            // The task ends within a bounded time. Its result is not needed.
            let _ = reader.await;
        }
    }
}

/// A command that runs over a terminal.
struct TerminalChannel<T: Terminal> {
    inner: Arc<Inner<T>>,
    queue: Arc<Queue<Item>>,
    nonce: String,
}

impl<T: Terminal> TerminalChannel<T> {
    fn abandon(&self) {
        let mut state = self.inner.state();
        state.protocol.abandon(&self.nonce);
        state.queues.remove(&self.nonce);
    }
}

#[async_trait]
impl<T: Terminal> Channel for TerminalChannel<T> {
    async fn next(&mut self) -> Chunk {
        let chunk = self.queue.next().await.into_chunk();
        if let Chunk::Lost(_) = chunk {
            self.abandon();
        }
        chunk
    }
}

impl<T: Terminal> Drop for TerminalChannel<T> {
    fn drop(&mut self) {
        self.abandon();
        self.inner.wake.notify_one();
    }
}

/// A verb that its caller may give up at any time.
struct Driven<'a, T: Terminal> {
    inner: &'a Inner<T>,
    verb: Verb,
}

impl<T: Terminal> Drop for Driven<'_, T> {
    fn drop(&mut self) {
        self.inner.state().protocol.release(&self.verb);
        self.inner.changed.notify_waiters();
    }
}

impl<T: Terminal> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a verb, and waits until it is answered.
    async fn drive(&self, verb: Verb) -> Result<(), String> {
        let mut driven = Driven { inner: self, verb };
        loop {
            let changed = self.changed.notified();
            let progress = self.state().protocol.poll(&mut driven.verb, now())?;
            match progress {
                Progress::Write(bytes) => {
                    // From now on, the reader has to read up to the answer.
                    self.wake.notify_one();
                    self.terminal.write(bytes).await?;
                }
                Progress::Wait(Some(until)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until.into()) => {}
                },
                Progress::Wait(None) => changed.await,
                Progress::Done => return Ok(()),
            }
        }
    }

    async fn ping(self: Arc<Self>) {
        loop {
            let due = self.state().protocol.ping_due();
            sleep_until(due.into()).await;
            let ping = self.state().protocol.ping(now());
            if self.drive(ping).await.is_err() {
                return;
            }
        }
    }

    async fn read(self: Arc<Self>) {
        let why = loop {
            self.deliver();
            if self.state().is_leaving {
                self.leave().await;
                break "the session was closed".to_owned();
            }
            if let Some(full) = self.full() {
                tokio::select! {
                    () = full.taken() => {}
                    () = self.wake.notified() => {}
                }
                continue;
            }
            tokio::select! {
                read = self.terminal.read() => match read {
                    Ok(Some(bytes)) => self.state().protocol.on_bytes(&bytes),
                    Ok(None) => break "the session in the container ended".to_owned(),
                    Err(why) => break why,
                },
                () = self.wake.notified() => {}
            }
        };
        self.state().protocol.on_end(why);
        self.deliver();
    }

    /// Hands the protocol's events on.
    fn deliver(&self) {
        let state = &mut *self.state();
        while let Some(event) = state.protocol.poll_event() {
            match event {
                Event::Item(nonce, item) if item.is_last() => {
                    if let Some(queue) = state.queues.remove(&nonce) {
                        queue.push(item);
                    }
                }
                Event::Item(nonce, item) => {
                    if let Some(queue) = state.queues.get(&nonce) {
                        queue.push(item);
                    }
                }
                Event::Noise(nonce, bytes) => {
                    if let Some(queue) =
                        state.queues.get(&nonce).filter(|queue| !queue.is_full(true))
                    {
                        queue.push(Item::Chunk(Chunk::Err(bytes)));
                    }
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Returns a queue that is full, if any. The terminal is not read until it has room.
    fn full(&self) -> Option<Arc<Queue<Item>>> {
        let state = self.state();
        let is_answer_awaited = state.protocol.is_answer_awaited();
        state.queues.values().find(|queue| queue.is_full(is_answer_awaited)).map(Arc::clone)
    }

    async fn leave(&self) {
        let quit = self.state().protocol.quit();
        let left = async {
            if let Some(quit) = quit {
                // If it fails, the session is over anyway.
                let _ = self.terminal.write(quit).await;
            }
            self.terminal.close().await;
        };
        if timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::debug!("the session could not be closed in time");
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
