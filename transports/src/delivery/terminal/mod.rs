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

pub mod armor;
mod boot;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Mutex as LineLock, Notify, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

pub use self::boot::{Boot, BootError};
use self::{
    armor::{ArmorDecoder, Packed, Piece, Raw},
    boot::{PREAMBLE_KEPT, preamble, said},
};
use super::{
    Channel, Chunk, Command, Exec,
    queue::{Held, Queue},
};
use crate::Terminal;

/// How long the helper may take to answer a verb. Input that was sent before it may still be in
/// transit.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How often the helper is pinged: well within its three minutes, and within ECS's idle time-out of
/// twenty.
const PING_EVERY: Duration = Duration::from_secs(45);
/// How long an abandoned follower may take to end by itself.
const FOLLOWER_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How long closing may take: longer than ECS Exec gives a session to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of input in one write to the terminal.
const INPUT_PIECE: usize = 16 * 1024;
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
    nonce: String,
    state: Mutex<State>,
    /// The answers. A sender of a verb holds the lock until the answer has come.
    line_lock: LineLock<mpsc::Receiver<String>>,
    /// How many callers wait for an answer.
    awaited_answers: AtomicUsize,
    /// Wakes the reader when the state has changed.
    wake: Notify,
    /// Notifies when an abandoned follower has ended.
    follower_ended: Notify,
}

#[derive(Default)]
struct State {
    commands: HashMap<String, Listener>,
    lost: Option<String>,
    leaving: bool,
    /// Followers whose channel was dropped. While one of them runs, the terminal cannot follow
    /// another run.
    abandoned_followers: HashSet<String>,
    /// Whether a verb was sent and not answered. If its caller gave up, the container may read the
    /// next bytes as the rest of a script, so the terminal cannot be used again.
    is_verb_unanswered: bool,
}

/// An item in a command's queue.
enum Item {
    Chunk(Chunk),
    /// Output, compressed until it is read: much of it may come before an answer.
    Packed(Packed),
}

impl Held for Item {
    fn size(&self) -> usize {
        match self {
            Self::Chunk(chunk) => chunk.size(),
            Self::Packed(packed) => packed.bytes.len(),
        }
    }
}

struct Listener {
    queue: Arc<Queue<Item>>,
    follows: bool,
    next: u64,
}

impl<T: Terminal> TerminalShell<T> {
    /// Prepares a session that runs `boot`'s command.
    ///
    /// # Errors
    /// When the connection is lost, or the container lacks what is needed.
    pub async fn boot(terminal: T, boot: &Boot) -> Result<Self, BootError> {
        let mut armor = ArmorDecoder::default();
        let rest = preamble(&terminal, boot).await?;
        terminal.resize(SIZE.0, SIZE.1).await.map_err(BootError::Lost)?;
        write(&terminal, Bytes::from(boot.helper.clone())).await.map_err(BootError::Lost)?;
        armor.push(&rest);
        let mut noise = Vec::new();
        let missing = loop {
            match armor.piece() {
                Some(Piece::Line { nonce, text })
                    if nonce == boot.nonce && text.starts_with("ready") =>
                {
                    break text["ready".len()..].trim().to_owned();
                }
                Some(Piece::Noise(bytes)) => noise.extend_from_slice(
                    &bytes[..bytes.len().min(PREAMBLE_KEPT - noise.len().min(PREAMBLE_KEPT))],
                ),
                Some(_) => {}
                None => match terminal.read().await {
                    Ok(Some(bytes)) => armor.push(&bytes),
                    Ok(None) => return Err(BootError::Unusable(said(&noise))),
                    Err(why) => return Err(BootError::Lost(why)),
                },
            }
        };
        if !missing.is_empty() {
            return Err(BootError::Missing(missing));
        }
        let (answers, answers_read) = mpsc::channel(16);
        let inner = Arc::new(Inner {
            terminal,
            nonce: boot.nonce.clone(),
            state: Mutex::default(),
            line_lock: LineLock::new(answers_read),
            awaited_answers: AtomicUsize::new(0),
            wake: Notify::new(),
            follower_ended: Notify::new(),
        });
        let reader = Some(tokio::spawn(Arc::clone(&inner).read(armor, answers)));
        let pinger = tokio::spawn(Arc::clone(&inner).ping());
        Ok(Self { inner, reader, pinger })
    }

