//! The traits of a transport, which delivers a script to the container and follows its output.

use std::{borrow::Cow, fmt, future::Future, path::PathBuf, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::additions::{RunContainer, SharedVolume};
use super::billing::Usage;
use super::causes::{ConnectCause, is_general};
use crate::{RunId, TaskArn, time::span};

/// What a transport declares of itself. A job records it when it begins. So later processes use the
/// same transport, and the machine paces attempts without knowing the transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportRecord {
    /// The name under which the transport is registered and configured.
    pub name: Cow<'static, str>,
    /// The condition for an attempt to succeed.
    pub readiness: Readiness,
    /// How long one attempt may take, from the first byte to a usable connection.
    #[serde(with = "span")]
    pub attempt_timeout: Duration,
}

/// The condition for an attempt to reach a container to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// The container listens. An attempt costs little, and is the quickest way to find out.
    Probed,
    /// The container's exec agent is RUNNING, which ECS shows. Every attempt is an API call and may
    /// have to wait for a free session.
    ExecAgent,
}

/// Reaches containers. Configured once (user name, port, …), used for every job.
pub trait Transport: Send + Sync + 'static {
    /// An open connection to one container.
    type Session: Session;

    /// Makes one attempt to reach the container and to pin or check its identity. If `target.facts`
    /// is `None`, also learns what its shell can do. Does not retry. Dropping the future abandons
    /// the attempt.
    fn connect(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<(Self::Session, Greeting), ConnectError>> + Send;

    /// Completes when attempts to reach this task by the named transport begin to wait for
    /// something, and says for what, in a sentence for people. Never completes if people could not
    /// change it. Cancel-safe.
    fn waits_for(&self, transport: &str, task: &TaskArn) -> impl Future<Output = String> + Send {
        let _ = (transport, task);
        std::future::pending()
    }
}

/// An open connection to a container.
pub trait Session: Send + Sync + 'static {
    /// A run that is being followed.
    type Run: Run;

    /// Begins to send a script whose start follows, if it starts sooner then. Does not wait. It must
    /// not run before [`Session::start`] is called for the same order, which may never happen.
    fn send_ahead(&self, order: &RunOrder, script: &Bytes) {
        let _ = (order, script);
    }

    /// Delivers `script` and starts it under `order.run`, detached from the connection, then
    /// follows its output from byte 0. A second start of the same run is an attach: the script
    /// runs once.
    fn start(
        &self,
        order: &RunOrder,
        script: Bytes,
    ) -> impl Future<Output = Result<Self::Run, RunError>> + Send;

    /// Follows a run that was started earlier, from byte `from` of its output.
    fn attach(
        &self,
        order: &RunOrder,
        from: u64,
    ) -> impl Future<Output = Result<Self::Run, RunError>> + Send;

    /// Sends a signal to the whole process group of a run. Succeeds if the run is over.
    fn signal(
        &self,
        order: &RunOrder,
        signal: Signal,
    ) -> impl Future<Output = Result<(), RunError>> + Send;

    /// Whether the connection still works, although nothing has used it for a while. May wait for
    /// the container's answer.
    fn answers(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// Closes the connection in an orderly way, if that is quick. Dropping the session is enough
    /// otherwise.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A run that is being followed.
pub trait Run: Send + 'static {
    /// Returns the run's next event. Cancel-safe: a dropped call loses nothing. Must not be called
    /// again after [`RunEvent::Exited`].
    fn next(&mut self) -> impl Future<Output = Result<RunEvent, RunError>> + Send;
}

/// Where a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// At an address in the network.
    Address {
        /// Host name or IP address.
        host: String,
        /// How to log in there; `None`: as the transport's settings say.
        login: Option<Login>,
    },
    /// In its task: the transport finds it by the task and needs no address.
    Task,
}

/// How to log in to a job's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// User name.
    pub user: String,
    /// TCP port.
    pub port: u16,
}

impl Destination {
    /// An address, to log in at as the transport's settings say.
    #[must_use]
    pub fn at(host: &str) -> Self {
        Self::Address { host: host.to_owned(), login: None }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { host, .. } => f.write_str(host),
            Self::Task => f.write_str("ECS"),
        }
    }
}

/// Where and how to reach a job's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The transport's name.
    pub transport: Cow<'static, str>,
    /// Where the container is.
    pub destination: Destination,
    /// The cluster, for transports that find the container by its task.
    pub cluster: String,
    /// The task, for such transports.
    pub task: TaskArn,
    /// The container's name, for such transports.
    pub container: String,
    /// File with the job's private key (OpenSSH format), for transports that need one.
    pub key: PathBuf,
    /// The identity that was pinned at first contact. Any other is a
    /// [`ConnectErrorKind::IdentityChanged`].
    pub pinned: Option<HostIdentity>,
    /// What a host key must prove if none is pinned; `None` if the container got no secret for the
    /// proof.
    pub host_proof: Option<HostProof>,
    /// What first contact showed of the container's shell.
    pub facts: Option<ShellFacts>,
    /// What the container shares with the job's own; `None` in tasks without one.
    pub shared: Option<SharedVolume>,
    /// How long this attempt may take until TCP (or its equivalent) is connected.
    pub connect_timeout: Duration,
    /// How long this attempt may take altogether.
    pub attempt_timeout: Duration,
}

/// Whether a container must prove at first contact that its host key is the task's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HostProof {
    /// Refuses a wrong proof, but not a missing one: images with another entry point have none.
    #[default]
    Offered,
    /// Refuses a missing proof, too.
    Required,
}

