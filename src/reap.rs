//! `fargate reap`: ends tasks without a job, jobs without a task, and abandoned jobs. For a timer,
//! and for cleaning up after a manager that died.
//!
//! It stops a task only if a driver launched it (`startedBy` and tags), for this runner manager and
//! this metadata directory, or for the manager that `--manager` names. It removes a file only if
//! its name is one that a driver gives. It does not touch a job that a process works on, or worked
//! on moments ago: gitlab-runner may be between two stages.
//!
//! A job that `cleanup` has ended is archived as soon as ECS shows its task's end.

mod candidates;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use states::{
    AnyJob, BadSnapshot, Concluded, ControlError, DirectoryLease, EngineError, Goal, JobId, JobIo,
    Note, Outcome, Pace, Seen, Snapshot, StopReason, StoreError, TaskArn, TaskControl, Timestamp,
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    config::Config,
    console::{stderr_line, stdout_line},
    control::{DIRECTORY_TAG, JOB_TAG, Launched, MANAGER_TAG},
    job_end::{has_ended, remains},
    ownership,
    runner::Identity,
    stages::{self, JobEngine},
    tags, telemetry,
};

use candidates::{Candidate, TasksStatus};

/// How long a job must be idle before it is examined: stages follow each other within moments.
const BETWEEN_STAGES: Duration = Duration::from_secs(2 * 60);
/// How long ECS may take to end a task after it has accepted StopTask, before StopTask is repeated.
/// Fargate takes 13 to 66 s, and up to two minutes with a container's `stopTimeout`.
const STOPS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// How many jobs are ended side by side: each waits for ECS most of the time.
const AT_ONCE: usize = 20;
/// How often a call is tried before its failure counts, and how far apart: one throttled call
/// should not fail a timer's run.
const TRIES: u32 = 5;
const RETRY: Pace =
    Pace { first: Duration::from_millis(700), longest: Duration::from_secs(10), growth: 200 };

/// The scope of a run of `fargate reap`.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Whether to only report the actions.
    pub dry_run: bool,
    /// The idle time after which a job is abandoned, and the age from which a task without a job is
    /// an orphan.
    pub older_than: Duration,
    /// The manager whose tasks are stopped, instead of this one, if that manager is gone. Then this
    /// directory's jobs are skipped.
    pub manager: Option<String>,
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Tasks that were stopped without a job.
    pub orphans: usize,
    /// Jobs that were ended.
    pub jobs: usize,
    /// Jobs that were skipped.
    pub alive: usize,
    /// Actions that failed.
    pub failures: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orphans, jobs, alive, failures } = self;
        write!(
            f,
            "orphaned tasks stopped: {orphans}; jobs ended: {jobs}; jobs left alone: {alive}; failures: {failures}"
        )
    }
}

/// The tasks that a job owns.
enum Owns {
    /// This one: another task of the same job is an earlier attempt's.
    Task(TaskArn),
    /// Any task of the job may be its own, as a launch has no answer yet.
    Any,
}

/// The decision on one job.
enum Decision {
    /// It ends if its tasks are over.
    Candidate(Candidate),
    /// It owns its task.
    Alive(Owns),
    /// It has to be ended.
    Ends { snapshot: Box<Snapshot>, lease: DirectoryLease, why: String },
    /// Its snapshot cannot be read: no process can continue it.
    Damaged { lease: DirectoryLease, error: StoreError },
    /// It ended meanwhile.
    Gone,
    /// It could not be determined.
    Unknown(String),
}

/// Whether a job has to be ended.
enum Ending {
    No,
    /// Now, for this reason.
    Now(String),
    /// If ECS says that these tasks are over.
    WithItsTasks(Vec<TaskArn>),
}

fn owns(snapshot: &Snapshot) -> Owns {
    snapshot.job.task().cloned().map_or(Owns::Any, Owns::Task)
}