    fn leave(&self) {
        self.inner.state().leaving = true;
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
        let inner = &self.inner;
        if command.follows() {
            inner.await_abandoned_followers().await;
        }
        let mut answers = inner.line_lock.lock().await;
        let queue = inner.register(&command)?;
        let channel =
            TerminalChannel { inner: Arc::clone(inner), queue, nonce: command.nonce().to_owned() };
        if command.follows() {
            // The output of a run has nothing before it here.
            channel
                .queue
                .push(Item::Chunk(Chunk::Out(Bytes::from(format!("{} begin\n", command.nonce())))));
        }
        let _awaited = AwaitedAnswer::new(inner);
        let verb = format!("run {} {}{}", command.nonce(), input.len(), command.words("~"));
        // Stays set if the caller drops this future before the answer.
        inner.state().is_verb_unanswered = true;
        inner.verb(&verb).await?;
        if !input.is_empty() {
            inner.answer(&mut answers, "go").await?;
            write(&inner.terminal, input).await?;
        }
        inner.answer(&mut answers, "ok").await?;
        inner.state().is_verb_unanswered = false;
        Ok(Box::new(channel))
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

#[async_trait]
impl<T: Terminal> Channel for TerminalChannel<T> {
    async fn next(&mut self) -> Chunk {
        match self.queue.next().await {
            Item::Chunk(chunk) => chunk,
            Item::Packed(packed) => match packed.open() {
                Piece::Block { bytes, .. } => Chunk::Out(bytes),
                Piece::Damaged { why, .. } => {
                    self.inner.state().abandon(&self.nonce);
                    Chunk::Lost(damaged(&why))
                }
                // A block cannot unpack to one of these.
                Piece::Line { .. } | Piece::Noise(_) => Chunk::Lost(damaged("it is not a block")),
            },
        }
    }
}

impl<T: Terminal> Drop for TerminalChannel<T> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.abandon(&self.nonce);
        drop(state);
        self.inner.wake.notify_one();
    }
}

impl<T: Terminal> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, command: &Command) -> Result<Arc<Queue<Item>>, String> {
        let mut state = self.state();
        if let Some(why) = &state.lost {
            return Err(why.clone());
        }
        if state.is_verb_unanswered {
            return Err(
                "the delivery of a script over the session's terminal was interrupted".to_owned()
            );
        }
        let follows = command.follows();
        if follows
            && (!state.abandoned_followers.is_empty()
                || state.commands.values().any(|other| other.follows))
        {
            return Err("the session's terminal already follows another run".to_owned());
        }
        let queue = Arc::new(Queue::default());
        state.commands.insert(
            command.nonce().to_owned(),
            Listener { queue: Arc::clone(&queue), follows, next: command.from() },
        );
        Ok(queue)
    }

    /// Waits a short time until every abandoned follower has ended. One whose run is over has only
    /// to report that.
    async fn await_abandoned_followers(&self) {
        let settled = async {
            loop {
                let ended = self.follower_ended.notified();
                if self.state().abandoned_followers.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        if timeout(FOLLOWER_ENDS_WITHIN, settled).await.is_err() {
            tracing::debug!("an abandoned follower still uses the terminal");
        }
    }

    async fn verb(&self, verb: &str) -> Result<(), String> {
        self.terminal.write(Bytes::from(format!("{} {verb}\n", self.nonce))).await
    }

    async fn answer(
        &self,
        answers: &mut mpsc::Receiver<String>,
        wanted: &str,
    ) -> Result<(), String> {
        let waited = async {
            while let Some(answer) = answers.recv().await {
                if answer == wanted {
                    return Ok(());
                }
            }
            Err(self.state().lost.clone().unwrap_or_else(|| "the session ended".to_owned()))
        };
        match timeout(ANSWER_WITHIN, waited).await {
            Ok(answered) => answered,
            Err(_) => Err(format!(
                "the container's shell did not answer within {} s",
                ANSWER_WITHIN.as_secs()
            )),
        }
    }

    async fn ping(self: Arc<Self>) {
        loop {
            sleep(PING_EVERY).await;
            let mut answers = self.line_lock.lock().await;
            let _awaited = AwaitedAnswer::new(&self);
            if std::mem::replace(&mut self.state().is_verb_unanswered, true)
                || self.verb("ping").await.is_err()
                || self.answer(&mut answers, "pong").await.is_err()
            {
                return;
            }
            self.state().is_verb_unanswered = false;
        }
    }

    async fn read(self: Arc<Self>, mut armor: ArmorDecoder, answers: mpsc::Sender<String>) {
        let why = loop {
            while let Some(piece) = armor.raw() {
                self.on_piece(piece, &answers);
            }
            if self.state().leaving {
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
                    Ok(Some(bytes)) => armor.push(&bytes),
                    Ok(None) => break "the session in the container ended".to_owned(),
                    Err(why) => break why,
                },
                () = self.wake.notified() => {}
            }
        };
        let mut state = self.state();
        for (_, listener) in state.commands.drain() {
            listener.push(Chunk::Lost(why.clone()));
        }
        state.lost = Some(why);
    }

    /// Returns a queue that is full, if any. The terminal is not read until it has room.
    fn full(&self) -> Option<Arc<Queue<Item>>> {
        let is_answer_awaited = self.awaited_answers.load(Ordering::Relaxed) > 0;
        let state = self.state();
        state
            .commands
            .values()
            .find(|listener| listener.queue.is_full(is_answer_awaited))
            .map(|listener| Arc::clone(&listener.queue))
    }

    fn on_piece(&self, piece: Raw, answers: &mpsc::Sender<String>) {
        let mut state = self.state();
        let piece = match piece {
            Raw::Packed(packed) => {
                return state.output(
                    packed.offset,
                    packed.length,
                    &packed.nonce.clone(),
                    Item::Packed(packed),
                );
            }
            Raw::Piece(piece) => piece,
        };
        match piece {
            Piece::Line { nonce, text } if nonce == self.nonce => {
                match text.strip_prefix("end ").and_then(|rest| rest.split_once(' ')) {
                    Some((command, status)) => {
                        if let Some(listener) = state.commands.remove(command) {
                            listener.push(Chunk::Ended { status: status.parse().ok() });
                        } else if state.abandoned_followers.remove(command) {
                            self.follower_ended.notify_waiters();
                        }
                    }
                    // The helper sends one answer at a time: others are not its own.
                    None => drop(answers.try_send(text)),
                }
            }
            Piece::Line { nonce, text } => {
                if let Some(listener) = state.commands.get(&nonce) {
                    listener.push(Chunk::Err(Bytes::from(format!("{nonce} {text}\n"))));
                }
            }
            Piece::Block { nonce, offset, bytes } => {
                state.output(offset, bytes.len(), &nonce, Item::Chunk(Chunk::Out(bytes)))
            }
            Piece::Damaged { nonce, why } => state.lose(&nonce, damaged(&why)),
            Piece::Noise(bytes) => {
                for listener in
                    state.commands.values().filter(|listener| !listener.queue.is_full(true))
                {
                    listener.push(Chunk::Err(bytes.clone()));
                }
            }
        }
    }

    async fn leave(&self) {
        // After an unanswered verb, `quit` could become part of a script. Closing the terminal ends
        // the session then.
        let left = async {
            if let Ok(_line) = self.line_lock.try_lock()
                && !self.state().is_verb_unanswered
            {
                // If it fails, the session is over anyway.
                let _ = self.verb("quit").await;
            }
            self.terminal.close().await;
        };
        if timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::debug!("the session could not be closed in time");
        }
    }
}

