//! Commands over one terminal.
//!
//! A terminal has one input and one output, and its output passes plain ASCII only. So a small
//! program in the container, [`Boot::helper`], takes verbs from the terminal's input, a line each,
//! and starts the protocol's supervisor for them; what supervisors say comes back in marked lines,
//! the output of runs in armor (see [`armor`]). So a signal can be sent while a run is followed.
//!
//! Verbs go in lockstep: nothing is sent before the last one was answered, because a shell may read
//! ahead of the line that it wants (bash does, up to 4095 bytes of a terminal) and a program that
//! it starts would not see what it read.
//!
//! Besides what `delivery` needs, the container must have `stty`, `head`, `base64` and `setsid`;
//! with `gzip`, output is packed. Commands run in the terminal's environment, in `$HOME` (`/root`,
//! or `/`, if that is not there).
//!
//! A session that nobody uses any more ends itself three minutes after the last verb, with its
//! supervisors; scripts run on.

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
    sync::{Mutex as Lane, Notify, mpsc},
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

/// How long the helper may take to answer a verb. Input that was sent before may still be on its
/// way.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How often the helper is told that it is still needed: well within its three minutes, and within
/// ECS's twenty.
const PING_EVERY: Duration = Duration::from_secs(45);
/// How long the follower of a run that nobody follows any more may take to end by itself.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);
/// How long leaving may take: longer than ECS Exec gives a session to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Pieces in which input is handed to the terminal.
const INPUT_PIECE: usize = 16 * 1024;
/// The terminal's size: wide, as nothing is to be wrapped by anybody.
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
    /// Whoever sends a verb has it until the verb is answered.
    lane: Lane<mpsc::Receiver<String>>,
    /// How many wait for an answer.
    hurry: AtomicUsize,
    /// The reader has something else to look at.
    nudge: Notify,
    /// A follower that nobody listens to has ended.
    settled: Notify,
}

#[derive(Default)]
struct State {
    commands: HashMap<String, Listener>,
    lost: Option<String>,
    leaving: bool,
    /// Followers that nobody listens to any more. While there is one, the terminal is of no use
    /// for another.
    left_alone: HashSet<String>,
    /// A verb was sent and is not answered. If nobody waits for the answer, whatever is sent next
    /// may be taken for the rest of a script: the terminal is of no use any more.
    midway: bool,
}

/// Something for a command's listener.
enum Item {
    Chunk(Chunk),
    /// Output, packed until somebody takes it: so much of it may be in front of an answer.
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
    /// Sets up a session that runs `boot`'s command.
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
        let (answers, lane) = mpsc::channel(16);
        let inner = Arc::new(Inner {
            terminal,
            nonce: boot.nonce.clone(),
            state: Mutex::default(),
            lane: Lane::new(lane),
            hurry: AtomicUsize::new(0),
            nudge: Notify::new(),
            settled: Notify::new(),
        });
        let reader = Some(tokio::spawn(Arc::clone(&inner).read(armor, answers)));
        let pinger = tokio::spawn(Arc::clone(&inner).ping());
        Ok(Self { inner, reader, pinger })
    }

    fn leave(&self) {
        self.inner.state().leaving = true;
        self.inner.nudge.notify_one();
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
            inner.settle().await;
        }
        let mut lane = inner.lane.lock().await;
        let queue = inner.register(&command)?;
        let channel =
            TerminalChannel { inner: Arc::clone(inner), queue, nonce: command.nonce().to_owned() };
        if command.follows() {
            // The output of a run has nothing before it here.
            channel
                .queue
                .push(Item::Chunk(Chunk::Out(Bytes::from(format!("{} begin\n", command.nonce())))));
        }
        let _hurry = Hurry::new(inner);
        let verb = format!("run {} {}{}", command.nonce(), input.len(), command.words("~"));
        // Until the answer: whoever gives up in between, by dropping this, leaves it so.
        inner.state().midway = true;
        inner.verb(&verb).await?;
        if !input.is_empty() {
            inner.answer(&mut lane, "go").await?;
            write(&inner.terminal, input).await?;
        }
        inner.answer(&mut lane, "ok").await?;
        inner.state().midway = false;
        Ok(Box::new(channel))
    }

    /// Ends the session's command and leaves.
    async fn close(mut self: Box<Self>) {
        self.leave();
        if let Some(reader) = self.reader.take() {
            // It takes a bounded time, and the task is not needed any more.
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
                    self.inner.state().leave_alone(&self.nonce);
                    Chunk::Lost(damaged(&why))
                }
                // A block opens to one of these.
                Piece::Line { .. } | Piece::Noise(_) => Chunk::Lost(damaged("it is none")),
            },
        }
    }
}

