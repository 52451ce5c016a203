//! Keeps the pools of warm tasks in the service: looks at the tasks, lets the [plan](super::plan)
//! decide, and does what it says.
//!
//! The tasks' snapshots have all that matters, and a file has how to go on after failures. So a
//! service that is restarted keeps the tasks, finishes launches that were interrupted, and does not
//! launch more often than one that runs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use states::{
    ControlError, Fit, JobId, LaunchSpec, Retirement, Seen, SnapshotStore as _, StateName,
    StopReason, StoreError, TaskArn, Timestamp,
};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{
    LaunchError, Launched, WarmTask,
    demand::{LaunchingJobs, on_file_thread},
    finish_claims, launch, look,
    plan::{self, Pool, Pressure, Setbacks, Task},
    pool_state::{PoolState, PoolStates},
    resume, retire,
};
use crate::{config::Warm, control::NewestDefinition, host::Host, launch::pool};

/// How often the directory's names are compared: other processes claim tasks, too.
const POLL: Duration = Duration::from_secs(1);
/// How often ECS is asked about the tasks that wait, and about the newest revision of a pool's
/// definition.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Tasks per DescribeTasks (Amazon ECS API reference, DescribeTasks).
const AT_ONCE: usize = 100;
/// Tasks that are retired at the same time: StopTask has a rate for the whole account.
const RETIRED_AT_ONCE: usize = 10;
/// How long a task is left alone that another process works on.
const HELD: Duration = Duration::from_secs(2);
/// The pause after an error of the directory.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// With what a keeper begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// With what the directory's file has of failures: the process is new, the pools need not be.
    Restart,
    /// Without: the configuration was changed, and what failed is tried at once.
    Reload,
}

/// Keeps the pools until it is dropped, or the manager is drained.
pub(crate) async fn keep(host: &Arc<Host>, beginning: Beginning) {
    let mut keeper = Keeper::new(host);
    if beginning == Beginning::Restart {
        let earlier = PoolStates::read(&host.config.metadata.directory);
        keeper.states.go_on(earlier, Timestamp::now());
    }
    let mut drained = host.drained.subscribe();
    tokio::select! {
        () = keeper.run() => {}
        // Never an error: the host has the sender.
        _ = drained.wait_for(|is_drained| *is_drained) => {}
    }
}

/// A pool, and what its tasks are.
struct Kept {
    pool: Pool,
    settings: Warm,
    /// What a task is that would be launched now; `None` if none is granted.
    launch: Option<(LaunchSpec, Fit)>,
    /// The definition of such a task.
    newest: Option<NewestDefinition>,
    /// Whether the log has that it is not known.
    is_unknown: bool,
}

type Done = Result<Launched, LaunchError>;

/// What this process does with a warm task at this moment.
struct Driven {
    task: JobId,
    pool: String,
    /// Whether it is retired. Otherwise it is launched.
    is_retired: bool,
    began: Timestamp,
    handle: AbortHandle,
}

struct Keeper<'a> {
    host: &'a Arc<Host>,
    pools: Vec<Kept>,
    /// Launches and retirements that this process drives.
    work: JoinSet<Done>,
    driven: HashMap<Id, Driven>,
    /// Tasks that ECS has accepted to stop.
    stopped: HashSet<JobId>,
    /// Tasks that another process has worked on, and until when they are left alone.
    held: HashMap<JobId, Instant>,
    states: PoolStates,
    /// What the file has.
    reported: Option<PoolStates>,
    /// The task definitions of the tasks that wait, by task.
    definitions: HashMap<TaskArn, String>,
    /// When ECS was asked about them, and about the newest definitions.
    asked: Option<Instant>,
    jobs: LaunchingJobs,
}

impl<'a> Keeper<'a> {
    fn new(host: &'a Arc<Host>) -> Self {
        let config = &host.config;
        let mut states = PoolStates::default();
        let pools = config.warm.iter().map(|settings| {
            let pool = Pool::of(config, settings);
            let header = pool::header(config, settings, JobId::warm(0), Timestamp::now());
            let (state, launch) = match header {
                Ok(header) => {
                    let fit = Fit::of(&header);
                    (PoolState::launching(pool.name.clone(), &fit), Some((header.spec, fit)))
                }
                Err(refusal) => {
                    let refusal = LaunchError::from(refusal);
                    tracing::error!("the pool {:?} is not kept: {refusal}", pool.name);
                    (PoolState::refused(pool.name.clone(), refusal), None)
                }
            };
            states.pools.push(state);
            Kept { pool, settings: settings.clone(), launch, newest: None, is_unknown: false }
        });
        Self {
            pools: pools.collect(),
            host,
            work: JoinSet::new(),
            driven: HashMap::new(),
            stopped: HashSet::new(),
            held: HashMap::new(),
            states,
            reported: None,
            definitions: HashMap::new(),
            asked: None,
            jobs: LaunchingJobs::default(),
        }
    }

