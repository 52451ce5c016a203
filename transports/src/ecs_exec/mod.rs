//! ECS Exec: sessions in containers through AWS's session protocol, without AWS's plugin.
//!
//! - [`channel`]: the data channel's protocol, without I/O ([`frame`]: its messages as bytes);
//! - `session`, `socket`, `proxy`: the same on a WebSocket over TLS, as a [`crate::Terminal`];
//! - `visit`: a person's terminal;
//! - `granted`, `lost`, `note`: no session is left behind, whatever happens to this process or its calls;
//! - [`ExecApi`]: the AWS calls that it needs, which are made elsewhere.
//!
//! Scripts go through the terminal by [`delivery::terminal`]. A session is not resumed when its connection is lost: the
//! run is attached to from a new one, as over any other transport.

mod api;
pub mod channel;
mod cipher;
mod errors;
pub mod frame;
mod granted;
mod handshake;
mod inbound;
mod lost;
mod note;
mod outbound;
mod proxy;
mod rtt;
mod session;
mod socket;
mod visit;

use std::sync::Arc;

use bytes::Bytes;
use states::{
    ConnectError, Greeting, HostIdentity, Run as _, RunError, RunEvent, RunId, RunOrder, Session, ShellFacts, Signal, Target, Transport,
};
use tokio::time::timeout;

pub use self::{
    api::{Container, ExecApi, ListedSession, NotDone, NotOpened, OpenedSession},
    cipher::KEY_BYTES,
    session::ExecTerminal,
    visit::ExecVisit,
};

use self::{
    granted::Granted,
    note::{Note, Ours},
    socket::Way,
};
use crate::{
    Command, Screen, Terminal, Visit,
    delivery::{
        self, Chunk, Followed,
        terminal::{Boot, TerminalChannel, TerminalShell},
    },
};

/// Reaches containers by ECS Exec.
pub struct ExecTransport<A> {
    api: Arc<A>,
    way: Arc<Way>,
    ours: Ours,
}

impl<A: ExecApi> ExecTransport<A> {
    /// A transport that uses these calls. Nothing is connected yet.
    #[must_use]
    pub fn new(api: A) -> Self {
        Self { api: Arc::new(api), way: Arc::default(), ours: Ours::default() }
    }

    /// A session that runs this command, whose container is the pinned one.
    async fn open(&self, target: &Target, command: &str, note: Option<&Note>) -> Result<(ExecTerminal, HostIdentity), ConnectError> {
        let lost = note.map(|note| lost::take_up(&self.api, note)).unwrap_or_default();
        // At first contact the agent may not run yet, and asking for a session would be in vain. Later it does,
        // and both are asked at once.
        let granted = Granted::ask(&self.api, target, command, note);
        let (container, granted) = if target.pinned.is_none() || !lost.is_empty() {
            let container = self.api.identify(target).await?;
            lost::end(&self.api, &container.target, lost).await;
            (container, granted.await?)
        } else {
            tokio::try_join!(self.api.identify(target), granted)?
        };
        if let Some(pinned) = &target.pinned
            && *pinned != container.identity
        {
            return Err(errors::identity_changed(target, &pinned.0, &container.identity.0));
        }
        let socket = socket::dial(&granted.session.url, &*self.api, &self.way).await.map_err(|e| errors::dial(&e))?;
        Ok((ExecTerminal::new(socket, granted, container.target, Arc::clone(&self.api)), container.identity))
    }

    /// A terminal of so many columns and rows with a command in it, which no shell takes apart, in a session of its own
    /// that is not the job's. The protocol tells no exit status.
    ///
    /// # Errors
    /// As [`Transport::connect`].
    pub async fn run(&self, target: &Target, command: &str, (columns, rows): (u32, u32)) -> Result<ExecTerminal, ConnectError> {
        let opened = timeout(target.attempt_timeout, self.open(target, command, None)).await.map_err(|_| errors::too_slow(target))?;
        let (terminal, _) = opened?;
        let lost = |why: String| errors::boot(target, delivery::terminal::BootError::Lost(why), None);
        Terminal::resize(&terminal, columns, rows).await.map_err(lost)?;
        Ok(terminal)
    }

