//! Warm tasks: tasks that are launched before their jobs exist.
//!
//! A warm task is a job without a GitLab job. The machine takes it to `Reachable`, where it waits.
//! A GitLab job claims it there, if it fits: it then goes on with that task instead of a launch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    AnyJob, Billing, ConnectTo, Greeting, Header, HostProof, JobId, LaunchSpec, Login, Observation,
    PUBLIC_KEY_VARIABLE, Snapshot, StartedBy, TaskArn, TaskReport, Timestamp, TransportRecord,
    time::span,
};

/// A job's part in a pool of warm tasks. What a job claimed is in its journal:
/// [`Observation::Claimed`](crate::Observation::Claimed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolRole {
    /// It is no GitLab job, but a warm task: the pool keeps it ready for one.
    Warm(WarmOrigin),
    /// It launched a task of its own, as this pool had no warm task ready.
    Missed {
        /// The pool's name.
        pool: String,
    },
}

/// Where a warm task comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmOrigin {
    /// The pool's name.
    pub pool: String,
    /// How long the pool keeps it.
    #[serde(with = "span")]
    pub max_age: Duration,
}

/// A warm task that a job took over, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The id that it had until then.
    pub warm: JobId,
    /// The pool that kept it.
    pub pool: String,
    /// The task.
    pub task: TaskArn,
    /// Its address; `None` where the transport needs none.
    pub address: Option<String>,
    /// Who answered at first contact, and what its shell can do.
    pub greeting: Greeting,
    /// When its launch began.
    pub began: Timestamp,
    /// Since when it was ready for a job.
    pub ready: Timestamp,
    /// What its bill depends on, as far as ECS had reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing: Option<Box<Billing>>,
}

impl Claim {
    /// What a claim of this warm task records. `None` unless it is ready for a job: `Reachable`,
    /// and nothing ever ran in it.
    #[must_use]
    pub fn of(warm: &Snapshot) -> Option<Self> {
        let header = warm.job.header();
        let origin = header.warm()?;
        let AnyJob::Reachable(job) = &warm.job else { return None };
        (job.state.runs == 0).then(|| Self {
            warm: header.id.clone(),
            pool: origin.pool.clone(),
            task: job.state.task.clone(),
            address: job.state.address.clone(),
            greeting: Greeting {
                identity: job.state.identity.clone(),
                facts: job.state.facts.clone(),
            },
            began: header.created,
            ready: job.state.since,
            billing: warm.reports(&job.state.task).fold(None, |mut known, (_, report)| {
                if let Some(billing) = &report.billing {
                    known.get_or_insert_default().learn(billing);
                }
                known
            }),
        })
    }
}

impl Snapshot {
    /// ECS's reports of the task, in order, and when each came.
    pub fn reports(&self, task: &TaskArn) -> impl Iterator<Item = (Timestamp, &TaskReport)> {
        self.journal.entries.iter().filter_map(move |entry| match &entry.saw {
            Observation::Launched(report) | Observation::Described(report) => {
                (report.task == *task).then_some((entry.at, &**report))
            }
            _ => None,
        })
    }

    /// The claim with which the job began, if it took over a warm task.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        match &self.journal.entries.first()?.saw {
            Observation::Claimed(claim) => Some(claim),
            _ => None,
        }
    }
}

impl Header {
    /// Where the warm task comes from, if this is one.
    #[must_use]
    pub fn warm(&self) -> Option<&WarmOrigin> {
        match &self.pool {
            Some(PoolRole::Warm(origin)) => Some(origin),
            Some(PoolRole::Missed { .. }) | None => None,
        }
    }

    /// Takes over what later steps look for in the task: the names under which it was launched.
    pub(crate) fn adopt(&mut self, warm: &Self) {
        self.spec.started_by.clone_from(&warm.spec.started_by);
        self.spec.environment.clone_from(&warm.spec.environment);
    }
}

/// What a task is for a job: everything that is launched, and how its container is reached, without
/// what names one job. A job may claim a warm task of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fit {
    spec: LaunchSpec,
    connect_to: ConnectTo,
    transport: Option<TransportRecord>,
    login: Option<Login>,
    host_proof: Option<HostProof>,
}

impl Fit {
    /// What the task of this header is.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        // Destructured completely: whether a new field matters is decided here.
        let Header {
            id: _,
            about: _,
            created: _,
            token: _,
            spec,
            definition_from_project: _,
            connect_to,
            transport,
            login,
            host_proof,
            limits: _,
            trace: _,
            pool: _,
        } = header;
        let mut spec = spec.clone();
        // Valid, and no job's.
        spec.started_by = StartedBy::new("-").unwrap_or_else(|e| unreachable!("{e}"));
        spec.tags.clear();
        spec.environment.retain(|(name, _)| name != PUBLIC_KEY_VARIABLE);
        Self {
            spec,
            connect_to: *connect_to,
            transport: transport.clone(),
            login: login.clone(),
            host_proof: *host_proof,
        }
    }
}
