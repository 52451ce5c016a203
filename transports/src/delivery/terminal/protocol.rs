//! The protocol over one terminal, without I/O: bytes, verbs and time in, bytes and events out.
//!
//! ```text
//!      on_bytes(bytes)  on_end(why)        run(command, input)  ping()
//!            │              │                        │
//!      ┌─────▼──────────────▼────────────────────────▼─────┐
//!      │  ArmorDecoder: lines, blocks    one verb at a time │
//!      │  commands, offsets              answers, deadlines │
//!      └─────┬───────────────────────────────────────┬─────┘
//!            ▼                                       ▼
//!       poll_event()                          poll(verb, now)
//! ```
//!
//! Each verb is a small machine of its own, which its caller drives by [`Protocol::poll`]. So a
//! caller that gives up stops writing at once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::armor::{ArmorDecoder, Packed, Piece, Raw};
use crate::delivery::{Chunk, Command, queue::Held};

/// How long the helper may take to answer a verb. Input that was sent before it may still be in
/// transit.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How often the helper is pinged: well within its three minutes, and within ECS's idle time-out of
/// twenty.
const PING_EVERY: Duration = Duration::from_secs(45);
/// How long an abandoned follower may take to end by itself.
const FOLLOWER_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Most bytes of input in one write to the terminal.
const INPUT_PIECE: usize = 16 * 1024;
/// Most bytes of input that are sent in a verb's line, in base64: these start a round trip earlier.
/// Beyond that, base64 and the shell's handling of a long line would cost more.
const MOST_IN_LINE: usize = 8 * 1024;
/// Most answers that are kept until their verb looks. The helper sends one at a time: more are not
/// its own.
const MOST_ANSWERS: usize = 16;

/// The state of a terminal whose helper is ready.
#[derive(Debug)]
pub(super) struct Protocol {
    nonce: String,
    armor: ArmorDecoder,
    commands: HashMap<String, Listener>,
    /// Followers whose caller has given up. While one of them runs, the terminal cannot follow
    /// another run.
    abandoned_followers: HashSet<String>,
    /// The verbs that want the terminal's input, in order. The first one has it.
    verbs: VecDeque<u64>,
    next_verb: u64,
    /// Whether a verb was sent and not answered. If its caller gave up, the container may read the
    /// next bytes as the rest of a script, so the terminal cannot be used again.
    is_verb_unanswered: bool,
    /// Answers to the verb that was sent.
    answers: VecDeque<String>,
    ping_due: Instant,
    lost: Option<String>,
    events: VecDeque<Event>,
}

/// A command whose output is expected.
#[derive(Debug)]
struct Listener {
    follows: bool,
    /// The offset of the next byte of output.
    next: u64,
}

/// An event of a command.
#[derive(Debug)]
pub(super) enum Event {
    /// An item for the command of this nonce. Nothing follows `Ended` and `Lost`.
    Item(String, Item),
    /// Unmarked bytes, for the command of this nonce. They may be dropped.
    Noise(String, Bytes),
}

/// A piece of a command's output, or its end.
#[derive(Debug)]
pub(super) enum Item {
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

impl Item {
    /// Decompresses output.
    pub(super) fn into_chunk(self) -> Chunk {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Packed(packed) => match packed.open() {
                Piece::Block { bytes, .. } => Chunk::Out(bytes),
                Piece::Damaged { why, .. } => Chunk::Lost(damaged(&why)),
                // A block cannot unpack to one of these.
                Piece::Line { .. } | Piece::Noise(_) => Chunk::Lost(damaged("it is not a block")),
            },
        }
    }

    /// Whether nothing follows.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Chunk(Chunk::Ended { .. } | Chunk::Lost(_)))
    }
}

/// A verb on its way. Its caller polls it until it is done, and releases it then or earlier.
#[derive(Debug)]
pub(super) struct Verb {
    id: u64,
    /// The command that it runs; `None` for a ping.
    command: Option<(String, Listener)>,
    line: Bytes,
    input: Bytes,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Waits, not longer than this, until every abandoned follower has ended. One whose run is over
    /// has only to report that.
    Settling(Instant),
    /// Waits for the terminal's input.
    Queued,
    /// Waits for an answer. Its time begins when all bytes before it are written.
    Sent {
        awaited: &'static str,
        until: Option<Instant>,
    },
    /// Sends its input.
    Input,
    Done,
}

/// What a verb needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// These bytes are to be written. The next poll says that they are.
    Write(Bytes),
    /// A change of the protocol, or this time.
    Wait(Option<Instant>),
    /// Nothing: it was answered.
    Done,
}

