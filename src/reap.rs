//! `fargate reap`: ends what no job needs any more: tasks without a job, jobs without a task, and jobs
//! that were abandoned. For a timer, and for whoever cleans up after a manager that died.
//!
//! It touches a task only if this driver launched it (`startedBy` and tags) for this runner manager and
//! this metadata directory, or for the manager that it is told. A job that a process works on is left alone.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use states::{
    AnyJob, DirectoryStore, Engine, Goal, JobId, JobIo, Note, Outcome, Seen, Snapshot, SnapshotStore, StopReason, StoreError, TaskArn,
    TaskControl, Timestamp,
};
use transports::ssh::{SshSettings, SshTransport};

use crate::{
    config::Config,
    control::{DIRECTORY_TAG, EcsControl, JOB_TAG, Launched, MANAGER_TAG},
    replay,
    stages::launch,
};

/// What to end.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Jobs that nobody has worked on for so long are abandoned, and tasks without a job this old are orphans.
    pub older_than: Duration,
    /// Whose tasks, instead of this manager's: for one that is gone.
    pub manager: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Tasks that were stopped without a job.
    pub orphans: usize,
    /// Jobs that were ended.
    pub jobs: usize,
    /// Jobs that are left alone.
    pub alive: usize,
    /// What could not be done.
    pub failures: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orphans, jobs, alive, failures } = self;
        write!(f, "{orphans} orphaned tasks stopped, {jobs} jobs ended, {alive} jobs left alone, {failures} failures")
    }
}

type ReapEngine = Engine<EcsControl, SshTransport, DirectoryStore>;

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// The metadata directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// ECS does not tell which tasks there are.
    #[error("{0}. {advice}", advice = .0.advice)]
    Control(#[from] states::ControlError),
}

