//! ECS Exec: sessions in containers through AWS's session protocol, without AWS's plugin.
//!
//! - [`channel`]: the data channel's protocol, without I/O ([`frame`]: its messages as bytes);
//! - `session`, `socket`, `proxy`: the channel on a WebSocket over TLS, as a [`crate::Terminal`];
//! - `interactive`: terminals for people;
//! - `opening`: a job's session until it is ready, over several attempts if needed; `notices`: why
//!   they wait;
//! - `admission`: when a session may be requested; `granted`, `session_ledger`: no session is
//!   leaked if this process or its calls fail;
//! - [`ExecApi`]: the AWS calls, which the root package implements.
//!
//! Scripts go through the terminal by [`crate::delivery::terminal`]. A session is not resumed when
//! its connection is lost: the run is attached to from a new one, as over any other transport.

mod admission;
mod api;
pub mod channel;
mod cipher;
mod errors;
pub mod frame;
mod granted;
mod handshake;
mod inbound;
mod interactive;
mod notices;
mod opening;
mod outbound;
mod proxy;
mod rtt;
mod session;
mod session_ledger;
mod socket;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use states::{ConnectError, Greeting, Readiness, Target, TaskArn, TransportRecord};

pub use self::{
    api::{Container, ExecApi, ListedSession, NotDone, NotOpened, OpenedSession},
    cipher::KEY_BYTES,
    session::ExecTerminal,
};

use self::{
    granted::Granted,
    notices::Notices,
    opening::Attempts,
    session_ledger::{InHand, SessionLedger},
    socket::Dialer,
};
use crate::{
    Connector, Declaration, Interactive,
    delivery::{Session, terminal::Boot},
};

/// ECS Exec's declaration. ExecuteCommand, the agent's worker, the handshake with KMS and the check
/// of log groups take seconds each on a quarter of a vCPU.
pub static DECLARATION: Declaration = Declaration {
    record: TransportRecord {
        name: Cow::Borrowed("ecs-exec"),
        readiness: Readiness::ExecAgent,
        attempt_timeout: Duration::from_secs(60),
    },
    about: "ECS Exec: the container needs nothing but a shell",
    table: Some("ECSExec"),
    is_offered: true,
    needs_address: false,
    needs_login: false,
    needs_execute_command: true,
};

/// Reaches containers by ECS Exec.
pub struct ExecTransport<A> {
    api: Arc<A>,
    dialer: Arc<Dialer>,
    in_hand: InHand,
    /// The attempts of jobs whose session is not ready yet.
    attempts: Mutex<HashMap<TaskArn, Arc<Attempts>>>,
}

impl<A: ExecApi> ExecTransport<A> {
    /// Returns a transport that uses these calls. It connects on demand.
    #[must_use]
    pub fn new(api: A) -> Self {
        Self {
            api: Arc::new(api),
            dialer: Arc::default(),
            in_hand: InHand::default(),
            attempts: Mutex::default(),
        }
    }

    fn attempts(&self, task: &TaskArn) -> Arc<Attempts> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(attempts.entry(task.clone()).or_default())
    }

    /// Requests a session that runs this command in the pinned container.
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
        // At first contact the agent may not run yet, and no session could start. Later it runs,
        // and both calls are made at once.
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
}

#[async_trait]
impl<A: ExecApi> Connector for ExecTransport<A> {
    /// Ignores `target.connect_timeout`, which is for hosts that may not run yet: AWS's do, and get
    /// the attempt's whole time. If a session was granted and is not ready by then, the next
    /// attempt waits for it.
    async fn connect(&self, target: &Target) -> Result<(Session, Greeting), ConnectError> {
        let attempts = self.attempts(&target.task);
        let boot = Boot::new();
        let ledger = SessionLedger::beside(&target.key, &self.in_hand);
        let command = boot.command();
        let grant = self.grant(target, &command, Some(&ledger), &attempts.notices);
        let connected = attempts.connect(target, boot, &self.dialer, grant).await;
        if connected.is_ok() {
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).remove(&target.task);
        }
        connected.map_err(|e| errors::as_of_a_job(target, e))
    }

    async fn waits_for(&self, task: &TaskArn) -> String {
        let notices = Arc::clone(&self.attempts(task).notices);
        notices.next().await
    }

    fn interactive(&self) -> Option<&dyn Interactive> {
        Some(self)
    }
}