/// Returns the job and its lock, if no process works on it.
fn take(engine: &JobEngine, job: &JobId) -> Result<(DirectoryLease, Snapshot), Decision> {
    let store = engine.store();
    let lease = match store.try_lease(job, "reap") {
        Ok(lease) => lease,
        Err(StoreError::Busy { .. }) => return Err(Decision::Alive(Owns::Any)),
        Err(e) => return Err(Decision::Unknown(e.to_string())),
    };
    match store.read(job) {
        Ok(Some(snapshot)) => Ok((lease, snapshot)),
        Ok(None) => Err(Decision::Gone),
        Err(
            error @ StoreError::Bad { why: BadSnapshot::Damaged(_) | BadSnapshot::TooLarge, .. },
        ) => Err(Decision::Damaged { lease, error }),
        Err(e) => Err(Decision::Unknown(e.to_string())),
    }
}

impl Reaper {
    /// Ends tasks and jobs that are no longer needed.
    ///
    /// # Errors
    /// When the directory cannot be read. Other failures are counted and reported.
    pub async fn run(&self, config: &Config) -> Result<Summary, StoreError> {
        let engine = Arc::new(stages::engine(config, stages::store(config)?));
        let mut summary = Summary::default();
        // Tasks are listed first: a job that begins in between has a snapshot before the snapshots
        // are read.
        let launched = with_retries(|| engine.control().launched(&config.fargate.cluster)).await;
        let mut owners: HashMap<JobId, Owns> = HashMap::new();
        let mut damaged = Vec::new();
        let mut ending = JoinSet::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let (mut decided, mut candidates) = (Vec::new(), Vec::new());
        for job in engine.store().jobs()? {
            match self.decide(&engine, &job) {
                Decision::Candidate(candidate) => candidates.push(candidate),
                other => decided.push((job, other)),
            }
        }
        let answers = candidates::answers(&engine, &candidates).await;
        for candidate in candidates {
            let job = candidate.job.clone();
            let status = candidates::status(&candidate, &answers);
            decided
                .push((job, self.decide_by_status(&engine, candidate, status, &mut summary).await));
        }
        for (job, decided) in decided {
            match decided {
                Decision::Alive(owns) => {
                    summary.alive += 1;
                    owners.insert(job, owns);
                }
                Decision::Ends { snapshot, lease, why } => {
                    owners.insert(job.clone(), owns(&snapshot));
                    if self.dry_run {
                        say(format_args!("{}: {why}; would be ended", name(&snapshot)));
                        summary.jobs += 1;
                    } else {
                        let (engine, turns) = (Arc::clone(&engine), Arc::clone(&turns));
                        ending.spawn(async move {
                            let _turn = turns.acquire().await;
                            telemetry::in_own_scope(end(&engine, *snapshot, lease, &why)).await
                        });
                    }
                }
                Decision::Damaged { lease, error } => damaged.push((job, lease, error)),
                Decision::Gone | Decision::Candidate(_) => {}
                Decision::Unknown(why) => {
                    owners.insert(job.clone(), Owns::Any);
                    summary.failed(&format!("job {job}"), &why);
                }
            }
        }
        while let Some(ended) = ending.join_next().await {
            match ended {
                Ok(Ok(line)) => {
                    summary.jobs += 1;
                    say(line);
                }
                Ok(Err((job, why))) => summary.failed(&format!("job {job}"), &why),
                Err(e) => summary.failed("a job", &e),
            }
        }
        // For each job, whether one of its tasks may still run.
        let mut left: HashMap<&str, bool> = HashMap::new();
        match &launched {
            Ok(launched) => {
                for task in launched.iter().filter(|task| self.concerns(config, task)) {
                    let lives_on = !self.task(&engine, config, task, &owners, &mut summary).await;
                    *left.entry(task.tag(JOB_TAG)).or_default() |= lives_on;
                }
            }
            Err(e) => summary.failed(
                &format!("the tasks of cluster {}", config.fargate.cluster),
                &diagnosis::explain_control(e),
            ),
        }
        for (job, lease, error) in damaged {
            let over = launched.is_ok() && !left.get(job.as_str()).copied().unwrap_or(false);
            self.set_aside(&engine, &job, &error, over, &mut summary);
            drop(lease);
        }
        if self.manager.is_none() {
            if !self.dry_run {
                telemetry::adopt(engine.store(), self.older_than)?;
            }
            for job in engine.store().leftovers()?.iter().filter(|job| Identity::could_name(job)) {
                self.sweep(&engine, job, &mut summary);
            }
        }
        Ok(summary)
    }