/// A reaper says what it does line by line.
fn say(line: impl fmt::Display) {
    // Whoever closed the output does not want to read it.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

impl Reaper {
    /// Ends what no job needs any more.
    ///
    /// # Errors
    /// When the directory cannot be read, or ECS does not list its tasks. Single failures are counted and said.
    pub async fn run(&self, config: &Config) -> Result<Summary, ReapError> {
        let store = DirectoryStore::open(&config.metadata.directory)?.with_notes(replay::summary::Summary::note);
        let keys = store.clone();
        let control = EcsControl::new(config.fargate.region.clone());
        let engine = Engine::new(control, SshTransport::new(SshSettings::default()), store, move |job| keys.key_path(job));
        let mut summary = Summary::default();
        // Tasks first: a job that begins in between has a snapshot by the time the snapshots are read.
        let launched = engine.control().launched(&config.fargate.cluster).await?;
        let mut owned: HashMap<JobId, Option<TaskArn>> = HashMap::new();
        for job in engine.store().jobs()? {
            self.job(&engine, &job, &mut owned, &mut summary).await;
        }
        for task in launched {
            self.task(&engine, config, &task, &owned, &mut summary).await;
        }
        Ok(summary)
    }

    /// Ends the job if its task is gone or it was abandoned; otherwise it owns its task.
    async fn job(&self, engine: &ReapEngine, job: &JobId, owned: &mut HashMap<JobId, Option<TaskArn>>, summary: &mut Summary) {
        let lease = match engine.store().lease(job, "reap", Duration::ZERO) {
            Ok(lease) => lease,
            Err(StoreError::Busy { .. }) => {
                summary.alive += 1;
                owned.insert(job.clone(), None);
                return;
            }
            Err(e) => return failed(summary, &format!("job {job}"), &e),
        };
        let snapshot = match engine.store().load(job) {
            Ok(Some(snapshot)) => snapshot,
            // It ended while we looked.
            Ok(None) => return,
            // Its task, if it has one, is found by its tags below.
            Err(e) => return failed(summary, &format!("job {job}"), &e),
        };
        let why = match self.ends(engine, &snapshot).await {
            Ok(Some(why)) => why,
            Ok(None) => {
                summary.alive += 1;
                // Without a known task, every task of the job may be the one that a lost answer named.
                owned.insert(job.clone(), snapshot.job.task().cloned());
                return;
            }
            Err(e) => {
                owned.insert(job.clone(), None);
                return failed(summary, &format!("job {job}"), &e);
            }
        };
        let about = snapshot.job.header().about.clone();
        say(format_args!(
            "job {job} ({} {}): {why}{}",
            about.project_url,
            about.job_id,
            if self.dry_run { "; would be ended" } else { "" }
        ));
        owned.insert(job.clone(), snapshot.job.task().cloned());
        if self.dry_run {
            summary.jobs += 1;
            return;
        }
        let mut work = engine.work(snapshot, lease);
        engine.open(&mut work, "reap");
        engine.request_stop(&mut work, StopReason::Asked(format!("reaped: {why}")));
        match engine.drive(&mut work, Goal::End, &mut Silent).await {
            Ok(Outcome::Ended(_)) => summary.jobs += 1,
            Ok(Outcome::Unfinished(what)) => failed(summary, &format!("job {job}"), &what),
            Ok(other) => failed(summary, &format!("job {job}"), &format!("{other:?}")),
            Err(e) => failed(summary, &format!("job {job}"), &e),
        }
    }

    /// Why the job ends, if it does.
    async fn ends(&self, engine: &ReapEngine, snapshot: &Snapshot) -> Result<Option<String>, states::ControlError> {
        let header = snapshot.job.header();
        let newest = snapshot.journal.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
        let idle = Timestamp::now().since(newest.unwrap_or(header.created));
        if let AnyJob::Stopping(_) = snapshot.job {
            return Ok(Some("its end was begun and not finished".to_owned()));
        }
        if idle >= self.older_than {
            let idle = Duration::from_secs(idle.as_secs());
            return Ok(Some(format!("nobody has worked on it for {}", humantime::format_duration(idle))));
        }
        let Some(task) = snapshot.job.task() else { return Ok(None) };
        let described = engine.control().describe(&header.spec.cluster, std::slice::from_ref(task)).await?;
        Ok(match described.first().map(|described| &described.seen) {
            Some(Seen::Task(report)) if report.status.is_over() => Some("its task is over".to_owned()),
            // A task that was launched moments ago is not to be seen yet.
            Some(Seen::Missing) if idle >= Duration::from_secs(120) => Some("ECS does not know its task any more".to_owned()),
            _ => None,
        })
    }

    /// Stops the task if no job owns it.
    async fn task(
        &self,
        engine: &ReapEngine,
        config: &Config,
        task: &Launched,
        owned: &HashMap<JobId, Option<TaskArn>>,
        summary: &mut Summary,
    ) {
        let ours = match &self.manager {
            Some(manager) => task.tag(MANAGER_TAG) == manager,
            None => {
                task.tag(MANAGER_TAG) == launch::manager()
                    && task.tag(DIRECTORY_TAG) == launch::tag_value(&config.metadata.directory.display().to_string())
            }
        };
        if !ours {
            return;
        }
        let owner = JobId::new(task.tag(JOB_TAG)).ok().and_then(|job| owned.get(&job));
        if owner.is_some_and(|owns| owns.as_ref().is_none_or(|owns| *owns == task.task)) {
            return;
        }
        let age = task.created.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        if age < self.older_than {
            return;
        }
        let minutes = age.as_secs() / 60;
        let would = if self.dry_run { "; would be stopped" } else { "; stopped" };
        let line =
            format!("task {} ({} {}), {minutes} min old: no job owns it", task.task, task.tag("gitlab:project"), task.tag("gitlab:job"));
        if !self.dry_run
            && let Err(e) = engine.control().stop(&config.fargate.cluster, &task.task, "fargate driver: reaped, no job owns it").await
        {
            return failed(summary, &format!("task {}", task.task), &format!("{e}. {}", e.advice));
        }
        say(format_args!("{line}{would}"));
        summary.orphans += 1;
    }
}

fn failed(summary: &mut Summary, what: &str, why: &dyn fmt::Display) {
    eprintln!("fargate: reap: {what}: {why}");
    summary.failures += 1;
}

/// Nobody reads along, and nobody cancels.
struct Silent;

impl JobIo for Silent {
    async fn output(&mut self, _: Bytes) -> io::Result<()> {
        Ok(())
    }

    fn note(&mut self, note: Note<'_>) {
        tracing::debug!(?note, "reap");
    }

    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}