/// The identity of the container: for SSH the host key, `ssh-ed25519 AAAA…`; for ECS Exec the
/// container's runtime id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity(pub String);

impl fmt::Display for HostIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What first contact showed of the container's shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellFacts {
    /// Private directory in the container under which this job's runs live.
    pub run_dir: String,
    /// Whether `tail -f` follows a file by notification (GNU coreutils), so that no polling is
    /// needed.
    pub follows_with_tail: bool,
    /// Whether `setsid` exists; otherwise the connection's own session is the script's.
    pub has_setsid: bool,
    /// The shell of the container with the job's image, in tasks that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobShell>,
}

/// What first contact showed of the shell in the container with the job's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobShell {
    /// Directory of the shared volume under which this job's runs live.
    pub run_dir: String,
    /// Whether bash runs the scripts; otherwise `sh` does.
    pub has_bash: bool,
    /// Whether `setsid` exists; otherwise a script's processes are found through `/proc`.
    pub has_setsid: bool,
    /// Whether the image's user may write to `/etc/hosts`.
    pub can_edit_hosts: bool,
}

/// What a container's first answer shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Its identity.
    pub identity: HostIdentity,
    /// The abilities of its shell.
    pub facts: ShellFacts,
}

/// A run to start or follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOrder {
    /// The key under which it runs at most once.
    pub run: RunId,
    /// The custom-executor stage, for messages.
    pub stage: String,
    /// An earlier run whose outcome is recorded, so that its files in the container can be removed.
    pub forget: Option<RunId>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "RunContainer::is_coordinator")]
    pub container: RunContainer,
}

/// An event of a followed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// The script is in the container and runs (or ran).
    Started,
    /// The next bytes of its output: stdout and stderr in the order they were written.
    Output(Bytes),
    /// What its container has used so far. Comes shortly before the end, if at all.
    Measured(Usage),
    /// It ended. Every byte of output before `total` has been returned.
    Exited {
        /// Its exit status as the shell reports it (128 + signal number when a signal ended it).
        code: i32,
        /// Bytes of output in all, from the very first.
        total: u64,
    },
}

/// Signals that are sent to a run's process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// Why an attempt to reach a container failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    /// What kind of failure it is.
    pub kind: ConnectErrorKind,
    /// What failed, on what address, in the peer's words if it answered.
    pub message: String,
    /// The details of `kind` that a remedy depends on. Older drivers recorded the remedy itself.
    #[serde(default, skip_serializing_if = "is_general")]
    pub cause: ConnectCause,
}

/// The kinds of failed connections that lead to different behaviour or advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConnectErrorKind {
    /// The port is closed: normal while the container starts.
    Refused,
    /// There is no answer: the address is not up yet, or a security group or a route blocks it.
    TimedOut,
    /// There is no route or no such host.
    Unreachable,
    /// The connection was accepted, and ended before it was usable.
    Interrupted,
    /// The peer does not speak the protocol.
    NotOurProtocol,
    /// The container does not accept the driver's key for that user, or AWS refuses another session
    /// to a job whose container was reached before. Believed if it lasts.
    AuthRefused,
    /// The identity differs from the pinned one: another container answers at this address.
    IdentityChanged,
    /// The container did not prove at first contact that its host key is the task's own:
    /// [`HostProof`].
    IdentityUnproven,
    /// It answered, but its shell cannot run scripts (no sh, no writable directory).
    NoShell,
    /// The job's key file is missing or unreadable on the manager.
    KeyUnusable,
    /// ECS Exec's agent is not connected yet.
    AgentNotConnected,
    /// The API refused the session for good (permissions, not enabled).
    Denied,
    /// The container with the job's image does not take scripts yet, or never will.
    JobContainerNotUp,
}

impl ConnectErrorKind {
    /// Its name in telemetry. Dashboards and alerts depend on it, so it stays when the variant is
    /// renamed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Interrupted => "interrupted",
            Self::NotOurProtocol => "not_our_protocol",
            Self::AuthRefused => "auth_refused",
            Self::IdentityChanged => "identity_changed",
            Self::IdentityUnproven => "identity_unproven",
            Self::NoShell => "no_shell",
            Self::KeyUnusable => "key_unusable",
            Self::AgentNotConnected => "agent_not_connected",
            Self::Denied => "denied",
            Self::JobContainerNotUp => "job_container_not_up",
        }
    }

    /// Whether a later attempt may succeed without a change. This includes refused keys: sshd may
    /// listen before the container's entry point has installed the key.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(
            self,
            Self::IdentityChanged
                | Self::IdentityUnproven
                | Self::NoShell
                | Self::KeyUnusable
                | Self::Denied
        )
    }
}

/// Why starting, following or signalling a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RunError {
    /// The connection ended. The script continues: connect again and attach.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// The container does not know this run: it is another container, or its files were deleted.
    #[error("the container does not know the run: {0}")]
    Unknown(String),
    /// The script's processes are gone without an exit status (killed, out of memory).
    #[error("the script ended without an exit status: {0}")]
    NoStatus(String),
    /// The container could not start the script: disk full, read-only, out of processes.
    #[error("the container could not start the script: {0}")]
    NotStarted(String),
    /// The peer violated the protocol.
    #[error("unexpected answer from the container: {0}")]
    Protocol(String),
}

impl RunError {
    /// Its name in telemetry. Dashboards and alerts depend on it, so it stays when the variant is
    /// renamed.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConnectionLost(_) => "connection_lost",
            Self::Unknown(_) => "unknown_run",
            Self::NoStatus(_) => "no_status",
            Self::NotStarted(_) => "not_started",
            Self::Protocol(_) => "protocol",
        }
    }
}