    async fn run(&mut self) {
        loop {
            let known = names(self.host).await;
            self.held.retain(|_, until| *until > Instant::now());
            let again = match self.turn().await {
                Ok(again) => Instant::now() + again.since(Timestamp::now()),
                Err(e) => {
                    tracing::warn!("the pools of warm tasks are not kept: {e}");
                    Instant::now() + AFTER_ERROR
                }
            };
            let again = self.held.values().fold(again, |again, until| again.min(*until));
            let driven: BTreeSet<JobId> =
                self.driven.values().map(|driven| driven.task.clone()).collect();
            tokio::select! {
                Some(done) = self.work.join_next_with_id() => self.record(done),
                () = self.host.claimed.notified() => {}
                () = changes(self.host, &known, &driven) => {}
                () = sleep_until(again) => {}
            }
        }
    }

    /// Does once what the pools need. Returns when to do it again.
    async fn turn(&mut self) -> Result<Timestamp, StoreError> {
        let found = self.look().await?;
        self.ask(&found).await;
        let tasks = self.tasks(&found);
        let pools: Vec<Pool> = self
            .pools
            .iter()
            .filter(|kept| kept.launch.is_some())
            .map(|kept| kept.pool.clone())
            .collect();
        let now = Timestamp::now();
        let mut pressure = self.pressure();
        let mut plan = plan::plan(now, &pools, &tasks, &pressure);
        if !plan.launches.is_empty() && self.jobs.is_any(self.host.engine.store()).await? {
            pressure.is_job_launching = true;
            plan = plan::plan(now, &pools, &tasks, &pressure);
        }
        for (id, why) in &plan.retirements {
            self.retire(id, *why);
        }
        let ends = |task: &WarmTask| plan.retirements.iter().any(|(id, _)| *id == task.id);
        for task in found.iter().filter(|task| !ends(task)) {
            self.resume(task);
        }
        for pool in &plan.launches {
            self.launch(pool);
        }
        self.report(&tasks, &plan.wanted, now);
        Ok(plan.again)
    }

    /// Returns the warm tasks that do not end yet. Finishes claims of processes that were killed.
    async fn look(&mut self) -> Result<Vec<WarmTask>, StoreError> {
        let store = self.host.engine.store().clone();
        let mut found = on_file_thread(move || {
            finish_claims(&store)?;
            look(&store)
        })
        .await?;
        self.stopped.retain(|id| found.iter().any(|task| task.id == *id));
        found.retain(|task| !self.stopped.contains(&task.id));
        let is_accepted = |task: &WarmTask| {
            !matches!(task.state, StateName::Provisioning | StateName::Stopping)
                && self.states.refusals.last.is_some_and(|last| last < task.created)
        };
        if found.iter().any(is_accepted) {
            self.states.refusals = Setbacks::default();
        }
        Ok(found)
    }

    /// Goes on with a launch, or with a retirement, that another process has begun.
    fn resume(&mut self, task: &WarmTask) {
        let is_driven = self.driven(&task.id).is_some();
        if task.state == StateName::Reachable || is_driven || self.held.contains_key(&task.id) {
            return;
        }
        tracing::debug!(task = %task.id, pool = task.pool, "going on with a warm task");
        let (host, id) = (Arc::clone(self.host), task.id.clone());
        let is_retired = task.state == StateName::Stopping;
        let work = async move { resume(&host, &id).await };
        self.drive((&task.id, &task.pool, is_retired), work);
    }

    fn launch(&mut self, pool: &str) {
        let Some(kept) = self.pools.iter().find(|kept| kept.pool.name == pool) else { return };
        let id = JobId::warm(rand::random());
        tracing::info!(task = %id, pool, "launching a warm task");
        let (host, settings, task) = (Arc::clone(self.host), kept.settings.clone(), id.clone());
        let work = async move { launch(&host, &settings, task).await };
        self.drive((&id, pool, false), work);
    }

    /// Retires a task, unless a job claims it at this moment.
    fn retire(&mut self, id: &JobId, why: Retirement) {
        // The lease of a launch that this process drives is free when that has been dropped, which
        // is another turn.
        if let Some(driven) = self.driven(id) {
            if !driven.is_retired {
                driven.handle.abort();
            }
            return;
        }
        let retired = self.driven.values().filter(|driven| driven.is_retired).count();
        if self.held.contains_key(id) || retired >= RETIRED_AT_ONCE {
            return;
        }
        let words = diagnosis::stop_reason(&StopReason::Retired(why));
        tracing::info!(task = %id, "retiring a warm task: {words}");
        let (host, task) = (Arc::clone(self.host), id.clone());
        self.drive((id, "", true), async move { retire(&host, &task, why).await });
    }