fn damaged(why: &str) -> String {
    format!("a block of the output was damaged in transit: {why}")
}

impl Listener {
    fn push(&self, chunk: Chunk) {
        self.queue.push(Item::Chunk(chunk));
    }
}

impl State {
    /// Queues `length` bytes of a run's output, which begin at `offset`.
    fn output(&mut self, offset: u64, length: usize, nonce: &str, item: Item) {
        let Some(listener) = self.commands.get_mut(nonce) else { return };
        if offset == listener.next {
            listener.next += length as u64;
            listener.queue.push(item);
        } else {
            let why = format!("byte {} of the output was expected, {offset} came", listener.next);
            self.lose(nonce, why);
        }
    }

    /// Removes the command's listener. A follower may still write: it is kept as abandoned.
    fn abandon(&mut self, nonce: &str) -> Option<Listener> {
        let listener = self.commands.remove(nonce)?;
        if listener.follows {
            self.abandoned_followers.insert(nonce.to_owned());
        }
        Some(listener)
    }

    fn lose(&mut self, nonce: &str, why: String) {
        if let Some(listener) = self.abandon(nonce) {
            listener.push(Chunk::Lost(why));
        }
    }
}

/// While one exists, the terminal is read even if a run's output is not: the answer comes behind
/// that output.
struct AwaitedAnswer<'a, T>(&'a Inner<T>);

impl<'a, T> AwaitedAnswer<'a, T> {
    fn new(inner: &'a Inner<T>) -> Self {
        inner.awaited_answers.fetch_add(1, Ordering::Relaxed);
        inner.wake.notify_one();
        Self(inner)
    }
}

impl<T> Drop for AwaitedAnswer<'_, T> {
    fn drop(&mut self) {
        self.0.awaited_answers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn write<T: Terminal>(terminal: &T, mut bytes: Bytes) -> Result<(), String> {
    while !bytes.is_empty() {
        terminal.write(bytes.split_to(bytes.len().min(INPUT_PIECE))).await?;
    }
    Ok(())
}
