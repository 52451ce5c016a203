//! What is wrong with a job, with the evidence for it and what helps: a pure function of the
//! snapshot and of what is known around it.
//!
//! - `launch` — no task: capacity, throttling, credentials, wrong settings;
//! - `task` — the task stopped: image, secrets, memory, Spot, its container;
//! - `connection` — the container does not answer, or not any more;
//! - `progress` — nothing goes on: a silent script, a driver that is gone, a stop that is not done,
//!   a full disk.
//!
//! Each looks for its own modes and answers `None` when it sees none of them.

mod connection;
mod evidence;
mod launch;
mod progress;
mod task;

use states::{AnyJob, RunOutcome, Snapshot, StateName, StopReason, Timestamp};

pub use evidence::Evidence;

use super::{holder::Surroundings, screen::Tone, story::Story};

/// What is wrong, as a word that can be counted and filtered by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "said by `Cause::words`")]
pub enum Cause {
    Nothing,
    Capacity,
    AccountLimit,
    Throttled,
    Credentials,
    Denied,
    WrongSetting,
    NoCapacityProvider,
    ApiUnavailable,
    ImagePull,
    Initialisation,
    ContainerExited,
    OutOfMemory,
    SpotInterruption,
    StoppedByOthers,
    TaskVanished,
    NeverRan,
    ConnectionTimedOut,
    ConnectionRefused,
    KeyRefused,
    HostKeyChanged,
    HostKeyUnproven,
    NotUsable,
    ExecAgent,
    ConnectionLost,
    ScriptSilent,
    ScriptFailed,
    ScriptLost,
    Cancelled,
    DriverGone,
    StopUnfinished,
    DiskFull,
    Unknown,
}