    fn drive(
        &mut self,
        (task, pool, is_retired): (&JobId, &str, bool),
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        let handle = self.work.spawn(work);
        let (task, pool, began) = (task.clone(), pool.to_owned(), Timestamp::now());
        self.driven.insert(handle.id(), Driven { task, pool, is_retired, began, handle });
    }

    /// Records what came of a launch, or of a retirement.
    fn record(&mut self, done: Result<(Id, Done), JoinError>) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(driven) = self.driven.remove(&id) else { return };
        let Driven { task, pool, is_retired, began, .. } = driven;
        let done = match done {
            Ok((_, done)) => done,
            Err(e) => {
                if e.is_panic() {
                    tracing::error!(task = %task, pool, "the launch of a warm task has panicked");
                }
                return;
            }
        };
        let attempt = (began, Timestamp::now());
        match done {
            Ok(Launched::Ready(_)) => {
                tracing::info!(task = %task, pool, "a warm task is ready");
                self.states.refusals = Setbacks::default();
                if let Some(state) = self.state(&pool) {
                    state.recover();
                }
            }
            Ok(Launched::Refused(_, error)) => {
                tracing::info!(task = %task, pool, "ECS does not launch a warm task now: {error}");
                self.stopped.insert(task);
                self.states.refusals.add(attempt);
                if let Some(state) = self.state(&pool) {
                    state.obstacle = Some(error);
                }
            }
            Ok(Launched::Failed(..)) if is_retired => {
                self.stopped.insert(task);
            }
            // A person stopped it.
            Ok(Launched::Failed(_, StopReason::Asked(_))) => {
                self.stopped.insert(task);
            }
            Ok(Launched::Failed(_, reason)) => {
                let why = diagnosis::stop_reason(&reason);
                tracing::warn!(task = %task, pool, "a warm task did not start: {why}");
                self.stopped.insert(task);
                if let Some(state) = self.state(&pool) {
                    state.failures.add(attempt);
                    state.failure = Some(reason);
                }
            }
            Ok(Launched::Gone(_) | Launched::Unsettled(_)) => self.hold(task),
            Err(e) => {
                tracing::warn!(task = %task, pool, "the work on a warm task has failed: {e}");
                self.hold(task);
                if let Some(state) = self.state(&pool) {
                    state.failures.add(attempt);
                }
            }
        }
    }

    fn hold(&mut self, task: JobId) {
        self.held.insert(task, Instant::now() + HELD);
    }

    fn state(&mut self, pool: &str) -> Option<&mut PoolState> {
        self.states.pools.iter_mut().find(|state| state.name == pool)
    }

    /// What stands in the way of launches, apart from jobs.
    fn pressure(&self) -> Pressure {
        let failures = self.states.pools.iter().map(|state| (state.name.clone(), state.failures));
        Pressure {
            is_job_launching: false,
            refusals: self.states.refusals,
            failures: failures.collect(),
        }
    }
}

