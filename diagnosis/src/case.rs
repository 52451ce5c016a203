//! Diagnoses: what is wrong with a job, the evidence, and the remedies. A pure function of the
//! snapshot and its [`Surroundings`].
//!
//! - `launch` — no task: capacity, throttling, credentials, wrong settings;
//! - `task` — the task stopped: image, secrets, memory, Spot, its container;
//! - `connection` — the container does not answer, or no longer answers;
//! - `progress` — nothing happens: a silent script, a driver that is gone, a stop that does not
//!   end, a full disk.
//!
//! Each checks its own failure modes and returns `None` if it finds none.

mod connection;
mod evidence;
mod launch;
mod progress;
mod task;

use states::{AnyJob, RunOutcome, Snapshot, StateName, StopReason, Timestamp};

pub use evidence::Evidence;

use crate::{Cause, surroundings::Surroundings, timeline::Timeline};

/// One problem of a job.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnosis {
    /// What.
    pub cause: Cause,
    /// The problem in a sentence or two, for this job.
    pub summary: String,
    /// The journal's lines and the facts around the snapshot that show it.
    pub evidence: Vec<Evidence>,
    /// The remedies, one step each.
    pub remedy: Vec<String>,
}

impl Diagnosis {
    /// The cause's name and its meaning.
    #[must_use]
    pub fn heading(&self) -> String {
        match self.cause {
            Cause::Nothing | Cause::Unknown => self.cause.words().to_owned(),
            cause => format!("{}: {}", cause.name(), cause.words()),
        }
    }
}

/// The input of a diagnosis.
pub(super) struct Case<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) timeline: &'a Timeline,
    pub(super) around: &'a Surroundings,
    pub(super) now: Timestamp,
}

/// Returns the job's problems, the most important first. Never empty.
#[must_use]
pub fn diagnose(
    snapshot: &Snapshot,
    timeline: &Timeline,
    around: &Surroundings,
    now: Timestamp,
) -> Vec<Diagnosis> {
    let case = Case { snapshot, timeline, around, now };
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
    // If the driver is gone, an earlier problem is no cause of its own, unless the job had failed.
    found.extend(root.filter(|root| !found.iter().any(|other| other.cause == root.cause)));
    if found.is_empty() {
        found.push(unexplained(&case));
    }
    found
}

/// The diagnosis if no problem is found: the job is as it should be, or its problem is unknown.
fn unexplained(case: &Case<'_>) -> Diagnosis {
    match case.reason() {
        Some(StopReason::Cleanup | StopReason::Asked(_) | StopReason::Retired(_)) | None => {
            case.nothing()
        }
        Some(reason) => case.diagnosis(
            Cause::Unknown,
            format!(
                "The job ended for a reason that is none of the known ones: {}",
                crate::stop_reason(reason)
            ),
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
        self.snapshot.job.stop_reason()
    }

    /// The state that decided how the job ends: the one before `Stopping`, or the present one.
    fn decisive(&self) -> StateName {
        let last = self.timeline.spans.iter().rev().find(|span| span.state != StateName::Stopping);
        last.map_or(StateName::Provisioning, |span| span.state)
    }

    /// The last stage of which a script ran, for sentences.
    fn last_stage(&self) -> &str {
        let stages = self.timeline.spans.iter().rev().find_map(|span| span.stage.as_deref());
        stages.unwrap_or("a stage")
    }

    /// Whether the job is still in progress, as far as the snapshot shows.
    fn is_in_flight(&self) -> bool {
        self.reason().is_none()
    }

    fn diagnosis(
        &self,
        cause: Cause,
        summary: impl Into<String>,
        evidence: Vec<Evidence>,
        remedy: &[&str],
    ) -> Diagnosis {
        // Makes commands that can be copied as they are.
        let header = self.snapshot.job.header();
        let job = match header.warm() {
            Some(_) => header.id.as_str(),
            None => &header.about.job_id,
        };
        let job = format!(" {job}`");
        let remedy = remedy
            .iter()
            .filter(|step| !step.is_empty())
            .map(|step| step.replace(" JOB`", &job))
            .collect();
        Diagnosis { cause, summary: summary.into(), evidence, remedy }
    }

    fn nothing(&self) -> Diagnosis {
        let last = self.timeline.spans.iter().rev().find_map(|span| span.outcome.as_ref());
        let pool = self.snapshot.job.header().warm().map(|origin| &origin.pool);
        let summary = match (&self.snapshot.job, last) {
            (AnyJob::Stopping(job), _) if pool.is_some() => {
                format!(
                    "It was a warm task, and no job claimed it: {}.",
                    crate::stop_reason(&job.state.reason)
                )
            }
            (job, _) if let Some(pool) = pool => {
                format!("It is a warm task of the pool {pool}, and is {}.", job.name())
            }
            (AnyJob::Stopping(_), Some(RunOutcome::Exited { code: 0, .. })) => {
                "The job ran and ended as it should.".to_owned()
            }
            (AnyJob::Stopping(job), _) => {
                format!(
                    "The job ended before it ran a script: {}.",
                    crate::stop_reason(&job.state.reason)
                )
            }
            (job, _) => {
                format!("The job is {} and continues, as far as this file shows.", job.name())
            }
        };
        let summary = if crate::words::ends(&self.snapshot.job) && self.around.is_here() {
            format!("{summary} ECS has accepted to stop its task, and no process waits for that.")
        } else {
            summary
        };
        self.diagnosis(Cause::Nothing, summary, Vec::new(), &[])
    }
}
