//! Tasks that no job of this process waits for, described in calls that are made anyway: those of
//! jobs that are over for GitLab and whose end ECS has accepted. Whichever process sees that they
//! have ended archives their jobs.
//!
//! They cost the stage that takes them along nothing that counts: no call of their own, no failure,
//! and, between two of its own steps, the time of one archived snapshot.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Clock, Engine};
use crate::{
    Action, AnyJob, Described, EndingJob, JobId, Observation, Seen, Snapshot, SnapshotStore,
    StoreError, TaskArn, TaskControl, Timestamp, Transport,
};

/// How often they are taken along: tasks take 13 to 66 s to stop, and an answer with a hundred of
/// them is a large one.
const TAKEN_EVERY: Duration = Duration::from_secs(10);
/// What a process takes another job up for.
const PURPOSE: &str = "archive";

/// Tasks taken along by one process.
#[derive(Debug, Default)]
pub(super) struct Piggyback {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: Option<Timestamp>,
    /// A call may have failed because of them: this process takes none along any more.
    refused: bool,
    /// Jobs whose tasks have ended, with ECS's answers: to be archived.
    ended: VecDeque<(JobId, Vec<Described>)>,
}

impl Piggyback {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // It is whole after every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs in this cluster whose tasks fill at most so many places in a call that is about to be
    /// made.
    pub(super) async fn take<S: SnapshotStore>(
        &self,
        store: &S,
        cluster: &str,
        places: usize,
        clock: &Clock,
    ) -> Vec<EndingJob> {
        let now = clock.now();
        {
            let mut inner = self.inner();
            if inner.refused || inner.taken.is_some_and(|at| now.since(at) < TAKEN_EVERY) {
                return Vec::new();
            }
            inner.taken = Some(now);
        }
        let mut left = places;
        let mut jobs = store.ending_jobs(places).await;
        jobs.retain(|job| {
            let fits = job.cluster == cluster && job.tasks.len() <= left;
            left -= if fits { job.tasks.len() } else { 0 };
            fits
        });
        jobs
    }

    /// A call with them failed, perhaps because of them.
    pub(super) fn disable(&self) {
        self.inner().refused = true;
    }

    /// What ECS says of them.
    pub(super) fn record(&self, jobs: Vec<EndingJob>, answers: &[Described]) {
        for EndingJob { job, tasks, .. } in jobs {
            let seen: Vec<Described> =
                answers.iter().filter(|answer| tasks.contains(&answer.task)).cloned().collect();
            if tasks
                .iter()
                .all(|task| seen.iter().any(|seen| seen.task == *task && has_ended(&seen.seen)))
            {
                self.inner().ended.push_back((job, seen));
            }
        }
    }
}

/// Whether an accepted stop has come true. ECS forgets tasks about an hour after they stopped.
fn has_ended(seen: &Seen) -> bool {
    match seen {
        Seen::Task(report) => report.status.has_ended(),
        Seen::Missing => true,
    }
}

/// What became of a job that was to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concluded {
    /// It is archived.
    Archived,
    /// Its task has not ended, or its end was not accepted.
    NotYet,
    /// Another process works on it.
    Busy,
    /// There is no such job any more.
    Gone,
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Archives a job that waits for nothing but its tasks' end, if these answers say that they
    /// have ended. Does not wait for another process that works on the job.
    ///
    /// # Errors
    /// When its snapshot cannot be read or archived.
    pub async fn conclude(
        &self,
        job: &JobId,
        purpose: &str,
        answers: &[Described],
    ) -> Result<Concluded, StoreError> {
        let lease = match self.store.lease(job, purpose, Duration::ZERO).await {
            Ok(lease) => lease,
            Err(StoreError::Busy { .. }) => return Ok(Concluded::Busy),
            Err(e) => return Err(e),
        };
        // Only now is it certain what the job waits for: its next attempt may have begun.
        let Some(mut snapshot) = self.store.load(job).await? else {
            self.store.forget_ending(&lease, job).await;
            return Ok(Concluded::Gone);
        };
        if !only_ends(&snapshot) {
            return Ok(Concluded::NotYet);
        }
        let now = self.clock.now();
        let mut action = snapshot.step(
            Observation::Opened { process: std::process::id(), purpose: purpose.to_owned() },
            now,
        );
        // One task after the other, until there is one that has not ended.
        while action != Action::Archive {
            let task = snapshot.job.task().cloned();
            let Some(saw) = task.as_ref().and_then(|task| answer_about(task, answers)) else {
                return Ok(Concluded::NotYet);
            };
            action = snapshot.step(saw, now);
            if action != Action::Archive && snapshot.job.task() == task.as_ref() {
                return Ok(Concluded::NotYet);
            }
        }
        self.store.archive(&lease, &snapshot).await?;
        tracing::info!(%job, purpose, "the job's task has ended: archived");
        Ok(Concluded::Archived)
    }

    /// Archives at most one job of those whose tasks were seen to have ended. It is not this
    /// process's job: a failure is logged, and a later process tries again.
    pub(super) async fn conclude_one(&self) {
        let next = self.piggyback.inner().ended.pop_front();
        if let Some((job, answers)) = next
            && let Err(e) = self.conclude(&job, PURPOSE, &answers).await
        {
            tracing::debug!("job {job} has ended and was not archived: {e}");
        }
    }
}

fn only_ends(snapshot: &Snapshot) -> bool {
    matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.all_accepted())
}

fn answer_about(task: &TaskArn, answers: &[Described]) -> Option<Observation> {
    let answer = answers.iter().find(|answer| answer.task == *task)?;
    Some(match &answer.seen {
        Seen::Task(report) => Observation::Described(report.clone()),
        Seen::Missing => Observation::Missing,
    })
}