    /// Removes a killed driver's files of a job without a snapshot. A task of it is an orphan.
    fn sweep(&self, engine: &JobEngine, job: &JobId, summary: &mut Summary) {
        let store = engine.store();
        let swept = match store.try_lease(job, "reap") {
            // The process that works on it is about to write the snapshot.
            Err(StoreError::Busy { .. }) => return,
            Ok(_) if self.dry_run => {
                return say(format_args!(
                    "job {job}: it has no snapshot; its files would be removed"
                ));
            }
            Ok(lease) => store.sweep(job, &lease),
            Err(e) => Err(e),
        };
        match swept {
            Ok(()) => say(format_args!("job {job}: it has no snapshot; its files were removed")),
            Err(e) => summary.failed(&format!("job {job}"), &e),
        }
    }

    /// Decides on a job by its snapshot.
    fn decide(&self, engine: &JobEngine, job: &JobId) -> Decision {
        let (lease, snapshot) = match take(engine, job) {
            Ok(taken) => taken,
            Err(decided) => return decided,
        };
        match self.ends(&snapshot, engine.store().is_ending(job)) {
            Ending::Now(why) => Decision::Ends { snapshot: Box::new(snapshot), lease, why },
            Ending::No => Decision::Alive(owns(&snapshot)),
            Ending::WithItsTasks(tasks) => Decision::Candidate(Candidate {
                job: job.clone(),
                snapshot: Box::new(snapshot),
                tasks,
            }),
        }
    }

    /// Decides on a job by the status of its tasks.
    async fn decide_by_status(
        &self,
        engine: &JobEngine,
        candidate: Candidate,
        status: TasksStatus,
        summary: &mut Summary,
    ) -> Decision {
        let Candidate { job, snapshot, .. } = candidate;
        let (ended, idle) = (has_ended(&snapshot), idle(&snapshot));
        let why = match status {
            TasksStatus::Unknown(why) => return Decision::Unknown(why),
            TasksStatus::Over { why, answers } if ended => {
                return self.conclude(engine, &job, &snapshot, why, &answers, summary).await;
            }
            TasksStatus::Over { why, .. } => why.to_owned(),
            TasksStatus::Not(status) if ended && idle >= STOPS_WITHIN.min(self.older_than) => {
                let idle = humantime::format_duration(Duration::from_secs(idle.as_secs()));
                format!("ECS accepted to stop its task {idle} ago and shows it as {status}")
            }
            TasksStatus::Not(_) => return Decision::Alive(owns(&snapshot)),
        };
        match take(engine, &job) {
            Ok((lease, again)) if again == *snapshot => Decision::Ends { snapshot, lease, why },
            // A process has worked on it meanwhile.
            Ok(_) => Decision::Alive(owns(&snapshot)),
            Err(decided) => decided,
        }
    }

