//! `fargate reap`: ends tasks without a job, jobs without a task, and abandoned jobs. A timer runs
//! it, or an engineer after a manager has died.
//!
//! It stops a task only if a driver launched it (`startedBy` and tags), for this runner manager and
//! this metadata directory, or for the manager that `--manager` names. It removes a file only if
//! its name is one that a driver gives. It does not touch a job that a process works on, or worked
//! on moments ago: gitlab-runner may be between two stages.
//!
//! A job that `cleanup` has ended only waits for its task's end. It is archived once ECS shows
//! that.

mod definitions;
mod files;
mod judge;
mod query;
mod report;
mod stop;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use states::{ControlError, JobId, Pace, StoreError};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{config::Config, control::JOB_TAG, host, runner::Identity, warm};

use self::{
    judge::{Judgment, OwnedTasks, owned_tasks},
    report::{describe, report},
    stop::end_job,
};

pub use report::Summary;

/// The least time since a process worked on a job before it is judged: stages follow each other
/// within moments.
const BETWEEN_STAGES: Duration = Duration::from_secs(2 * 60);
/// How long ECS may take to end a task after it has accepted StopTask, before another StopTask.
/// Fargate takes 13 to 66 s, and up to two minutes where a container's `stopTimeout` says so.
const STOPS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// Jobs that are ended concurrently, at most. Each waits for ECS most of the time.
const CONCURRENT_ENDS: usize = 20;
/// Attempts of a call, at most: one throttled call should not make a timer's run fail.
const ATTEMPTS: u32 = 5;
/// The pauses between attempts.
const RETRY: Pace =
    Pace { first: Duration::from_millis(700), longest: Duration::from_secs(10), growth: 200 };

/// What to end, and whose.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Whether to only report the actions.
    pub dry_run: bool,
    /// The idle time after which a job is abandoned, and the age from which a task without a job is
    /// an orphan.
    pub older_than: Duration,
    /// The manager whose tasks are stopped, instead of this one: one that is gone. This directory's
    /// jobs are left alone then.
    pub manager: Option<String>,
}

impl Reaper {
    /// Ends tasks and jobs that are no longer needed.
    ///
    /// # Errors
    /// When the directory cannot be read. Other failures are counted and reported.
    pub async fn run(&self, config: &Config) -> Result<Summary, StoreError> {
        let engine = Arc::new(host::engine(config, host::store(config)?));
        let mut summary = Summary::default();
        if !self.dry_run && self.manager.is_none() {
            warm::finish_claims(engine.store())?;
        }
        // Tasks first: a job that begins in between has a snapshot by the time the snapshots are
        // read.
        let launched = retry(|| engine.control().launched(&config.fargate.cluster)).await;
        let mut owners: HashMap<JobId, OwnedTasks> = HashMap::new();
        let mut damaged = Vec::new();
        let mut ending = JoinSet::new();
        let turns = Arc::new(Semaphore::new(CONCURRENT_ENDS));
        let (mut judgments, mut queries) = (Vec::new(), Vec::new());
        for job in engine.store().jobs()? {
            match self.judge(&engine, &job) {
                Judgment::Query(query) => queries.push(query),
                other => judgments.push((job, other)),
            }
        }
        let answers = query::answers(&engine, &queries).await;
        for query in queries {
            let job = query.job.clone();
            let status = query::tasks_status(&query, &answers);
            judgments.push((job, self.judge_by_tasks(&engine, query, status, &mut summary).await));
        }
        for (job, judgment) in judgments {
            match judgment {
                Judgment::Alive(tasks) => {
                    summary.alive += 1;
                    owners.insert(job, tasks);
                }
                Judgment::End { snapshot, lease, why } => {
                    owners.insert(job.clone(), owned_tasks(&snapshot));
                    if self.dry_run {
                        report(format_args!("{}: {why}; would be ended", describe(&snapshot)));
                        summary.jobs += 1;
                    } else {
                        let (engine, turns) = (Arc::clone(&engine), Arc::clone(&turns));
                        ending.spawn(async move {
                            let _turn = turns.acquire().await;
                            end_job(&engine, *snapshot, lease, &why).await
                        });
                    }
                }
                Judgment::Damaged { lease, error } => damaged.push((job, lease, error)),
                Judgment::Gone | Judgment::Query(_) => {}
                Judgment::Unknown(why) => {
                    owners.insert(job.clone(), OwnedTasks::Any);
                    summary.record_failure(&format!("job {job}"), &why);
                }
            }
        }
        while let Some(ended) = ending.join_next().await {
            match ended {
                Ok(Ok(line)) => {
                    summary.jobs += 1;
                    report(line);
                }
                Ok(Err((job, why))) => summary.record_failure(&format!("job {job}"), &why),
                Err(e) => summary.record_failure("a job", &e),
            }
        }
        // For each job, whether one of its tasks may still be alive.
        let mut alive: HashMap<&str, bool> = HashMap::new();
        match &launched {
            Ok(launched) => {
                for task in launched.iter().filter(|task| self.concerns(config, task)) {
                    let is_alive =
                        !self.stop_orphan(&engine, config, task, &owners, &mut summary).await;
                    *alive.entry(task.tag(JOB_TAG)).or_default() |= is_alive;
                }
            }
            Err(e) => summary.record_failure(
                &format!("the tasks of cluster {}", config.fargate.cluster),
                &diagnosis::explain_control(e),
            ),
        }
        for (job, lease, error) in damaged {
            let has_ended = launched.is_ok() && !alive.get(job.as_str()).copied().unwrap_or(false);
            self.set_aside(&engine, &job, &error, has_ended, &mut summary);
            drop(lease);
        }
        if self.manager.is_none() {
            self.retire_definitions(engine.control(), config, &mut summary).await;
            if !self.dry_run {
                self.export_pending(engine.store())?;
            }
            for job in
                engine.store().orphaned_files()?.iter().filter(|job| Identity::could_name(job))
            {
                self.sweep(&engine, job, &mut summary);
            }
        }
        Ok(summary)
    }
}

/// Makes a call, up to [`ATTEMPTS`] times while its error is transient.
async fn retry<T, F: Future<Output = Result<T, ControlError>>>(
    call: impl Fn() -> F,
) -> Result<T, ControlError> {
    for attempt in 0..ATTEMPTS - 1 {
        match call().await {
            Err(error) if error.kind.is_transient() => {
                tracing::debug!("{error}");
                tokio::time::sleep(RETRY.interval(attempt, std::process::id().into())).await;
            }
            settled => return settled,
        }
    }
    call().await
}