/// What is found out about pools and tasks, and done with tasks.
impl Keeper<'_> {
    /// Asks ECS about the tasks that wait, and about the newest revisions, once a minute. First about
    /// the revisions: a task that waits was launched before, so it cannot be of a newer one.
    async fn ask(&mut self, found: &[WarmTask]) {
        let waiting: Vec<&WarmTask> = found.iter().filter(|task| task.ready.is_some()).collect();
        let is_due = self.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if !is_due || waiting.is_empty() {
            return;
        }
        self.asked = Some(Instant::now());
        let control = self.host.engine.control();
        for kept in &mut self.pools {
            let Some((spec, _)) = &kept.launch else { continue };
            if waiting.iter().all(|task| task.pool != kept.pool.name) {
                continue;
            }
            match control.newest_definition(spec).await {
                Ok(newest) => kept.newest = newest,
                Err(e) => {
                    kept.newest = None;
                    let pool = &kept.pool.name;
                    if std::mem::replace(&mut kept.is_unknown, true) {
                        tracing::debug!(pool, "{e}");
                    } else {
                        tracing::warn!(
                            pool,
                            "the newest revision of the task definition is not known, so tasks of older ones stay: {e}"
                        );
                    }
                }
            }
        }
        match self.describe(&waiting).await {
            Ok(ended) => {
                for id in ended {
                    self.retire(&id, Retirement::Unusable);
                }
            }
            Err(e) => tracing::debug!("warm tasks are described again later: {e}"),
        }
    }

    /// Describes the tasks that wait, and notes their definitions. Returns those that have ended.
    async fn describe(&mut self, waiting: &[&WarmTask]) -> Result<Vec<JobId>, ControlError> {
        let mut clusters: HashMap<&str, Vec<TaskArn>> = HashMap::new();
        for found in waiting {
            clusters.entry(&found.cluster).or_default().extend(found.task.clone());
        }
        let (mut ended, mut definitions) = (Vec::new(), HashMap::new());
        for (cluster, tasks) in clusters {
            for some in tasks.chunks(AT_ONCE) {
                let control = self.host.engine.control();
                for (described, definition) in
                    control.describe_with_definitions(cluster, some).await?
                {
                    let has_ended = |ready: Timestamp| match &described.seen {
                        Seen::Task(report) => report.stop_desired || report.status.is_ending(),
                        // ECS may not show a new one yet.
                        Seen::Missing => Timestamp::now().since(ready) > ASK_EVERY,
                    };
                    let waits = waiting.iter().find(|of| of.task.as_ref() == Some(&described.task));
                    if let Some(task) = waits
                        && task.ready.is_some_and(has_ended)
                    {
                        ended.push(task.id.clone());
                    }
                    definitions.extend(definition.map(|definition| (described.task, definition)));
                }
            }
        }
        self.definitions = definitions;
        Ok(ended)
    }

    /// Returns the tasks for the plan: those with snapshots, and launches that have none yet.
    fn tasks(&self, found: &[WarmTask]) -> Vec<Task> {
        let mut tasks: Vec<Task> = found
            .iter()
            // One that ends is no task of its pool. What came of a launch is recorded first.
            .filter(|found| match self.driven(&found.id) {
                Some(driven) => !driven.is_retired,
                None => found.state != StateName::Stopping,
            })
            .map(|found| Task {
                id: found.id.clone(),
                pool: found.pool.clone(),
                created: found.created,
                is_ready: found.ready.is_some(),
                is_current: self.is_current(found),
            })
            .collect();
        for driven in self.driven.values().filter(|driven| !driven.is_retired) {
            if found.iter().all(|found| found.id != driven.task) {
                tasks.push(Task {
                    id: driven.task.clone(),
                    pool: driven.pool.clone(),
                    created: Timestamp::now(),
                    is_ready: false,
                    is_current: true,
                });
            }
        }
        tasks
    }

    fn driven(&self, task: &JobId) -> Option<&Driven> {
        self.driven.values().find(|driven| driven.task == *task)
    }

    /// Whether its pool would launch the same task now.
    fn is_current(&self, found: &WarmTask) -> bool {
        let Some(kept) = self.pools.iter().find(|kept| kept.pool.name == found.pool) else {
            return true;
        };
        let is_newest = || {
            let definition = found.task.as_ref().and_then(|task| self.definitions.get(task));
            match (&kept.newest, definition) {
                (Some(newest), Some(definition)) => newest.is(definition),
                _ => true,
            }
        };
        kept.launch.as_ref().is_some_and(|(_, fit)| *fit == found.fit) && is_newest()
    }

    /// Records what keeps the pools from being full, if that has changed.
    fn report(&mut self, tasks: &[Task], wanted: &HashMap<String, u32>, now: Timestamp) {
        for state in &mut self.states.pools {
            let ready = tasks.iter().filter(|task| task.pool == state.name && task.is_ready);
            let wanted = wanted.get(&state.name).copied().unwrap_or_default();
            let is_short = u32::try_from(ready.count()).is_ok_and(|ready| ready < wanted);
            state.short_since = is_short.then(|| state.short_since.unwrap_or(now));
        }
        if self.states.pools.is_empty() || self.reported.as_ref() == Some(&self.states) {
            return;
        }
        match self.states.write(&self.host.config.metadata.directory) {
            Ok(()) => self.reported = Some(self.states.clone()),
            Err(e) => tracing::warn!("the state of the pools cannot be written: {e}"),
        }
    }
}

async fn names(host: &Host) -> BTreeSet<JobId> {
    host.engine.store().warm_tasks().await.unwrap_or_default().into_iter().collect()
}

/// Returns when other warm tasks have snapshots than those that were `known`. Those that are `driven`
/// here do not count.
async fn changes(host: &Host, known: &BTreeSet<JobId>, driven: &BTreeSet<JobId>) {
    loop {
        sleep(POLL).await;
        if names(host).await.symmetric_difference(known).any(|id| !driven.contains(id)) {
            return;
        }
    }
}
