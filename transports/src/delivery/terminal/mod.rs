//! Commands over one terminal.
//!
//! A terminal has one input and one output, and its output passes plain ASCII only. So a small program in the
//! container, [`Boot::helper`], takes verbs from the terminal's input, a line each, and starts the protocol's
//! supervisor for them; what supervisors say comes back in marked lines, the output of runs in armour
//! (see [`armour`]). So a signal can be sent while a run is followed.
//!
//! Verbs go in lockstep: nothing is sent before the last one was answered, because a shell may read ahead of the line that it
//! wants (bash does, up to 4095 bytes of a terminal) and a program that it starts would not see what it read.
//!
//! Besides what `delivery` needs, the container must have `stty`, `head`, `base64` and `setsid`; with `gzip`, output
//! is packed. Commands run in the terminal's environment, in `$HOME` (`/root`, or `/`, if that is not there).
//!
//! A session that nobody uses any more ends itself three minutes after the last verb; what it started runs on.

pub mod armour;
mod queue;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex as Lane, Notify, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    armour::{Armour, Piece},
    queue::Queue,
};
use super::{
    Channel, Chunk, Command, Exec,
    command::{ARMOURED_SUPERVISOR, WRAPPER, quote},
    nonce,
};
use crate::Terminal;

const SHELL: &str = include_str!("shell.sh");
/// How long the helper may take to answer a verb. Input that was sent before may still be on its way.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How often the helper is told that it is still needed: well within its three minutes, and within ECS's twenty.
const PING_EVERY: Duration = Duration::from_secs(45);
/// How long leaving may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Longest text before the first command is there.
const LONGEST_PREAMBLE: usize = 64 * 1024;
/// How much of it is kept to explain a failure.
const PREAMBLE_KEPT: usize = 2000;
/// Pieces in which input is handed to the terminal.
const INPUT_PIECE: usize = 16 * 1024;
/// The terminal's size: wide, as nothing is to be wrapped by anybody.
const SIZE: (u32, u32) = (200, 50);

/// How a session begins.
#[derive(Debug, Clone)]
pub struct Boot {
    nonce: String,
    /// The program that is sent once the terminal is ready for it.
    pub helper: String,
}

impl Default for Boot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot {
    /// A session of its own.
    #[must_use]
    pub fn new() -> Self {
        let nonce = nonce();
        let mut helper = format!("k={nonce}\n");
        for (name, program) in [("V", ARMOURED_SUPERVISOR), ("W", WRAPPER)] {
            helper.push_str(name);
            helper.push('=');
            quote(&mut helper, program);
            helper.push('\n');
        }
        helper.push_str(SHELL);
        Self { nonce, helper }
    }

    /// The command that the session is to run: makes the terminal pass bytes as they are, says so, and runs the
    /// helper that it then reads. Ends itself if none comes. It has no single quote but the outer two, so that it
    /// is taken apart in the same way by shells and by the agent's own rules (google/shlex).
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "/bin/sh -c '(sleep 60; kill -9 $$) </dev/null >/dev/null 2>&1 & g=$!; \
             stty raw -echo && printf \"%s\\n\" BOOT{} && eval \"$(dd bs=1 count={} 2>/dev/null)\"'",
            self.nonce,
            self.helper.len()
        )
    }
}

/// Why no command can be run over a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The connection was lost.
    #[error("{0}")]
    Lost(String),
    /// The session's command ended at once, or does not do what it should.
    #[error("the container's shell cannot be used over a terminal: {0}")]
    Unusable(String),
    /// Programs are missing.
    #[error("the image has no {0}")]
    Missing(String),
}

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
}

#[derive(Default)]
struct State {
    commands: HashMap<String, Listener>,
    lost: Option<String>,
    leaving: bool,
    /// A run's follower was left alone: the terminal is of no use for another one.
    littered: bool,
}

struct Listener {
    queue: Arc<Queue>,
    follows: bool,
    next: u64,
}

