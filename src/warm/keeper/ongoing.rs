//! What this process does with warm tasks at this moment.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use states::{JobId, Retirement, StateName, StopReason, Timestamp};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};

use super::super::{
    LaunchError, Launched, WarmTask, launch,
    plan::Setbacks,
    pool_state::{PoolState, PoolStates},
    resume, retire,
};
use crate::{config::Warm, host::Host};

/// Tasks that are retired at the same time: StopTask has a rate for the whole account.
const RETIRED_AT_ONCE: usize = 10;
/// How long a task is left alone that another process works on.
const HELD: Duration = Duration::from_secs(2);

type Done = Result<Launched, LaunchError>;

/// What this process does with one task.
pub(super) struct Driven {
    pub(super) task: JobId,
    pub(super) pool: String,
    /// Whether it is retired. Otherwise it is launched.
    pub(super) is_retired: bool,
    began: Timestamp,
    handle: AbortHandle,
}

/// Launches and retirements that this process drives. They end when it is dropped.
pub(super) struct Ongoing {
    host: Arc<Host>,
    work: JoinSet<Done>,
    driven: HashMap<Id, Driven>,
    /// Tasks that ECS has accepted to stop.
    stopped: HashSet<JobId>,
    /// Tasks that another process has worked on, and until when they are left alone.
    held: HashMap<JobId, Instant>,
}

impl Ongoing {
    pub(super) fn new(host: &Arc<Host>) -> Self {
        Self {
            host: Arc::clone(host),
            work: JoinSet::new(),
            driven: HashMap::new(),
            stopped: HashSet::new(),
            held: HashMap::new(),
        }
    }

    /// What it does with this task.
    pub(super) fn with(&self, task: &JobId) -> Option<&Driven> {
        self.driven.values().find(|driven| driven.task == *task)
    }

    /// The launches.
    pub(super) fn launches(&self) -> impl Iterator<Item = &Driven> {
        self.driven.values().filter(|driven| !driven.is_retired)
    }

    /// The tasks that are launched or retired.
    pub(super) fn tasks(&self) -> BTreeSet<JobId> {
        self.driven.values().map(|driven| driven.task.clone()).collect()
    }

    /// Leaves out the tasks that ECS has accepted to stop. Their snapshots are archived later.
    pub(super) fn leave_out_stopped(&mut self, found: &mut Vec<WarmTask>) {
        self.stopped.retain(|id| found.iter().any(|task| task.id == *id));
        found.retain(|task| !self.stopped.contains(&task.id));
    }

    /// No longer leaves those tasks alone whose time is over.
    pub(super) fn release_held(&mut self) {
        self.held.retain(|_, until| *until > Instant::now());
    }

    /// When a task is to be released next.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }

    /// Goes on with a launch, or with a retirement, that another process has begun.
    pub(super) fn resume(&mut self, task: &WarmTask) {
        let is_driven = self.with(&task.id).is_some();
        if task.state == StateName::Reachable || is_driven || self.held.contains_key(&task.id) {
            return;
        }
        tracing::debug!(task = %task.id, pool = task.pool, "going on with a warm task");
        let (host, id) = (Arc::clone(&self.host), task.id.clone());
        let is_retired = task.state == StateName::Stopping;
        let work = async move { resume(&host, &id).await };
        self.drive((&task.id, &task.pool, is_retired), work);
    }

    /// Launches a task for this pool.
    pub(super) fn launch(&mut self, pool: &str, settings: &Warm) {
        let id = JobId::warm(rand::random());
        tracing::info!(task = %id, pool, "launching a warm task");
        let (host, settings, task) = (Arc::clone(&self.host), settings.clone(), id.clone());
        let work = async move { launch(&host, &settings, task).await };
        self.drive((&id, pool, false), work);
    }

    /// Retires a task, unless a job claims it at this moment.
    pub(super) fn retire(&mut self, id: &JobId, why: Retirement) {
        // The lease of a launch that this process drives is free when that has been dropped, which
        // is another turn.
        if let Some(driven) = self.with(id) {
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
        let (host, task) = (Arc::clone(&self.host), id.clone());
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

    /// Waits until one of them is over, and records what came of it. Pending without any. Cancel-safe.
    pub(super) async fn next(&mut self, states: &mut PoolStates) {
        match self.work.join_next_with_id().await {
            Some(done) => self.record(done, states),
            None => std::future::pending().await,
        }
    }

    fn record(&mut self, done: Result<(Id, Done), JoinError>, states: &mut PoolStates) {
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
        // A pool that is gone has none, and a retirement may not name its pool.
        let mut none = PoolState::default();
        let state = states.pools.iter_mut().find(|state| state.name == pool).unwrap_or(&mut none);
        match done {
            Ok(Launched::Ready(_)) => {
                tracing::info!(task = %task, pool, "a warm task is ready");
                states.refusals = Setbacks::default();
                state.recover();
            }
            Ok(Launched::Refused(_, error)) => {
                tracing::info!(task = %task, pool, "ECS does not launch a warm task now: {error}");
                self.stopped.insert(task);
                states.refusals.add(attempt);
                state.obstacle = Some(error);
            }
            Ok(Launched::Failed(_, reason)) => {
                self.stopped.insert(task.clone());
                // A person stops tasks, too.
                if is_retired || matches!(reason, StopReason::Asked(_)) {
                    return;
                }
                let why = diagnosis::stop_reason(&reason);
                tracing::warn!(task = %task, pool, "a warm task did not start: {why}");
                state.failures.add(attempt);
                state.failure = Some(reason);
            }
            Ok(Launched::Gone(_) | Launched::Unsettled(_)) => self.hold(task),
            Err(e) => {
                tracing::warn!(task = %task, pool, "the work on a warm task has failed: {e}");
                self.hold(task);
                state.failures.add(attempt);
            }
        }
    }

    fn hold(&mut self, task: JobId) {
        self.held.insert(task, Instant::now() + HELD);
    }
}