    /// Archives a job whose end ECS had accepted, and whose tasks have ended.
    async fn conclude(
        &self,
        engine: &JobEngine,
        job: &JobId,
        snapshot: &Snapshot,
        why: &str,
        answers: &[states::Described],
        summary: &mut Summary,
    ) -> Decision {
        if self.dry_run {
            say(format_args!("{}: {why}; would be archived", name(snapshot)));
            summary.jobs += 1;
            return Decision::Gone;
        }
        telemetry::job::opened(engine.store().directory(), snapshot, "reap");
        let concluded = engine.conclude(job, "reap", answers).await;
        let outcome: Result<Outcome, EngineError> = match &concluded {
            Ok(Concluded::Archived) => Ok(Outcome::Ended(StopReason::Cleanup)),
            _ => Ok(Outcome::Unfinished),
        };
        telemetry::job::closed(&outcome, Goal::End, snapshot);
        match concluded {
            Ok(Concluded::Archived) => {
                say(format_args!("{}: {why}; archived", name(snapshot)));
                summary.jobs += 1;
                Decision::Gone
            }
            Ok(Concluded::Gone) => Decision::Gone,
            Ok(Concluded::Busy | Concluded::NotYet) => Decision::Alive(owns(snapshot)),
            Err(e) => Decision::Unknown(e.to_string()),
        }
    }

    /// Decides whether an idle job has to end. `cleaned_up` is set if it only waits for its task's
    /// end.
    fn ends(&self, snapshot: &Snapshot, cleaned_up: bool) -> Ending {
        if self.manager.is_some() {
            return Ending::No;
        }
        let idle = idle(snapshot);
        if let AnyJob::Stopping(job) = &snapshot.job
            && job.state.all_accepted()
            && (cleaned_up || idle >= BETWEEN_STAGES.min(self.older_than))
        {
            return Ending::WithItsTasks(job.state.tasks().cloned().collect());
        }
        if idle >= self.older_than {
            let idle = Duration::from_secs(idle.as_secs());
            return Ending::Now(format!(
                "no process has worked on it for {}",
                humantime::format_duration(idle)
            ));
        }
        if idle < BETWEEN_STAGES {
            return Ending::No;
        }
        if let AnyJob::Stopping(_) = snapshot.job {
            return Ending::Now("its end was begun and not finished".to_owned());
        }
        snapshot.job.task().cloned().map_or(Ending::No, |task| Ending::WithItsTasks(vec![task]))
    }

    /// Whether the task belongs to the manager and the directory of this run.
    fn concerns(&self, config: &Config, task: &Launched) -> bool {
        match &self.manager {
            Some(manager) => task.tag(MANAGER_TAG) == tags::value(manager),
            None => {
                task.tag(MANAGER_TAG) == ownership::manager(config)
                    && task.tag(DIRECTORY_TAG)
                        == tags::value(&config.metadata.directory.display().to_string())
            }
        }
    }

    /// Stops the task if no job owns it. Returns whether it has ended, or would have.
    async fn task(
        &self,
        engine: &JobEngine,
        config: &Config,
        task: &Launched,
        owners: &HashMap<JobId, Owns>,
        summary: &mut Summary,
    ) -> bool {
        match JobId::new(task.tag(JOB_TAG)).ok().and_then(|job| owners.get(&job)) {
            Some(Owns::Any) => return false,
            Some(Owns::Task(owned)) if *owned == task.task => return false,
            _ => {}
        }
        let age = task
            .created
            .and_then(|at| SystemTime::now().duration_since(at).ok())
            .unwrap_or_default();
        if age < self.older_than {
            return false;
        }
        let cluster = &config.fargate.cluster;
        // Its job may have ended, and stopped it, since the tasks were listed.
        match with_retries(|| engine.control().describe(cluster, std::slice::from_ref(&task.task)))
            .await
        {
            Ok(described) => match described.first().map(|described| &described.seen) {
                Some(Seen::Task(report)) if !report.stop_desired && !report.status.is_ending() => {}
                _ => return true,
            },
            Err(e) => {
                summary.failed(&format!("task {}", task.task), &diagnosis::explain_control(&e));
                return false;
            }
        }
        let unowned = StopReason::Asked("reaped, no job owns it".to_owned());
        if !self.dry_run
            && let Err(e) =
                with_retries(|| engine.control().stop(cluster, &task.task, &unowned)).await
        {
            summary.failed(
                &format!("task {}", task.task),
                &format!("it was not stopped: {}", diagnosis::explain_control(&e)),
            );
            return false;
        }
        if !self.dry_run {
            telemetry::reaped("orphan");
        }
        let done = if self.dry_run { "would be stopped" } else { "stopped" };
        let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
        say(format_args!(
            "task {} ({}, job {}), launched {age} ago: no job owns it; {done}",
            task.task,
            task.tag("gitlab:project"),
            task.tag("gitlab:job")
        ));
        summary.orphans += 1;
        true
    }