impl<T: Terminal> TerminalShell<T> {
    /// Sets up a session that runs `boot`'s command.
    ///
    /// # Errors
    /// When the connection is lost, or the container lacks what is needed.
    pub async fn boot(terminal: T, boot: &Boot) -> Result<Self, BootError> {
        let mut armour = Armour::default();
        let rest = preamble(&terminal, boot).await?;
        terminal.resize(SIZE.0, SIZE.1).await.map_err(BootError::Lost)?;
        write(&terminal, Bytes::from(boot.helper.clone())).await.map_err(BootError::Lost)?;
        armour.push(&rest);
        let mut noise = Vec::new();
        let missing = loop {
            match armour.piece() {
                Some(Piece::Line { nonce, text }) if nonce == boot.nonce && text.starts_with("ready") => {
                    break text["ready".len()..].trim().to_owned();
                }
                Some(Piece::Noise(bytes)) => {
                    noise.extend_from_slice(&bytes[..bytes.len().min(PREAMBLE_KEPT - noise.len().min(PREAMBLE_KEPT))])
                }
                Some(_) => {}
                None => match terminal.read().await {
                    Ok(Some(bytes)) => armour.push(&bytes),
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
        });
        let reader = Some(tokio::spawn(Arc::clone(&inner).read(armour, answers)));
        let pinger = tokio::spawn(Arc::clone(&inner).ping());
        Ok(Self { inner, reader, pinger })
    }

    /// Ends the session's command and leaves.
    pub async fn close(mut self) {
        self.leave();
        if let Some(reader) = self.reader.take() {
            // It takes a bounded time, and the task is not needed any more.
            let _ = reader.await;
        }
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

impl<T: Terminal> Exec for TerminalShell<T> {
    type Channel = TerminalChannel<T>;

    async fn exec(&self, command: Command, input: Bytes) -> Result<TerminalChannel<T>, String> {
        let inner = &self.inner;
        let mut lane = inner.lane.lock().await;
        let queue = inner.register(&command)?;
        let channel = TerminalChannel { inner: Arc::clone(inner), queue, nonce: command.nonce().to_owned() };
        if command.follows() {
            // The output of a run has nothing before it here.
            channel.queue.push(Chunk::Out(Bytes::from(format!("{} begin\n", command.nonce()))));
        }
        let _hurry = Hurry::new(inner);
        let verb = format!("run {} {}{}", command.nonce(), input.len(), command.words("~"));
        inner.verb(&verb).await?;
        if !input.is_empty() {
            inner.answer(&mut lane, "go").await?;
            write(&inner.terminal, input).await?;
        }
        inner.answer(&mut lane, "ok").await?;
        Ok(channel)
    }
}

/// A command that runs over a terminal.
pub struct TerminalChannel<T: Terminal> {
    inner: Arc<Inner<T>>,
    queue: Arc<Queue>,
    nonce: String,
}

impl<T: Terminal> Channel for TerminalChannel<T> {
    async fn next(&mut self) -> Chunk {
        self.queue.next().await
    }
}

impl<T: Terminal> Drop for TerminalChannel<T> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if let Some(listener) = state.commands.remove(&self.nonce)
            && listener.follows
        {
            state.littered = true;
        }
        drop(state);
        self.inner.nudge.notify_one();
    }
}

impl<T: Terminal> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, command: &Command) -> Result<Arc<Queue>, String> {
        let mut state = self.state();
        if let Some(why) = &state.lost {
            return Err(why.clone());
        }
        let follows = command.follows();
        if follows && (state.littered || state.commands.values().any(|other| other.follows)) {
            return Err("the session's terminal is taken by another run that is followed".to_owned());
        }
        let queue = Arc::new(Queue::default());
        state.commands.insert(command.nonce().to_owned(), Listener { queue: Arc::clone(&queue), follows, next: command.from() });
        Ok(queue)
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
            Err(_) => Err(format!("the container's shell did not answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    async fn ping(self: Arc<Self>) {
        loop {
            sleep(PING_EVERY).await;
            let mut lane = self.lane.lock().await;
            let _hurry = Hurry::new(&self);
            if self.verb("ping").await.is_err() || self.answer(&mut lane, "pong").await.is_err() {
                return;
            }
        }
    }

    async fn read(self: Arc<Self>, mut armour: Armour, answers: mpsc::Sender<String>) {
        let why = loop {
            while let Some(piece) = armour.piece() {
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
                    Ok(Some(bytes)) => armour.push(&bytes),
                    Ok(None) => break "the session in the container ended".to_owned(),
                    Err(why) => break why,
                },
                () = self.nudge.notified() => {}
            }
        };
        let mut state = self.state();
        for (_, listener) in state.commands.drain() {
            listener.queue.push(Chunk::Lost(why.clone()));
        }
        state.lost = Some(why);
    }

