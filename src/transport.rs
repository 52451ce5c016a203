//! The transports that a job may use: chosen by `prepare` as `fargate.toml` says, known from then
//! on by the job's snapshot: whoever connects by ECS Exec needs no address.

mod visit;

use bytes::Bytes;
use states::{
    ConnectError, Destination, Greeting, Run, RunError, RunEvent, RunId, RunOrder, Session, Signal,
    Target, TaskArn, Transport,
};
use transports::{
    ecs_exec::{ExecSession, ExecTransport},
    ssh::{SshSession, SshSettings, SshTransport},
};

use crate::{
    config::Config,
    control::{EcsControl, ExecCalls},
};

/// Every transport.
pub struct AnyTransport {
    /// SSH.
    pub ssh: SshTransport,
    /// ECS Exec.
    pub exec: ExecTransport<ExecCalls>,
}

impl AnyTransport {
    /// The transports with this configuration, of which ECS Exec calls AWS as `control` does.
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(config: &Config, control: &EcsControl) -> Self {
        let ssh = SshTransport::new(SshSettings {
            username: config.ssh.username.clone(),
            port: config.ssh.port,
            keepalive_interval: config.ssh.keep_alive,
            ..SshSettings::default()
        });
        Self { ssh, exec: ExecTransport::new(ExecCalls::new(control.clone())) }
    }

    /// Whether this target is reached by ECS Exec.
    #[must_use]
    pub fn is_exec(target: &Target) -> bool {
        target.destination == Destination::Ecs
    }
}

impl Transport for AnyTransport {
    type Session = AnySession;

    async fn connect(&self, target: &Target) -> Result<(AnySession, Greeting), ConnectError> {
        if Self::is_exec(target) {
            self.exec
                .connect(target)
                .await
                .map(|(session, greeting)| (AnySession::Exec(session), greeting))
        } else {
            self.ssh
                .connect(target)
                .await
                .map(|(session, greeting)| (AnySession::Ssh(session), greeting))
        }
    }

    /// SSH's attempts wait for nothing.
    async fn waits_for(&self, task: &TaskArn) -> String {
        self.exec.waits_for(task).await
    }
}

/// A connection by one of them.
pub enum AnySession {
    /// By SSH.
    Ssh(SshSession),
    /// By ECS Exec.
    Exec(ExecSession),
}

impl Session for AnySession {
    type Run = AnyRun;

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<AnyRun, RunError> {
        match self {
            Self::Ssh(session) => session.start(order, script).await.map(AnyRun::Ssh),
            Self::Exec(session) => session.start(order, script).await.map(AnyRun::Exec),
        }
    }

    async fn attach(&self, run: &RunId, from: u64) -> Result<AnyRun, RunError> {
        match self {
            Self::Ssh(session) => session.attach(run, from).await.map(AnyRun::Ssh),
            Self::Exec(session) => session.attach(run, from).await.map(AnyRun::Exec),
        }
    }

    async fn signal(&self, run: &RunId, signal: Signal) -> Result<(), RunError> {
        match self {
            Self::Ssh(session) => session.signal(run, signal).await,
            Self::Exec(session) => session.signal(run, signal).await,
        }
    }

    async fn close(self) {
        match self {
            Self::Ssh(session) => session.close().await,
            Self::Exec(session) => session.close().await,
        }
    }
}

/// A run that is followed over one of them.
pub enum AnyRun {
    /// Over SSH.
    Ssh(<SshSession as Session>::Run),
    /// Over ECS Exec.
    Exec(<ExecSession as Session>::Run),
}

impl Run for AnyRun {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        match self {
            Self::Ssh(run) => run.next().await,
            Self::Exec(run) => run.next().await,
        }
    }
}
