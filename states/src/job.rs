//! A job and its six states: one struct per state with exactly the data of that state.
//!
//! A transition consumes a [`Job<S>`] and returns the next state, so an illegal edge does not
//! compile (see `machine`). [`AnyJob`] is the enum of all states, for loading, saving and matching.

mod executing;
mod stopping;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ClientToken, ConnectError, ControlError, Destination, HostIdentity, HostProof, InterfaceId,
    JobId, LaunchSpec, Login, PoolRole, Readiness, ShellFacts, StopReason, TaskArn, Timestamp,
    TransportRecord, time::span,
};

pub use executing::{Ending, Executing, Finished, Link, RunOutcome, Sent};
pub use stopping::{OtherTasks, StopPhase, Stopping};

/// One GitLab job, in state `S`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job<S> {
    /// What the job has in every state. Its clones, of which each transition makes one, share it.
    pub header: Arc<Header>,
    /// What the job has in this state only.
    pub state: S,
}

/// What is fixed when a job begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Names the job's files.
    pub id: JobId,
    /// Whose job it is. For people.
    pub about: About,
    /// When the job began.
    pub created: Timestamp,
    /// Stem of RunTask's idempotency tokens; `-<n>` is added for the n-th launch that is not a
    /// repetition.
    pub token: ClientToken,
    /// What to launch.
    pub spec: LaunchSpec,
    /// Whether the project's own variables chose the task definition. If so, a launch that fails
    /// because of it is a build failure.
    pub definition_from_project: bool,
    /// Which of the task's addresses to connect to.
    pub connect_to: ConnectTo,
    /// The transport, and what it declared. Older drivers did not record it: see
    /// [`Header::transport()`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<TransportRecord>,
    /// How to log in there. `None` where the transport needs no login, and in jobs of older
    /// drivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// What the container's host key must prove at first contact. `None` in jobs without a login
    /// and in jobs of older drivers: their containers got no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_proof: Option<HostProof>,
    /// How long each state may last.
    pub limits: Limits,
    /// The job's trace span, as a W3C `traceparent`. No decision depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The job's part in a pool of warm tasks. `None` in most jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolRole>,
}

impl Header {
    /// The transport that reaches the job's container. Older drivers did not record it: they used
    /// SSH where the task had an address, and ECS Exec otherwise.
    #[must_use]
    pub fn transport(&self) -> &TransportRecord {
        static WITH_ADDRESS: TransportRecord = TransportRecord {
            name: Cow::Borrowed("ssh"),
            readiness: Readiness::Probed,
            attempt_timeout: Duration::from_secs(15),
        };
        static WITHOUT_ADDRESS: TransportRecord = TransportRecord {
            name: Cow::Borrowed("ecs-exec"),
            readiness: Readiness::ExecAgent,
            attempt_timeout: Duration::from_secs(60),
        };
        self.transport.as_ref().unwrap_or(match self.connect_to {
            ConnectTo::PrivateAddress | ConnectTo::PublicAddress => &WITH_ADDRESS,
            ConnectTo::NoAddress => &WITHOUT_ADDRESS,
        })
    }

    /// Where the container is. `address` is the task's; `None` where the transport needs none.
    #[must_use]
    pub fn destination(&self, address: Option<&str>) -> Destination {
        address.map_or(Destination::Task, |host| Destination::Address {
            host: host.to_owned(),
            login: self.login.clone(),
        })
    }
}

/// An address in a snapshot: plain text, empty where there is none. Drivers of all versions read
/// and write it like this.
mod address {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        address: &Option<String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(address.as_deref().unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<String>, D::Error> {
        Ok(Some(String::deserialize(from)?).filter(|address| !address.is_empty()))
    }
}

/// Whose job it is. For people and tags: no decision depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// The project's URL.
    pub project_url: String,
    /// The pipeline's id.
    pub pipeline_id: String,
    /// The job's id.
    pub job_id: String,
    /// The job's name in `.gitlab-ci.yml`, if known.
    pub job_name: String,
    /// The runner's short token.
    pub runner: String,
}

