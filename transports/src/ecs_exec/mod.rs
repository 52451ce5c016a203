//! ECS Exec: sessions in containers through AWS's session protocol, without AWS's plugin.
//!
//! - [`channel`]: the data channel's protocol, without I/O ([`frame`]: its messages as bytes);
//! - `session`, `socket`, `proxy`: the same on a WebSocket over TLS, as a [`crate::Terminal`];
//! - `visit`: a person's terminal;
//! - `opening`: a job's session until it is ready, over several attempts if need be; `notices`:
//!   what they wait for;
//! - `admission`: when a session may be asked for; `granted`, `session_ledger`: none is left
//!   behind, whatever happens to this process or its calls;
//! - [`ExecApi`]: the AWS calls that it needs, which are made elsewhere.
//!
//! Scripts go through the terminal by [`delivery::terminal`]. A session is not resumed when its
//! connection is lost: the run is attached to from a new one, as over any other transport.

mod admission;
mod api;
pub mod channel;
mod cipher;
mod errors;
pub mod frame;
mod granted;
mod handshake;
mod inbound;
mod notices;
mod opening;
mod outbound;
mod proxy;
mod rtt;
mod session;
mod session_ledger;
mod socket;
mod visit;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use states::{
    ConnectError, Greeting, Run as _, RunError, RunEvent, RunId, RunOrder, Session, ShellFacts,
    Signal, Target, TaskArn, Transport,
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
    notices::Notices,
    opening::{Attempts, DIAL_WITHIN},
    session_ledger::{InHand, SessionLedger},
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
    in_hand: InHand,
    /// Those whose session is not ready yet, and what they wait for.
    attempts: Mutex<HashMap<TaskArn, Arc<Attempts>>>,
}

impl<A: ExecApi> ExecTransport<A> {
    /// A transport that uses these calls. Nothing is connected yet.
    #[must_use]
    pub fn new(api: A) -> Self {
        Self {
            api: Arc::new(api),
            way: Arc::default(),
            in_hand: InHand::default(),
            attempts: Mutex::default(),
        }
    }

    /// The next thing that attempts to reach this task wait for, for people. Cancel-safe.
    pub async fn waits_for(&self, task: &TaskArn) -> String {
        let notices = Arc::clone(&self.attempts(task).notices);
        notices.next().await
    }

    fn attempts(&self, task: &TaskArn) -> Arc<Attempts> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(attempts.entry(task.clone()).or_default())
    }

    /// A session that runs this command, in the container that is pinned.
    async fn grant(
        &self,
        target: &Target,
        command: &str,
        ledger: Option<&SessionLedger>,
        notices: &Notices,
    ) -> Result<(Container, Granted<A>), ConnectError> {
        let earlier = ledger.map(SessionLedger::earlier).unwrap_or_default();
        let is_clean = earlier.is_empty()
            && ledger.is_some_and(|ledger| ledger.in_hand() < admission::WORKERS);
        // At first contact the agent may not run yet, and asking for a session would be in vain.
        // Later it does, and both are asked at once.
        let asked = Granted::ask(&self.api, target, command, ledger);
        let (container, granted) = if target.pinned.is_some() && is_clean {
            tokio::try_join!(self.api.identify(target), asked)?
        } else {
            let container = self.api.identify(target).await?;
            if !is_clean {
                admission::admit(&self.api, &container.target, ledger, earlier, notices).await;
            }
            (container, asked.await?)
        };
        if let Some(pinned) = &target.pinned
            && *pinned != container.identity
        {
            return Err(errors::identity_changed(target, &pinned.0, &container.identity.0));
        }
        Ok((container, granted))
    }

    /// A session for a person, who waits no longer than the attempt.
    async fn open(&self, target: &Target, command: &str) -> Result<ExecTerminal, ConnectError> {
        let (container, granted) =
            self.grant(target, command, None, &self.attempts(&target.task).notices).await?;
        let dialled =
            timeout(DIAL_WITHIN, socket::dial(&granted.session.url, &*self.api, &self.way)).await;
        let socket =
            dialled.map_err(|_| errors::too_slow_to_dial())?.map_err(|e| errors::dial(&e))?;
        Ok(ExecTerminal::new(socket, granted, container.target, Arc::clone(&self.api)))
    }

    /// A terminal of so many columns and rows with a command in it, which no shell takes apart, in
    /// a session of its own that is not the job's. The protocol tells no exit status.
    ///
    /// # Errors
    /// As [`Transport::connect`]; also when the container has no slot for it.
    pub async fn run(
        &self,
        target: &Target,
        command: &str,
        (columns, rows): (u32, u32),
    ) -> Result<ExecTerminal, ConnectError> {
        let terminal = self.in_time(target, self.open(target, command)).await?;
        let lost =
            |why: String| errors::boot(target, delivery::terminal::BootError::Lost(why), None);
        Terminal::resize(&terminal, columns, rows).await.map_err(lost)?;
        Ok(terminal)
    }

    async fn in_time<T>(
        &self,
        target: &Target,
        connects: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let connected = timeout(target.attempt_timeout, connects).await;
        connected.unwrap_or_else(|_| {
            Err(errors::too_slow(target, self.attempts(&target.task).notices.latest()))
        })
    }
}