    /// A queue that has so much that the terminal is not to be read now.
    fn full(&self) -> Option<Arc<Queue>> {
        let in_a_hurry = self.hurry.load(Ordering::Relaxed) > 0;
        let state = self.state();
        state.commands.values().find(|listener| listener.queue.is_full(in_a_hurry)).map(|listener| Arc::clone(&listener.queue))
    }

    fn on_piece(&self, piece: Piece, answers: &mpsc::Sender<String>) {
        let mut state = self.state();
        match piece {
            Piece::Line { nonce, text } if nonce == self.nonce => match text.strip_prefix("end ").and_then(|rest| rest.split_once(' ')) {
                Some((command, status)) => {
                    if let Some(listener) = state.commands.remove(command) {
                        listener.queue.push(Chunk::Ended { status: status.parse().ok() });
                    }
                }
                // Answers come one at a time: more than that is not from the helper.
                None => drop(answers.try_send(text)),
            },
            Piece::Line { nonce, text } => {
                if let Some(listener) = state.commands.get(&nonce) {
                    listener.queue.push(Chunk::Err(Bytes::from(format!("{nonce} {text}\n"))));
                }
            }
            Piece::Block { nonce, offset, bytes } => {
                let Some(listener) = state.commands.get_mut(&nonce) else { return };
                if offset == listener.next {
                    listener.next += bytes.len() as u64;
                    listener.queue.push(Chunk::Out(bytes));
                } else {
                    let why = format!("byte {} of the output was expected, {offset} came", listener.next);
                    lose(&mut state, &nonce, why);
                }
            }
            Piece::Damaged { nonce, why } => lose(&mut state, &nonce, format!("a block of the output was damaged on its way: {why}")),
            Piece::Noise(bytes) => {
                for listener in state.commands.values().filter(|listener| !listener.queue.is_full(true)) {
                    listener.queue.push(Chunk::Err(bytes.clone()));
                }
            }
        }
    }

    async fn leave(&self) {
        // A verb that is not answered yet may have input to come: then the helper ends by itself later.
        let left = async {
            if let Ok(_lane) = self.lane.try_lock() {
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

/// The command's follower still writes; nobody listens any more.
fn lose(state: &mut State, nonce: &str, why: String) {
    if let Some(listener) = state.commands.remove(nonce) {
        state.littered |= listener.follows;
        listener.queue.push(Chunk::Lost(why));
    }
}

/// While it lives, the terminal is read even if nobody takes a run's output: an answer is behind it.
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

/// Waits until the session's command says that the terminal is ready; what came behind that.
async fn preamble<T: Terminal>(terminal: &T, boot: &Boot) -> Result<Vec<u8>, BootError> {
    let wanted = format!("BOOT{}", boot.nonce).into_bytes();
    let mut text = Vec::new();
    loop {
        match terminal.read().await {
            Ok(Some(bytes)) => text.extend_from_slice(&bytes),
            Ok(None) => return Err(BootError::Unusable(said(&text))),
            Err(why) if text.is_empty() => return Err(BootError::Lost(why)),
            Err(why) => return Err(BootError::Lost(format!("{why}, after {:?}", said(&text)))),
        }
        if let Some(at) = text.windows(wanted.len()).position(|window| window == wanted)
            && let Some(end) = text[at..].iter().position(|b| *b == b'\n')
        {
            return Ok(text.split_off(at + end + 1));
        }
        if text.len() > LONGEST_PREAMBLE {
            return Err(BootError::Unusable("it prints without end before it runs a command".to_owned()));
        }
    }
}

async fn write<T: Terminal>(terminal: &T, mut bytes: Bytes) -> Result<(), String> {
    while !bytes.is_empty() {
        terminal.write(bytes.split_to(bytes.len().min(INPUT_PIECE))).await?;
    }
    Ok(())
}

fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(PREAMBLE_KEPT)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it ended without a word".to_owned() } else { text }
}