/// Which of the task's addresses the driver connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectTo {
    /// The private address, which ECS shows in the task's attachments.
    PrivateAddress,
    /// The public address, which EC2 knows.
    PublicAddress,
    /// None: the transport finds the container by its task.
    NoAddress,
}

/// How long things may take. Each one is a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Until RunTask has launched the task.
    #[serde(with = "span")]
    pub provisioning: Duration,
    /// From the launch until RUNNING.
    #[serde(with = "span")]
    pub pending: Duration,
    /// From RUNNING until the container answers.
    #[serde(with = "span")]
    pub running: Duration,
    /// How long a lost connection may stay lost while the task lives.
    #[serde(with = "span")]
    pub reconnect: Duration,
    /// From SIGTERM to SIGKILL for a cancelled script.
    #[serde(with = "span")]
    pub grace: Duration,
    /// How long one process waits for a task to be STOPPED.
    #[serde(with = "span")]
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            provisioning: Duration::from_secs(10 * 60),
            pending: Duration::from_secs(15 * 60),
            running: Duration::from_secs(3 * 60),
            reconnect: Duration::from_secs(5 * 60),
            grace: Duration::from_secs(15),
            stop: Duration::from_secs(60),
        }
    }
}

/// A task is to be launched; RunTask may or may not have happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioning {
    /// When this state ends in failure.
    pub deadline: Timestamp,
    /// Number of the launch: part of its idempotency token. A definite refusal raises it; an
    /// unknown outcome does not.
    pub launch: u32,
    /// When a RunTask with this token may have reached ECS last.
    pub asked: Option<Timestamp>,
    /// Whether a RunTask with this token got no answer, so that it may have launched the task.
    pub unknown: bool,
    /// How many launches ECS refused because it had no capacity. The next launches try other
    /// subnets and capacity providers.
    pub refusals: u32,
    /// When to ask (again).
    pub next: Timestamp,
    /// Failed attempts so far.
    pub attempts: u32,
    /// The error of the last failed attempt.
    pub problem: Option<ControlError>,
    /// The search for an earlier launch's task, while ECS refuses this launch's token because of
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A search for the task of an earlier launch that got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// When ECS reported that the launch's token is in use.
    pub since: Timestamp,
    /// When the newest ListTasks was sent.
    pub listed: Option<Timestamp>,
    /// Tasks in its answer that are still to be described. A task of an earlier attempt, which has
    /// ended, may be among them.
    pub candidates: Vec<TaskArn>,
    /// Calls to ECS.
    pub asking: Polling,
}

/// ECS has the task: PROVISIONING, PENDING or ACTIVATING.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The task.
    pub task: TaskArn,
    /// When it was launched.
    pub since: Timestamp,
    /// When this state ends in failure.
    pub deadline: Timestamp,
    /// Its network interface, once known.
    pub interface: Option<InterfaceId>,
    /// Where to connect, once known.
    pub address: Option<String>,
    /// Whether ECS has reported RUNNING (the address may still be unknown).
    pub running: bool,
    /// The pace of calls to ECS.
    pub describing: Polling,
    /// The pace of calls to EC2 for the public address.
    pub addressing: Polling,
    /// Probing the container.
    pub probing: Probing,
}

/// The task runs, according to ECS or to an answer of its container. No shell has been identified
/// in the container yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The task.
    pub task: TaskArn,
    /// Its address; `None` where the transport needs none.
    #[serde(with = "address")]
    pub address: Option<String>,
    /// Since when it runs, as far as the driver knows.
    pub since: Timestamp,
    /// When this state ends in failure.
    pub deadline: Timestamp,
    /// The pace of calls to ECS.
    pub describing: Polling,
    /// Probing the container.
    pub probing: Probing,
    /// Whether the container's exec agent runs, as ECS last described it; `None` where ECS does not
    /// say, and in snapshots of older drivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_runs: Option<bool>,
}

