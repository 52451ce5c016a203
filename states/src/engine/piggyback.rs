//! Fills DescribeTasks calls with the tasks of ending jobs: those whose `cleanup` has returned and
//! whose stop ECS has accepted. The process that sees that they have ended archives their jobs.
//!
//! The stage that takes them along makes no extra call and does not fail because of them. It spends
//! the time to archive one snapshot between two of its own steps.

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

/// How often they are taken along. Tasks take 13 to 66 s to stop, and an answer about a hundred of
/// them is large.
const TAKEN_EVERY: Duration = Duration::from_secs(10);
/// The purpose under which a process works on another job.
const PURPOSE: &str = "archive";

/// The ending jobs whose tasks one process takes along in its calls.
#[derive(Debug, Default)]
pub(super) struct Piggyback {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: Option<Timestamp>,
    /// A call may have failed because of them, so this process takes none along any more.
    refused: bool,
    /// Jobs to archive: their tasks have ended. With ECS's answers.
    ended: VecDeque<(JobId, Vec<Described>)>,
}

impl Piggyback {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // It is consistent after every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs of this cluster whose tasks fill at most `places` of a call.
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

    /// Takes no more tasks along: a call with them failed, perhaps because of them.
    pub(super) fn disable(&self) {
        self.inner().refused = true;
    }

    /// Records ECS's answers about them.
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

/// Whether a task whose stop was accepted has ended. ECS forgets tasks about an hour after they
/// stopped.
fn has_ended(seen: &Seen) -> bool {
    match seen {
        Seen::Task(report) => report.status.has_ended(),
        Seen::Missing => true,
    }
}

/// The result of an attempt to archive an ending job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concluded {
    /// It is archived.
    Archived,
    /// Its task has not ended, or ECS has not accepted its stop.
    NotYet,
    /// Another process works on it.
    Busy,
    /// The job does not exist any more.
    Gone,
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Archives a job that only waits for its tasks' end, if these answers show that they have
    /// ended. Does not wait for another process that works on the job.
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
        // The note may be out of date, and the job's next attempt may have begun: only the snapshot
        // counts.
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
        // One task after the other, up to the first that has not ended.
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

    /// Archives at most one job whose tasks have ended. It is not this process's job, so a failure
    /// is only logged, and a later process tries again.
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
        Seen::Task(report) => Observation::Described(report.clone().into()),
        Seen::Missing => Observation::Missing,
    })
}
