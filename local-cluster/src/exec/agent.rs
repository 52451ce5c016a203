//! One session of the agent, from its slot to its end.

mod opening;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pty_process::OwnedWritePty;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    Stage, State, Surroundings,
    cipher::Cipher,
    message::{Message, payload},
    pace::{Output, Writing, Written, write},
    rules::AgentRules,
    session::{Attachment, Control, Session, ToClient},
    slots::Slot,
    stream::{self, Stream},
    terminal::{self, Terminal},
};
use crate::{cluster::Cluster, settings};

/// How long a failure to start waits for a client to report to.
const FAILED: Duration = Duration::from_secs(2);
/// How long the service's last message may take.
const LAST_MESSAGE: Duration = Duration::from_secs(5);
/// Most messages that wait for a slow client; more are lost.
pub(super) const TO_CLIENT: usize = 1024;

/// A session's agent.
pub(super) struct Agent {
    cluster: Arc<Cluster>,
    session: Arc<Session>,
    control: mpsc::Receiver<Control>,
    command: String,
    surroundings: Arc<OnceLock<BTreeMap<String, Surroundings>>>,
    settings: settings::ExecSettings,
    rules: AgentRules,
    stream: Stream,
    cipher: Option<Cipher>,
    to_client: Option<mpsc::Sender<ToClient>>,
    from_client: Option<mpsc::Receiver<Message>>,
    /// The agent reads nothing of this session's clients any more.
    hangs: bool,
    ticks: Interval,
    /// When the session ends without input.
    idle: Instant,
}

/// How a session ends.
#[derive(Debug)]
enum End {
    /// By itself, or on request.
    Over,
    /// For a reason that is sent to the client.
    Because(String),
    /// By a failure of the agent, which is sent to the client in the agent's own way.
    Failed(String),
    /// Together with the agent.
    Gone,
}

/// How input that comes in order is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// It is lost: the agent is gone.
    Lost,
    /// It is acknowledged and discarded.
    Discarded,
    /// As before, except for this answer of a handshake.
    Answer(u32),
    /// It is not accepted: the client will send it again.
    Refused,
}

/// The awaited result, or an answer of a handshake before it.
enum Waited<T> {
    Done(T),
    Answer(Message),
}