/// A shell in the container answered; its identity is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachable {
    /// The task.
    pub task: TaskArn,
    /// Its address; `None` where the transport needs none.
    #[serde(with = "address")]
    pub address: Option<String>,
    /// Since when the job is reachable (first contact).
    pub since: Timestamp,
    /// Who answered at first contact. No other identity is accepted later.
    pub identity: HostIdentity,
    /// What the container's shell can do.
    pub facts: ShellFacts,
    /// The number of runs so far.
    pub runs: u32,
    /// The last run's outcome.
    pub last: Option<Finished>,
}

/// The pacing of a question that is asked repeatedly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polling {
    /// When to ask next.
    pub next: Timestamp,
    /// Answers so far that did not settle it: the interval grows with them.
    pub answers: u32,
    /// Failures in a row.
    pub failures: u32,
    /// `MISSING` answers in a row, and since when.
    pub missing: Option<(u32, Timestamp)>,
    /// Since when ECS reports that the task ends without reporting why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Timestamp>,
}

impl Polling {
    /// Starting at `next`.
    #[must_use]
    pub fn from(next: Timestamp) -> Self {
        Self { next, answers: 0, failures: 0, missing: None, ending: None }
    }
}

/// The pacing of attempts to reach a container, and why the last one failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probing {
    /// When to probe next.
    pub next: Timestamp,
    /// Attempts that failed.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: Option<ConnectError>,
    /// Since when the container has refused the driver's key, or a first command, without
    /// interruption.
    pub auth_refused: Option<Timestamp>,
}

impl Probing {
    /// Starting at `next`.
    #[must_use]
    pub fn from(next: Timestamp) -> Self {
        Self { next, attempts: 0, problem: None, auth_refused: None }
    }
}

/// The name of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented at the states themselves")]
pub enum StateName {
    Provisioning,
    Pending,
    Running,
    Reachable,
    Executing,
    Stopping,
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provisioning => "Provisioning",
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Reachable => "Reachable",
            Self::Executing => "Executing",
            Self::Stopping => "Stopping",
        })
    }
}

/// A job in any state: what a snapshot holds and what a loader matches on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "a job is in one state at a time, and is not moved about in numbers"
)]
#[allow(missing_docs, reason = "documented at the states themselves")]
pub enum AnyJob {
    Provisioning(Job<Provisioning>),
    Pending(Job<Pending>),
    Running(Job<Running>),
    Reachable(Job<Reachable>),
    Executing(Job<Executing>),
    Stopping(Job<Stopping>),
}

impl AnyJob {
    /// What the job has in every state.
    #[must_use]
    pub fn header(&self) -> &Arc<Header> {
        match self {
            Self::Provisioning(j) => &j.header,
            Self::Pending(j) => &j.header,
            Self::Running(j) => &j.header,
            Self::Reachable(j) => &j.header,
            Self::Executing(j) => &j.header,
            Self::Stopping(j) => &j.header,
        }
    }

    /// The state's name.
    #[must_use]
    pub fn name(&self) -> StateName {
        match self {
            Self::Provisioning(_) => StateName::Provisioning,
            Self::Pending(_) => StateName::Pending,
            Self::Running(_) => StateName::Running,
            Self::Reachable(_) => StateName::Reachable,
            Self::Executing(_) => StateName::Executing,
            Self::Stopping(_) => StateName::Stopping,
        }
    }

    /// Why the job's task must end, if it must.
    #[must_use]
    pub fn stop_reason(&self) -> Option<&StopReason> {
        if let Self::Stopping(job) = self { Some(&job.state.reason) } else { None }
    }

    /// The task, once there is one.
    #[must_use]
    pub fn task(&self) -> Option<&TaskArn> {
        match self {
            Self::Provisioning(_) => None,
            Self::Pending(j) => Some(&j.state.task),
            Self::Running(j) => Some(&j.state.task),
            Self::Reachable(j) => Some(&j.state.task),
            Self::Executing(j) => Some(&j.state.place.task),
            Self::Stopping(j) => j.state.task(),
        }
    }
}

macro_rules! into_any {
    ($($state:ident),*) => {$(
        impl From<Job<$state>> for AnyJob {
            fn from(job: Job<$state>) -> Self {
                Self::$state(job)
            }
        }
    )*};
}
into_any!(Provisioning, Pending, Running, Reachable, Executing, Stopping);