impl<T: Terminal> Drop for TerminalChannel<T> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.leave_alone(&self.nonce);
        drop(state);
        self.inner.nudge.notify_one();
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
        if state.midway {
            return Err(
                "a script was on its way over the session's terminal when that was given up"
                    .to_owned(),
            );
        }
        let follows = command.follows();
        if follows
            && (!state.left_alone.is_empty() || state.commands.values().any(|other| other.follows))
        {
            return Err(
                "the session's terminal is taken by another run that is followed".to_owned()
            );
        }
        let queue = Arc::new(Queue::default());
        state.commands.insert(
            command.nonce().to_owned(),
            Listener { queue: Arc::clone(&queue), follows, next: command.from() },
        );
        Ok(queue)
    }

    /// Waits until no follower is left alone, if that is soon: one whose run has ended just has to
    /// say so.
    async fn settle(&self) {
        let settled = async {
            loop {
                let ended = self.settled.notified();
                if self.state().left_alone.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        if timeout(SETTLED_WITHIN, settled).await.is_err() {
            tracing::debug!("the terminal is still taken by a run that is not followed any more");
        }
    }

    async fn verb(&self, verb: &str) -> Result<(), String> {
        self.terminal.write(Bytes::from(format!("{} {verb}\n", self.nonce))).await
    }

    async fn answer(&self, lane: &mut mpsc::Receiver<String>, wanted: &str) -> Result<(), String> {
        let waited = async {
            while let Some(answer) = lane.recv().await {
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
            let mut lane = self.lane.lock().await;
            let _hurry = Hurry::new(&self);
            if std::mem::replace(&mut self.state().midway, true)
                || self.verb("ping").await.is_err()
                || self.answer(&mut lane, "pong").await.is_err()
            {
                return;
            }
            self.state().midway = false;
        }
    }

    async fn read(self: Arc<Self>, mut armor: ArmorDecoder, answers: mpsc::Sender<String>) {
        let why = loop {
            while let Some(piece) = armor.raw() {
                self.on_piece(piece, &answers);
            }
            if self.state().leaving {
                self.leave().await;
                break "the session was left".to_owned();
            }
            if let Some(full) = self.full() {
                tokio::select! {
                    () = full.taken() => {}
                    () = self.nudge.notified() => {}
                }
                continue;
            }
            tokio::select! {
                read = self.terminal.read() => match read {
                    Ok(Some(bytes)) => armor.push(&bytes),
                    Ok(None) => break "the session in the container ended".to_owned(),
                    Err(why) => break why,
                },
                () = self.nudge.notified() => {}
            }
        };
        let mut state = self.state();
        for (_, listener) in state.commands.drain() {
            listener.push(Chunk::Lost(why.clone()));
        }
        state.lost = Some(why);
    }

    /// A queue that has so much that the terminal is not to be read now.
    fn full(&self) -> Option<Arc<Queue<Item>>> {
        let in_a_hurry = self.hurry.load(Ordering::Relaxed) > 0;
        let state = self.state();
        state
            .commands
            .values()
            .find(|listener| listener.queue.is_full(in_a_hurry))
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
                        } else if state.left_alone.remove(command) {
                            self.settled.notify_waiters();
                        }
                    }
                    // Answers come one at a time: more than that is not from the helper.
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
        // After a verb that is not answered yet, this would be part of a script: then the session
        // is ended from outside.
        let left = async {
            if let Ok(_lane) = self.lane.try_lock()
                && !self.state().midway
            {
                // If it fails, the session is over anyway.
                let _ = self.verb("quit").await;
            }
            self.terminal.close().await;
        };
        if timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::debug!("the session could not be left in time");
        }
    }
}

fn damaged(why: &str) -> String {
    format!("a block of the output was damaged on its way: {why}")
}

impl Listener {
    fn push(&self, chunk: Chunk) {
        self.queue.push(Item::Chunk(chunk));
    }
}

impl State {
    /// So many bytes of a run's output, at this place.
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

    /// Nobody listens to this command any more; if it is a follower, it may still write.
    fn leave_alone(&mut self, nonce: &str) -> Option<Listener> {
        let listener = self.commands.remove(nonce)?;
        if listener.follows {
            self.left_alone.insert(nonce.to_owned());
        }
        Some(listener)
    }

    fn lose(&mut self, nonce: &str, why: String) {
        if let Some(listener) = self.leave_alone(nonce) {
            listener.push(Chunk::Lost(why));
        }
    }
}

/// While it lives, the terminal is read even if nobody takes a run's output: an answer is behind
/// it.
struct Hurry<'a, T>(&'a Inner<T>);

impl<'a, T> Hurry<'a, T> {
    fn new(inner: &'a Inner<T>) -> Self {
        inner.hurry.fetch_add(1, Ordering::Relaxed);
        inner.nudge.notify_one();
        Self(inner)
    }
}

impl<T> Drop for Hurry<'_, T> {
    fn drop(&mut self) {
        self.0.hurry.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn write<T: Terminal>(terminal: &T, mut bytes: Bytes) -> Result<(), String> {
    while !bytes.is_empty() {
        terminal.write(bytes.split_to(bytes.len().min(INPUT_PIECE))).await?;
    }
    Ok(())
}
