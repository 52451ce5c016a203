//! Judges jobs: which of them end, which of them own tasks.

use std::time::Duration;

use states::{
    AnyJob, BadSnapshot, DirectoryLease, JobId, Snapshot, StoreError, TaskArn, Timestamp,
};

use super::{
    BETWEEN_STAGES, Reaper, STOPS_WITHIN,
    query::{Query, TasksStatus},
    report::Summary,
};
use crate::{host::JobEngine, job_end::has_ended};

/// The tasks that a job owns.
pub(super) enum OwnedTasks {
    /// This task. Another one of the same job is of an earlier attempt.
    Task(TaskArn),
    /// Every task of the job: any of them may be the one of its launch.
    Any,
}

/// What is to be done with a job.
pub(super) enum Judgment {
    /// Its end depends on its tasks, which ECS is asked about.
    Query(Query),
    /// It is left alone, and owns these tasks.
    Alive(OwnedTasks),
    /// It is to be ended.
    End { snapshot: Box<Snapshot>, lease: DirectoryLease, why: String },
    /// Its snapshot cannot be read: no process can continue it.
    Damaged { lease: DirectoryLease, error: StoreError },
    /// It has just ended.
    Gone,
    /// It could not be judged, for this reason.
    Unknown(String),
}

/// Whether a job is to be ended, by its snapshot.
enum Decision {
    /// It is not.
    No,
    /// It is, for this reason.
    Now(String),
    /// It is if ECS says that these tasks have ended.
    WithItsTasks(Vec<TaskArn>),
}

/// Returns the tasks that a job owns.
pub(super) fn owned_tasks(snapshot: &Snapshot) -> OwnedTasks {
    snapshot.job.task().cloned().map_or(OwnedTasks::Any, OwnedTasks::Task)
}

impl Reaper {
    /// Judges a job by its snapshot.
    pub(super) fn judge(&self, engine: &JobEngine, job: &JobId) -> Judgment {
        let (lease, snapshot) = match take(engine, job) {
            Ok(taken) => taken,
            Err(judged) => return judged,
        };
        match self.decide(&snapshot, engine.store().is_ending(job)) {
            Decision::Now(why) => Judgment::End { snapshot: Box::new(snapshot), lease, why },
            Decision::No => Judgment::Alive(owned_tasks(&snapshot)),
            Decision::WithItsTasks(tasks) => {
                Judgment::Query(Query { job: job.clone(), snapshot: Box::new(snapshot), tasks })
            }
        }
    }

    /// Judges a job by the status of its tasks.
    pub(super) async fn judge_by_tasks(
        &self,
        engine: &JobEngine,
        query: Query,
        status: TasksStatus,
        summary: &mut Summary,
    ) -> Judgment {
        let Query { job, snapshot, .. } = query;
        let (ended, idle) = (has_ended(&snapshot), idle_time(&snapshot));
        let why = match status {
            TasksStatus::Unknown(why) => return Judgment::Unknown(why),
            TasksStatus::Ended { why, answers } if ended => {
                return self.archive_ended(engine, &job, &snapshot, why, &answers, summary).await;
            }
            TasksStatus::Ended { why, .. } => why.to_owned(),
            TasksStatus::Alive(status) if ended && idle >= STOPS_WITHIN.min(self.older_than) => {
                let idle = humantime::format_duration(Duration::from_secs(idle.as_secs()));
                format!("ECS accepted to stop its task {idle} ago and shows it as {status}")
            }
            TasksStatus::Alive(_) => return Judgment::Alive(owned_tasks(&snapshot)),
        };
        match take(engine, &job) {
            Ok((lease, again)) if again == *snapshot => Judgment::End { snapshot, lease, why },
            // A process has worked on it meanwhile.
            Ok(_) => Judgment::Alive(owned_tasks(&snapshot)),
            Err(judged) => judged,
        }
    }

    /// Decides about a job that no process works on. `cleaned_up`: `cleanup` has succeeded, and the
    /// job only waits for its task's end.
    fn decide(&self, snapshot: &Snapshot, cleaned_up: bool) -> Decision {
        if self.manager.is_some() {
            return Decision::No;
        }
        let idle = idle_time(snapshot);
        if let AnyJob::Stopping(job) = &snapshot.job
            && job.state.all_accepted()
            && (cleaned_up || idle >= BETWEEN_STAGES.min(self.older_than))
        {
            return Decision::WithItsTasks(job.state.tasks().cloned().collect());
        }
        // A warm task that is ready waits for a job, for as long as its pool keeps it.
        let kept = match (snapshot.job.header().warm(), &snapshot.job) {
            (Some(origin), AnyJob::Reachable(_)) => origin.max_age,
            _ => Duration::ZERO,
        };
        if idle >= self.older_than.saturating_add(kept) {
            let idle = Duration::from_secs(idle.as_secs());
            return Decision::Now(format!(
                "no process has worked on it for {}",
                humantime::format_duration(idle)
            ));
        }
        if idle < BETWEEN_STAGES {
            return Decision::No;
        }
        if let AnyJob::Stopping(_) = snapshot.job {
            return Decision::Now("its end was begun and not finished".to_owned());
        }
        snapshot.job.task().cloned().map_or(Decision::No, |task| Decision::WithItsTasks(vec![task]))
    }
}

/// Takes the lease of a job and reads its snapshot. If a process works on the job, or it cannot be
/// read, returns the judgment.
fn take(engine: &JobEngine, job: &JobId) -> Result<(DirectoryLease, Snapshot), Judgment> {
    let store = engine.store();
    let lease = match store.try_lease(job, "reap") {
        Ok(lease) => lease,
        Err(StoreError::Busy { .. }) => return Err(Judgment::Alive(OwnedTasks::Any)),
        Err(e) => return Err(Judgment::Unknown(e.to_string())),
    };
    match store.read(job) {
        Ok(Some(snapshot)) => Ok((lease, snapshot)),
        Ok(None) => Err(Judgment::Gone),
        Err(
            error @ StoreError::Bad { why: BadSnapshot::Damaged(_) | BadSnapshot::TooLarge, .. },
        ) => Err(Judgment::Damaged { lease, error }),
        // A job is claiming this warm task, or was killed in the middle of that.
        Err(StoreError::Foreign { .. }) if job.is_warm() => Err(Judgment::Alive(OwnedTasks::Any)),
        Err(e) => Err(Judgment::Unknown(e.to_string())),
    }
}

/// Returns how long no process has worked on a job.
fn idle_time(snapshot: &Snapshot) -> Duration {
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    Timestamp::now().since(newest.unwrap_or(snapshot.job.header().created))
}