impl Agent {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        session: Arc<Session>,
        control: mpsc::Receiver<Control>,
        command: &str,
        surroundings: Arc<OnceLock<BTreeMap<String, Surroundings>>>,
        late: Duration,
    ) -> Self {
        let rules = AgentRules {
            start: cluster.settings.exec.agent.start + late,
            ..cluster.settings.exec.agent
        };
        let mut ticks = interval(stream::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            cluster: Arc::clone(cluster),
            session,
            control,
            command: command.to_owned(),
            surroundings,
            settings: cluster.settings.exec,
            rules,
            stream: Stream::new(),
            cipher: None,
            to_client: None,
            from_client: None,
            hangs: false,
            ticks,
            idle: Instant::now() + cluster.settings.exec.idle_timeout,
        }
    }

    /// Runs the session from its slot to its end, and then holds the slot as long as AWS's agent
    /// does.
    pub(super) async fn run(
        mut self,
        mut asked: oneshot::Receiver<Slot>,
        agent: &mut watch::Receiver<State>,
    ) {
        let mut gone = agent.clone();
        let mut slot = None;
        let end = tokio::select! {
            end = self.live(&mut asked, &mut slot, agent) => end,
            // The sender is in the task, which outlives its sessions.
            _ = gone.wait_for(|state| state.stage == Stage::Gone) => End::Gone,
        };
        tracing::debug!(session = self.session.id, ?end, "a session ended");
        let (rules, is_gone) = (self.rules, matches!(end, End::Gone));
        self.finish(end).await;
        if is_gone {
            return;
        }
        if slot.is_none() && rules.keeps_terminated {
            slot = asked.await.ok();
        }
        if let Some(mut slot) = slot {
            if rules.keeps_terminated {
                slot.worker().await;
            }
            sleep(rules.release).await;
        }
    }

    async fn live(
        &mut self,
        asked: &mut oneshot::Receiver<Slot>,
        slot: &mut Option<Slot>,
        agent: &mut watch::Receiver<State>,
    ) -> End {
        match self.stages(asked, slot, agent).await {
            Ok(()) => End::Over,
            Err(end) => end,
        }
    }

    async fn stages(
        &mut self,
        asked: &mut oneshot::Receiver<Slot>,
        slot: &mut Option<Slot>,
        agent: &mut watch::Receiver<State>,
    ) -> Result<(), End> {
        let worker = async {
            let worker = async {
                let Ok(got) = asked.await else { return std::future::pending().await };
                slot.insert(got).worker().await;
            };
            tokio::select! {
                () = worker => true,
                _ = agent.wait_for(|state| state.stage >= Stage::Leaving) => false,
            }
        };
        let Waited::Done(true) = self.meanwhile(Input::Lost, worker).await? else {
            return Err(End::Gone);
        };
        let early_end = self.cluster.faults().exec.ends_session();
        if let Some(text) = early_end {
            return self.fail(text).await;
        }
        let half = self.rules.start / 2;
        self.meanwhile(Input::Discarded, sleep(half)).await?;
        match self.settings.handshake {
            settings::Handshake::None => {}
            settings::Handshake::Plain => self.shake_hands(false).await?,
            settings::Handshake::Kms => self.shake_hands(true).await?,
        }
        self.meanwhile(Input::Refused, sleep(half)).await?;
        let surroundings = self.surroundings.get();
        let Some(surroundings) =
            surroundings.and_then(|containers| containers.get(&self.session.container))
        else {
            return Err(End::Gone);
        };
        match Terminal::start(&self.command, surroundings) {
            Ok(terminal) => {
                self.attend(terminal).await?;
                self.meanwhile(Input::Discarded, sleep(self.rules.log_upload)).await?;
                Ok(())
            }
            Err(e) => self.fail(e.to_string()).await,
        }
    }

    /// Ends with a failure, once a client is connected.
    async fn fail(&mut self, text: String) -> Result<(), End> {
        if self.to_client.is_none() {
            let until = Instant::now() + FAILED;
            while self.to_client.is_none() && Instant::now() < until {
                self.meanwhile(Input::Refused, sleep(stream::TICK / 10)).await?;
            }
        }
        Err(End::Failed(text))
    }

    /// Runs the agent's loop until `done`, or until the answer that `input` waits for.
    async fn meanwhile<T>(
        &mut self,
        input: Input,
        done: impl Future<Output = T>,
    ) -> Result<Waited<T>, End> {
        let mut done = pin!(done);
        loop {
            self.flush();
            tokio::select! {
                output = &mut done => return Ok(Waited::Done(output)),
                control = self.control.recv() => self.obey(control)?,
                message = next(&mut self.from_client), if !self.hangs => {
                    let Some(message) = message else {
                        self.detach();
                        continue;
                    };
                    if input == Input::Lost {
                        continue;
                    }
                    let mut next = self.receive(message);
                    while let Some(message) = next {
                        if input == Input::Refused || (input != Input::Answer(message.payload_type) && self.hangs_on(&message)) {
                            break;
                        }
                        self.stream.used(&message);
                        if input == Input::Answer(message.payload_type) {
                            self.flush();
                            return Ok(Waited::Answer(message));
                        }
                        next = self.stream.early();
                    }
                }
                _ = self.ticks.tick() => self.stream.tick(Instant::now()),
                () = sleep_until(self.idle.into()) => return Err(timed_out()),
            }
        }
    }

    /// Connects a terminal and its client until the terminal is closed.
    async fn attend(&mut self, terminal: Terminal) -> Result<(), End> {
        let Terminal { mut child, reader, mut writer } = terminal;
        let mut output = Output::new(reader, &self.rules);
        let mut writing: Option<Writing> = None;
        let mut closed: Option<Instant> = None;
        let mut early = self.stream.early();
        loop {
            while let Some(message) = early.take() {
                writing = self.take_in(message, &writer);
                if writing.is_none() {
                    early = self.stream.early();
                }
            }
            self.flush();
            if closed.is_some() && self.stream.is_quiet() {
                return Ok(());
            }
            let reads = closed.is_none() && !self.stream.is_paused();
            tokio::select! {
                control = self.control.recv() => {
                    if let Err(end) = self.obey(control) {
                        // As in AWS's agent: the leader is killed, the others get SIGHUP.
                        let _ = child.start_kill();
                        return Err(end);
                    }
                }
                message = next(&mut self.from_client), if writing.is_none() && !self.hangs => match message {
                    Some(message) => early = self.receive(message),
                    None => self.detach(),
                },
                written = write(&mut writer, &mut writing), if writing.is_some() => {
                    match (written, writing.take()) {
                        (Written::All, Some(writing)) => {
                            self.stream.used(&writing.message);
                            early = self.stream.early();
                        }
                        (Written::Some(count), Some(mut rest)) => {
                            rest.written += count;
                            writing = Some(rest);
                        }
                        // As in AWS's agent, it is not acknowledged.
                        (Written::Failed, _) | (_, None) => {}
                    }
                }
                read = output.next(self.to_client.as_ref()), if reads => match read {
                    Some(bytes) => self.send(bytes),
                    None => closed = Some(Instant::now() + self.last_acknowledgements()),
                },
                _ = self.ticks.tick() => self.stream.tick(Instant::now()),
                () = sleep_until(self.idle.into()) => {
                    let _ = child.start_kill();
                    return Err(timed_out());
                }
                () = until(closed) => return Ok(()),
            }
        }
    }

    /// Returns how long to wait for missing acknowledgements at the end.
    fn last_acknowledgements(&self) -> Duration {
        let waits = if self.stream.was_acknowledged() { 1 } else { 2 };
        self.rules.last_acknowledgements * waits
    }

    /// Whether the agent blocks for ever on this message: it then reads nothing more of the client.
    fn hangs_on(&mut self, message: &Message) -> bool {
        let hangs = self.rules.strict && message.payload_type == payload::HANDSHAKE_RESPONSE;
        self.hangs |= hangs;
        hangs
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let bytes = match &self.cipher {
            Some(cipher) if !bytes.is_empty() => cipher.seal(&bytes),
            _ => bytes,
        };
        self.stream.send(payload::OUTPUT, bytes.into(), Instant::now());
    }

    /// Handles a message of the client. Returns it if it is the next of the input.
    fn receive(&mut self, message: Message) -> Option<Message> {
        if message.kind == super::message::kind::INPUT {
            self.idle = Instant::now() + self.settings.idle_timeout;
        }
        self.stream.receive(message, Instant::now())
    }

    /// Handles the next of the input. Returns bytes for the terminal, which must be written first.
    /// Unusable input is not acknowledged.
    fn take_in(&mut self, message: Message, writer: &OwnedWritePty) -> Option<Writing> {
        if self.hangs_on(&message) {
            return None;
        }
        match message.payload_type {
            payload::OUTPUT => {
                let bytes = match &self.cipher {
                    Some(cipher) => match cipher.open(&message.payload) {
                        Ok(bytes) => bytes.into(),
                        Err(e) => {
                            tracing::debug!(session = self.session.id, "input is not taken: {e}");
                            return None;
                        }
                    },
                    None => message.payload.clone(),
                };
                if !bytes.is_empty() {
                    return Some(Writing { message, bytes, written: 0 });
                }
            }
            payload::SIZE => {
                if let Err(e) = terminal::resize(writer, &message.payload) {
                    tracing::debug!(session = self.session.id, "input is not taken: {e}");
                    return None;
                }
            }
            _ => {}
        }
        self.stream.used(&message);
        None
    }

    fn obey(&mut self, control: Option<Control>) -> Result<(), End> {
        match control {
            Some(Control::Attach(Attachment { frames, input })) => {
                // A connection before this one ends with its channel.
                self.to_client = Some(frames);
                self.from_client = Some(input);
                self.stream.pause(false);
                Ok(())
            }
            Some(Control::Resume) => {
                self.idle = Instant::now() + self.settings.idle_timeout;
                Ok(())
            }
            // The service does not know the session any more.
            Some(Control::Terminate) | None => Err(End::Over),
        }
    }

    /// The client has disconnected: the service pauses the agent.
    fn detach(&mut self) {
        self.to_client = None;
        self.from_client = None;
        self.stream.pause(true);
    }

    /// Sends the pending messages. Those that a slow client has no room for are lost, and sent
    /// again later.
    fn flush(&mut self) {
        let to_client = self.to_client.as_ref();
        for frame in self.stream.outbox() {
            if let Some(client) = to_client {
                let _ = client.try_send(ToClient::Frame(frame));
            }
        }
    }

    async fn finish(mut self, end: End) {
        let output = match end {
            End::Over => String::new(),
            End::Because(text) => text,
            End::Failed(text) if self.rules.frames_errors => {
                format!("\n----------ERROR-------\n{text}\n\n")
            }
            End::Failed(text) => text,
            End::Gone => {
                self.session.end("");
                return;
            }
        };
        self.session.end(&output);
        let last = self.session.closing(&output);
        let mut clients: Vec<_> = self.to_client.take().into_iter().collect();
        self.control.close();
        while let Some(control) = self.control.recv().await {
            if let Control::Attach(attachment) = control {
                clients.push(attachment.frames);
            }
        }
        for client in clients {
            // It may be gone, or not reading.
            let _ = timeout(LAST_MESSAGE, client.send(last.clone())).await;
        }
    }
}

fn timed_out() -> End {
    End::Because("Your session timed out due to inactivity.".to_owned())
}

async fn next(from_client: &mut Option<mpsc::Receiver<Message>>) -> Option<Message> {
    match from_client {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