impl Cause {
    /// The word for it, as JSON has it.
    #[must_use]
    pub fn name(self) -> String {
        // A unit variant is a string.
        serde_json::to_value(self)
            .ok()
            .and_then(|value| Some(value.as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// How much it matters.
    #[must_use]
    pub fn tone(self) -> Tone {
        match self {
            Self::Nothing => Tone::Good,
            Self::ScriptSilent | Self::ScriptFailed | Self::Cancelled | Self::Unknown => Tone::Warn,
            _ => Tone::Bad,
        }
    }

    /// What it means.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is wrong",
            Self::Capacity => "Fargate has no capacity for the task",
            Self::AccountLimit => "a quota of the AWS account is used up",
            Self::Throttled => "the AWS API throttles the driver",
            Self::Credentials => "AWS does not accept the credentials",
            Self::Denied => "the runner manager's role lacks a permission",
            Self::WrongSetting => "the cluster, task definition, subnet or group is wrong",
            Self::NoCapacityProvider => "the cluster has no default capacity provider strategy",
            Self::ApiUnavailable => "the AWS API does not answer",
            Self::ImagePull => "the container's image cannot be pulled",
            Self::Initialisation => "secrets, logs or volumes cannot be prepared",
            Self::ContainerExited => "the container exited",
            Self::OutOfMemory => "out of memory",
            Self::SpotInterruption => "Spot capacity was taken back",
            Self::StoppedByOthers => "somebody or AWS stopped the task",
            Self::TaskVanished => "ECS does not know the task any more",
            Self::NeverRan => "the task did not come to RUNNING in time",
            Self::ConnectionTimedOut => "the container's address does not answer",
            Self::ConnectionRefused => "nothing listens in the container",
            Self::KeyRefused => "the container refuses the job's key",
            Self::HostKeyChanged => "another container answers at the address",
            Self::HostKeyUnproven => "the container does not prove its host key",
            Self::NotUsable => "the container answers, but cannot be used",
            Self::ExecAgent => "ECS Exec's agent is not connected",
            Self::ConnectionLost => "the connection was lost while the task lives",
            Self::ScriptSilent => "the script has been silent for long",
            Self::ScriptFailed => "the job's own script failed",
            Self::ScriptLost => "the script's outcome was lost",
            Self::Cancelled => "the job was cancelled or timed out",
            Self::DriverGone => "no driver works on the job",
            Self::StopUnfinished => "the task has not stopped yet",
            Self::DiskFull => "a disk is full",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnosis {
    /// What.
    pub cause: Cause,
    /// In a sentence or two, for this job.
    pub summary: String,
    /// The journal's lines that show it, and what was seen around the snapshot.
    pub evidence: Vec<Evidence>,
    /// What to do, one step each.
    pub remedy: Vec<String>,
}

impl Diagnosis {
    /// The word for what is wrong, and the words for it.
    #[must_use]
    pub fn heading(&self) -> String {
        match self.cause {
            Cause::Nothing | Cause::Unknown => self.cause.words().to_owned(),
            cause => format!("{}: {}", cause.name(), cause.words()),
        }
    }
}

/// All that a diagnosis may look at.
pub(super) struct Case<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) story: &'a Story,
    pub(super) around: &'a Surroundings,
    pub(super) now: Timestamp,
}

/// What is wrong with the job, the most important first; never empty.
#[must_use]
pub fn diagnose(
    snapshot: &Snapshot,
    story: &Story,
    around: &Surroundings,
    now: Timestamp,
) -> Vec<Diagnosis> {
    let case = Case { snapshot, story, around, now };
    let mut found: Vec<Diagnosis> = [
        progress::manager_disk(&case),
        progress::stop_unfinished(&case),
        progress::driver_gone(&case),
    ]
    .into_iter()
    .flatten()
    .collect();
    let root = progress::container_disk(&case)
        .or_else(|| launch::diagnose(&case))
        .or_else(|| task::diagnose(&case))
        .or_else(|| connection::diagnose(&case))
        .or_else(|| progress::script(&case));
    // A driver that is gone left nothing else undone: what it met before is no cause of its own,
    // unless it had failed.
    found.extend(root.filter(|root| !found.iter().any(|other| other.cause == root.cause)));
    if found.is_empty() {
        found.push(unexplained(&case));
    }
    found
}

/// Nothing known was found: the job is as it should be, or we do not know.
fn unexplained(case: &Case<'_>) -> Diagnosis {
    let ended = match &case.snapshot.job {
        AnyJob::Stopping(job) => Some(&job.state.reason),
        _ => None,
    };
    match ended {
        Some(StopReason::Cleanup | StopReason::Asked(_)) | None => case.nothing(),
        Some(reason) => case.diagnosis(
            Cause::Unknown,
            format!("The job ended for a reason that is none of the known ones: {reason}"),
            case.newest(4),
            &[
                "Collect the driver's log (LogFile in fargate.toml) around these times, the task's stopped reason in the ECS console (for about an hour), and the container's log.",
                "Open an issue with these and what `fargate-replay export JOB` writes: the snapshot without names, addresses and secrets.",
            ],
        ),
    }
}

impl Case<'_> {
    /// Why the job's task must end, if it must.
    fn reason(&self) -> Option<&StopReason> {
        if let AnyJob::Stopping(job) = &self.snapshot.job { Some(&job.state.reason) } else { None }
    }

    /// The state in which the job's fate was decided: the one before `Stopping`, or the present
    /// one.
    fn decisive(&self) -> StateName {
        let last = self.story.visits.iter().rev().find(|visit| visit.state != StateName::Stopping);
        last.map_or(StateName::Provisioning, |visit| visit.state)
    }

    /// Whether the job still goes on, as far as it can be seen.
    fn in_flight(&self) -> bool {
        self.reason().is_none()
    }

    fn diagnosis(
        &self,
        cause: Cause,
        summary: impl Into<String>,
        evidence: Vec<Evidence>,
        remedy: &[&str],
    ) -> Diagnosis {
        // Commands that can be copied as they are.
        let job = format!(" {}`", self.snapshot.job.header().about.job_id);
        let remedy = remedy
            .iter()
            .filter(|step| !step.is_empty())
            .map(|step| step.replace(" JOB`", &job))
            .collect();
        Diagnosis { cause, summary: summary.into(), evidence, remedy }
    }

    fn nothing(&self) -> Diagnosis {
        let last = self.story.visits.iter().rev().find_map(|visit| visit.outcome.as_ref());
        let summary = match (&self.snapshot.job, last) {
            (AnyJob::Stopping(_), Some(RunOutcome::Exited { code: 0, .. })) => {
                "The job ran and ended as it should.".to_owned()
            }
            (AnyJob::Stopping(job), _) => {
                format!("The job ended before it ran a script: {}.", job.state.reason)
            }
            (job, _) => {
                format!("The job is {} and goes on, as far as this file tells.", job.name())
            }
        };
        let summary = if super::words::ends(&self.snapshot.job) && self.around.is_here() {
            format!("{summary} ECS has accepted to stop its task, and nobody waits for that.")
        } else {
            summary
        };
        self.diagnosis(Cause::Nothing, summary, Vec::new(), &[])
    }
}