impl Protocol {
    /// Returns the protocol after the helper has reported that it is ready. `armor` may hold what
    /// came behind that.
    pub(super) fn new(nonce: &str, armor: ArmorDecoder, now: Instant) -> Self {
        let mut protocol = Self {
            nonce: nonce.to_owned(),
            armor,
            commands: HashMap::new(),
            abandoned_followers: HashSet::new(),
            verbs: VecDeque::new(),
            next_verb: 0,
            is_verb_unanswered: false,
            answers: VecDeque::new(),
            ping_due: now + PING_EVERY,
            lost: None,
            events: VecDeque::new(),
        };
        protocol.on_bytes(&[]);
        protocol
    }

    /// Handles output of the terminal.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) {
        self.armor.push(bytes);
        while let Some(piece) = self.armor.raw() {
            self.on_piece(piece);
        }
    }

    /// Handles the end of the session or of its connection.
    pub(super) fn on_end(&mut self, why: String) {
        for (nonce, _) in self.commands.drain() {
            self.events.push_back(Event::Item(nonce, Item::Chunk(Chunk::Lost(why.clone()))));
        }
        self.lost = Some(why);
    }

    /// Returns the next event.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Begins a verb that runs a command with this input.
    pub(super) fn run(&mut self, command: &Command, input: Bytes, now: Instant) -> Verb {
        let (nonce, size, words) = (command.nonce(), input.len(), command.words("~"));
        let (line, input) = match size {
            1..=MOST_IN_LINE => {
                let input = STANDARD.encode(input);
                (format!("with {nonce} {size}{words} {input}"), Bytes::new())
            }
            _ => (format!("run {nonce} {size}{words}"), input),
        };
        let listener = Listener { follows: command.follows(), next: command.from() };
        let settles_within = if listener.follows { FOLLOWER_ENDS_WITHIN } else { Duration::ZERO };
        let step = Step::Settling(now + settles_within);
        self.verb(&line, Some((command.nonce().to_owned(), listener)), input, step)
    }

    /// Returns when the next ping is due. A session without verbs would end itself.
    pub(super) fn ping_due(&self) -> Instant {
        self.ping_due
    }

    /// Begins a ping. Once one has failed, the terminal cannot be used any more.
    pub(super) fn ping(&mut self, now: Instant) -> Verb {
        self.verb("ping", None, Bytes::new(), Step::Settling(now))
    }

    fn verb(
        &mut self,
        text: &str,
        command: Option<(String, Listener)>,
        input: Bytes,
        step: Step,
    ) -> Verb {
        self.next_verb += 1;
        let line = Bytes::from(format!("{} {text}\n", self.nonce));
        Verb { id: self.next_verb, command, line, input, step }
    }

    /// Advances a verb. The error says why the terminal cannot run it.
    pub(super) fn poll(&mut self, verb: &mut Verb, now: Instant) -> Result<Progress, String> {
        loop {
            match verb.step {
                Step::Settling(until) => {
                    if now < until && !self.abandoned_followers.is_empty() {
                        return Ok(Progress::Wait(Some(until)));
                    }
                    self.verbs.push_back(verb.id);
                    verb.step = Step::Queued;
                }
                Step::Queued => {
                    if self.verbs.front() != Some(&verb.id) {
                        return Ok(Progress::Wait(None));
                    }
                    let awaited = match &verb.command {
                        None => "pong",
                        Some(_) if verb.input.is_empty() => "ok",
                        Some(_) => "go",
                    };
                    self.begin(verb.command.take())?;
                    verb.step = Step::Sent { awaited, until: None };
                    return Ok(Progress::Write(std::mem::take(&mut verb.line)));
                }
                Step::Sent { awaited, until } => {
                    let until = until.unwrap_or(now + ANSWER_WITHIN);
                    if !self.has_answer(awaited) {
                        verb.step = Step::Sent { awaited, until: Some(until) };
                        return self.still_waits(until, now);
                    }
                    verb.step = if awaited == "go" { Step::Input } else { Step::Done };
                    if let Step::Done = verb.step {
                        self.is_verb_unanswered = false;
                        if awaited == "pong" {
                            self.ping_due = now + PING_EVERY;
                        }
                    }
                }
                Step::Input => match next_piece(&mut verb.input) {
                    Some(piece) => return Ok(Progress::Write(piece)),
                    None => verb.step = Step::Sent { awaited: "ok", until: None },
                },
                Step::Done => return Ok(Progress::Done),
            }
        }
    }

    /// Lets the next verb have the terminal's input. A verb that was sent stays unanswered if its
    /// caller gave up.
    pub(super) fn release(&mut self, verb: &Verb) {
        self.verbs.retain(|id| *id != verb.id);
    }

    /// Whether an answer is awaited. It comes behind the output of runs, so that output has to be
    /// read.
    pub(super) fn is_answer_awaited(&self) -> bool {
        !self.verbs.is_empty()
    }

    /// Returns what ends the session, if it can be written. After an unanswered verb, it could
    /// become part of a script. Closing the terminal ends the session then.
    pub(super) fn quit(&self) -> Option<Bytes> {
        let is_free = self.verbs.is_empty() && !self.is_verb_unanswered;
        is_free.then(|| Bytes::from(format!("{} quit\n", self.nonce)))
    }

    /// Ends the interest in a command. A follower may still write: it is kept as abandoned.
    pub(super) fn abandon(&mut self, nonce: &str) -> bool {
        let Some(listener) = self.commands.remove(nonce) else { return false };
        if listener.follows {
            self.abandoned_followers.insert(nonce.to_owned());
        }
        true
    }

    /// Prepares for a verb that is about to be sent.
    fn begin(&mut self, command: Option<(String, Listener)>) -> Result<(), String> {
        if let Some(why) = &self.lost {
            return Err(why.clone());
        }
        if self.is_verb_unanswered {
            return Err(
                "the delivery of a script over the session's terminal was interrupted".to_owned()
            );
        }
        if let Some((nonce, listener)) = command {
            let is_followed = !self.abandoned_followers.is_empty()
                || self.commands.values().any(|other| other.follows);
            if listener.follows && is_followed {
                return Err("the session's terminal already follows another run".to_owned());
            }
            self.commands.insert(nonce, listener);
        }
        self.answers.clear();
        self.is_verb_unanswered = true;
        Ok(())
    }

    /// Takes answers up to the one that is wanted.
    fn has_answer(&mut self, wanted: &str) -> bool {
        while let Some(answer) = self.answers.pop_front() {
            if answer == wanted {
                return true;
            }
        }
        false
    }

    fn still_waits(&self, until: Instant, now: Instant) -> Result<Progress, String> {
        match &self.lost {
            Some(why) => Err(why.clone()),
            None if now >= until => Err(format!(
                "the container's shell did not answer within {} s",
                ANSWER_WITHIN.as_secs()
            )),
            None => Ok(Progress::Wait(Some(until))),
        }
    }

    fn on_piece(&mut self, piece: Raw) {
        match piece {
            Raw::Packed(packed) => {
                let (nonce, offset, length) = (packed.nonce.clone(), packed.offset, packed.length);
                self.on_output(nonce, offset, length, Item::Packed(packed));
            }
            Raw::Piece(Piece::Block { nonce, offset, bytes }) => {
                self.on_output(nonce, offset, bytes.len(), Item::Chunk(Chunk::Out(bytes)));
            }
            Raw::Piece(Piece::Damaged { nonce, why }) => self.lose(nonce, damaged(&why)),
            Raw::Piece(Piece::Line { nonce, text }) if nonce == self.nonce => self.on_line(text),
            Raw::Piece(Piece::Line { nonce, text }) => {
                if self.commands.contains_key(&nonce) {
                    let line = Bytes::from(format!("{nonce} {text}\n"));
                    self.events.push_back(Event::Item(nonce, Item::Chunk(Chunk::Err(line))));
                }
            }
            Raw::Piece(Piece::Noise(bytes)) => {
                let noise =
                    self.commands.keys().map(|nonce| Event::Noise(nonce.clone(), bytes.clone()));
                self.events.extend(noise);
            }
        }
    }

    /// Handles a line of the helper.
    fn on_line(&mut self, text: String) {
        match text.strip_prefix("end ").and_then(|rest| rest.split_once(' ')) {
            Some((nonce, status)) => {
                if self.commands.remove(nonce).is_some() {
                    let ended = Chunk::Ended { status: status.parse().ok() };
                    self.events.push_back(Event::Item(nonce.to_owned(), Item::Chunk(ended)));
                } else {
                    self.abandoned_followers.remove(nonce);
                }
            }
            None if self.answers.len() < MOST_ANSWERS => self.answers.push_back(text),
            None => {}
        }
    }

    /// Handles `length` bytes of a run's output, which begin at `offset`.
    fn on_output(&mut self, nonce: String, offset: u64, length: usize, item: Item) {
        let Some(listener) = self.commands.get_mut(&nonce) else { return };
        if offset == listener.next {
            listener.next += length as u64;
            self.events.push_back(Event::Item(nonce, item));
        } else {
            let why = format!("byte {} of the output was expected, {offset} came", listener.next);
            self.lose(nonce, why);
        }
    }

    fn lose(&mut self, nonce: String, why: String) {
        if self.abandon(&nonce) {
            self.events.push_back(Event::Item(nonce, Item::Chunk(Chunk::Lost(why))));
        }
    }
}

/// Takes the bytes of the next write to the terminal.
pub(super) fn next_piece(bytes: &mut Bytes) -> Option<Bytes> {
    (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(INPUT_PIECE)))
}

fn damaged(why: &str) -> String {
    format!("a block of the output was damaged in transit: {why}")
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