    async fn connect_now(&self, target: &Target, note: Option<&Note>) -> Result<(ExecSession, Greeting), ConnectError> {
        let boot = Boot::new();
        let (terminal, identity) = self.open(target, &boot.command(), note).await?;
        let end = terminal.end();
        let shell = TerminalShell::boot(terminal, &boot).await.map_err(|e| errors::boot(target, e, end.get()))?;
        let facts = match &target.facts {
            Some(facts) => facts.clone(),
            None => delivery::probe(&shell).await?,
        };
        Ok((ExecSession { shell, facts: facts.clone() }, Greeting { identity, facts }))
    }

    async fn connect_in_time(&self, target: &Target, note: Option<&Note>) -> Result<(ExecSession, Greeting), ConnectError> {
        timeout(target.attempt_timeout, self.connect_now(target, note)).await.map_err(|_| errors::too_slow(target))?
    }
}

impl<A: ExecApi> Transport for ExecTransport<A> {
    type Session = ExecSession;

    /// `target.connect_timeout` is for hosts that may not be there yet; AWS's are, and get the attempt's whole time.
    async fn connect(&self, target: &Target) -> Result<(ExecSession, Greeting), ConnectError> {
        let connected = self.connect_in_time(target, Some(&Note::beside(&target.key, &self.ours))).await;
        connected.map_err(|e| errors::as_of_a_job(target, e))
    }
}

impl<A: ExecApi> Visit for ExecTransport<A> {
    type Terminal = ExecVisit;
    type Command = ExecCommand;

    async fn terminal(&self, target: &Target, screen: &Screen) -> Result<ExecVisit, ConnectError> {
        let nonce = delivery::nonce();
        let terminal = self.run(target, &visit::command(&screen.term, &nonce), (screen.columns, screen.rows)).await?;
        Ok(ExecVisit::new(terminal, &nonce))
    }

    /// As a run of its own, whose files stay in the container.
    async fn command(&self, target: &Target, command: &str) -> Result<ExecCommand, ConnectError> {
        let (session, _) = self.connect_in_time(target, None).await?;
        let lost = |why: String| errors::boot(target, delivery::terminal::BootError::Lost(why), None);
        let run = RunId::new(format!("command-{:016x}", rand::random::<u64>())).map_err(|e| lost(e.to_string()))?;
        let order = RunOrder { run: run.clone(), stage: "command".to_owned(), forget: None };
        let followed = session.start(&order, Bytes::from(command.to_owned())).await.map_err(|e| lost(e.to_string()))?;
        Ok(ExecCommand { run, followed, session })
    }
}

/// A command without a terminal.
pub struct ExecCommand {
    run: RunId,
    followed: Followed<TerminalChannel<ExecTerminal>>,
    session: ExecSession,
}

impl delivery::Channel for ExecCommand {
    /// Both outputs, in order, as one.
    async fn next(&mut self) -> Chunk {
        loop {
            return match self.followed.next().await {
                Ok(RunEvent::Started) => continue,
                Ok(RunEvent::Output(bytes)) => Chunk::Out(bytes),
                Ok(RunEvent::Exited { code, .. }) => Chunk::Ended { status: u32::try_from(code).ok() },
                Err(e) => Chunk::Lost(e.to_string()),
            };
        }
    }
}

impl Command for ExecCommand {
    async fn end(&mut self) -> bool {
        self.session.signal(&self.run, Signal::Term).await.is_ok()
    }

    async fn close(self) {
        drop(self.followed);
        self.session.close().await;
    }
}

/// An open session, with its terminal set up for commands.
pub struct ExecSession {
    shell: TerminalShell<ExecTerminal>,
    facts: ShellFacts,
}

impl Session for ExecSession {
    type Run = Followed<TerminalChannel<ExecTerminal>>;

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<Self::Run, RunError> {
        delivery::start(&self.shell, &self.facts, order, script).await
    }

    async fn attach(&self, run: &RunId, from: u64) -> Result<Self::Run, RunError> {
        delivery::attach(&self.shell, &self.facts, run, from).await
    }

    async fn signal(&self, run: &RunId, signal: Signal) -> Result<(), RunError> {
        delivery::signal(&self.shell, &self.facts, run, signal).await
    }

    async fn close(self) {
        self.shell.close().await;
    }
}