impl<A: ExecApi> Transport for ExecTransport<A> {
    type Session = ExecSession;

    /// `target.connect_timeout` is for hosts that may not be there yet; AWS's are, and get the
    /// attempt's whole time. A session that was granted and is not ready by then is waited for
    /// by the next attempt.
    async fn connect(&self, target: &Target) -> Result<(ExecSession, Greeting), ConnectError> {
        let attempts = self.attempts(&target.task);
        let boot = Boot::new();
        let ledger = SessionLedger::beside(&target.key, &self.in_hand);
        let command = boot.command();
        let grant = self.grant(target, &command, Some(&ledger), &attempts.notices);
        let connected = attempts.connect(target, boot, &self.way, grant).await;
        if connected.is_ok() {
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).remove(&target.task);
        }
        connected.map_err(|e| errors::as_of_a_job(target, e))
    }

    async fn waits_for(&self, task: &TaskArn) -> String {
        Self::waits_for(self, task).await
    }
}

impl<A: ExecApi> Visit for ExecTransport<A> {
    type Terminal = ExecVisit;
    type Command = ExecCommand;

    async fn terminal(&self, target: &Target, screen: &Screen) -> Result<ExecVisit, ConnectError> {
        let nonce = delivery::nonce();
        let terminal = self
            .run(target, &visit::command(&screen.term, &nonce), (screen.columns, screen.rows))
            .await?;
        Ok(ExecVisit::new(terminal, &nonce))
    }

    /// As a run of its own, whose files stay in the container.
    async fn command(&self, target: &Target, command: &str) -> Result<ExecCommand, ConnectError> {
        let lost =
            |why: String| errors::boot(target, delivery::terminal::BootError::Lost(why), None);
        let boot = Boot::new();
        let booted = async {
            let terminal = self.open(target, &boot.command()).await?;
            let end = terminal.end();
            TerminalShell::boot(terminal, &boot)
                .await
                .map_err(|e| errors::boot(target, e, end.get()))
        };
        let shell = self.in_time(target, booted).await?;
        let facts = match &target.facts {
            Some(facts) => facts.clone(),
            None => delivery::probe(&shell).await?,
        };
        let session = ExecSession { shell, facts };
        let run = RunId::new(format!("command-{:016x}", rand::random::<u64>()))
            .map_err(|e| lost(e.to_string()))?;
        let order = RunOrder { run: run.clone(), stage: "command".to_owned(), forget: None };
        let followed = session
            .start(&order, Bytes::from(command.to_owned()))
            .await
            .map_err(|e| lost(e.to_string()))?;
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
                Ok(RunEvent::Exited { code, .. }) => {
                    Chunk::Ended { status: u32::try_from(code).ok() }
                }
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