    /// Moves a damaged snapshot to the archive, once its task has ended and it has been idle for
    /// long.
    fn set_aside(
        &self,
        engine: &JobEngine,
        job: &JobId,
        error: &StoreError,
        over: bool,
        summary: &mut Summary,
    ) {
        let path = engine.store().snapshot_path(job);
        let age = std::fs::metadata(&path)
            .and_then(|about| about.modified())
            .ok()
            .and_then(|at| at.elapsed().ok())
            .unwrap_or_default();
        if !over || age < self.older_than || self.manager.is_some() {
            return summary.failed(&format!("job {job}"), error);
        }
        if self.dry_run {
            say(format_args!(
                "job {job}: its snapshot is damaged, and it has no task; would be set aside"
            ));
        } else {
            match engine.store().set_aside(job) {
                Ok(kept) => say(format_args!(
                    "job {job}: its snapshot is damaged, and it has no task; kept as {}",
                    kept.display()
                )),
                Err(e) => return summary.failed(&format!("job {job}"), &e),
            }
        }
        summary.jobs += 1;
    }
}

/// Returns how long no process has worked on a job.
fn idle(snapshot: &Snapshot) -> Duration {
    let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
    Timestamp::now().since(newest.unwrap_or(snapshot.job.header().created))
}

/// Ends one job: its task, then its snapshot goes to the archive.
async fn end(
    engine: &JobEngine,
    snapshot: Snapshot,
    lease: DirectoryLease,
    why: &str,
) -> Result<String, (JobId, String)> {
    let (name, id) = (name(&snapshot), snapshot.job.header().id.clone());
    telemetry::job::opened(engine.store().directory(), &snapshot, "reap");
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, "reap").await;
    engine.request_stop(&mut work, StopReason::Asked(format!("reaped: {why}")));
    let ended = engine.drive(&mut work, Goal::End, &mut Silent).await;
    telemetry::job::closed(&ended, Goal::End, &work.snapshot);
    match ended {
        Ok(Outcome::Ended(_)) => {
            telemetry::reaped("job");
            Ok(format!("{name}: {why}; ended"))
        }
        Ok(Outcome::Unfinished) => {
            let what = remains(&work.snapshot);
            Err((id, format!("{what} Its snapshot is kept: the next reap continues.")))
        }
        Ok(other) => Err((id, format!("it did not end: {other:?}"))),
        Err(e) => Err((id, e.to_string())),
    }
}

/// Makes a call, and repeats it while that can help.
async fn with_retries<T, F: Future<Output = Result<T, ControlError>>>(
    call: impl Fn() -> F,
) -> Result<T, ControlError> {
    for attempt in 0..TRIES - 1 {
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

/// Names a job for people.
fn name(snapshot: &Snapshot) -> String {
    let header = snapshot.job.header();
    let task = snapshot
        .job
        .task()
        .map_or_else(|| "no task known".to_owned(), |task| format!("task {}", task.task_id()));
    format!("job {} ({}, job {}, {task})", header.id, header.about.project_url, header.about.job_id)
}

fn say(line: impl fmt::Display) {
    tracing::info!("reap: {line}");
    stdout_line(line);
}

impl Summary {
    fn failed(&mut self, what: &str, why: &dyn fmt::Display) {
        tracing::error!("reap: {what}: {why}");
        stderr_line(format_args!("fargate: reap: {what}: {why}"));
        self.failures += 1;
    }
}

/// Discards output, and never cancels.
struct Silent;

impl JobIo for Silent {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn note(&mut self, note: Note<'_>) {
        telemetry::noted(&note);
        tracing::debug!(?note, "reap");
    }

    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}
