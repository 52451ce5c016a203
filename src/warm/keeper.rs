//! Keeps the pools of warm tasks in the service: looks at the tasks, lets the [plan](super::plan)
//! decide, and does what it says.
//!
//! The tasks' snapshots have all that matters, and a file has how to go on after failures. So a
//! service that is restarted keeps the tasks, finishes launches that were interrupted, and does not
//! launch more often than one that runs.

mod inquiry;
mod ongoing;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use states::{
    Fit, JobId, LaunchSpec, Retirement, SnapshotStore as _, StateName, StoreError, Timestamp,
};
use tokio::time::{Instant, sleep, sleep_until};

use self::{inquiry::Inquiry, ongoing::Ongoing};
use super::{
    LaunchError, WarmTask,
    demand::{LaunchingJobs, on_file_thread},
    finish_claims, look,
    plan::{self, Pool, Pressure, Setbacks, Task},
    pool_state::{PoolState, PoolStates},
};
use crate::{config::Warm, host::Host, launch::pool};

/// How often the directory's names are compared: other processes claim tasks, too.
const POLL: Duration = Duration::from_secs(1);
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
}

struct Keeper<'a> {
    host: &'a Arc<Host>,
    pools: Vec<Kept>,
    ongoing: Ongoing,
    inquiry: Inquiry,
    states: PoolStates,
    /// What the file has.
    reported: Option<PoolStates>,
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
            Kept { pool, settings: settings.clone(), launch }
        });
        Self {
            pools: pools.collect(),
            host,
            ongoing: Ongoing::new(host),
            inquiry: Inquiry::default(),
            states,
            reported: None,
            jobs: LaunchingJobs::default(),
        }
    }

    async fn run(&mut self) {
        loop {
            let known = names(self.host).await;
            self.ongoing.release_held();
            let again = match self.turn().await {
                Ok(again) => Instant::now() + again.since(Timestamp::now()),
                Err(e) => {
                    tracing::warn!("the pools of warm tasks are not kept: {e}");
                    Instant::now() + AFTER_ERROR
                }
            };
            let again = self.ongoing.next_release().map_or(again, |release| again.min(release));
            let driven = self.ongoing.tasks();
            tokio::select! {
                () = self.ongoing.next(&mut self.states) => {}
                () = self.host.claimed.notified() => {}
                () = changes(self.host, &known, &driven) => {}
                () = sleep_until(again) => {}
            }
        }
    }

    /// Does once what the pools need. Returns when to do it again.
    async fn turn(&mut self) -> Result<Timestamp, StoreError> {
        let found = self.look().await?;
        for ended in self.inquiry.ask(self.host.engine.control(), &self.pools, &found).await {
            self.ongoing.retire(&ended, Retirement::Unusable);
        }
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
            self.ongoing.retire(id, *why);
        }
        let ends = |task: &WarmTask| plan.retirements.iter().any(|(id, _)| *id == task.id);
        for task in found.iter().filter(|task| !ends(task)) {
            self.ongoing.resume(task);
        }
        for name in &plan.launches {
            if let Some(kept) = self.pools.iter().find(|kept| kept.pool.name == *name) {
                self.ongoing.launch(name, &kept.settings);
            }
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
        self.ongoing.leave_out_stopped(&mut found);
        let is_accepted = |task: &WarmTask| {
            !matches!(task.state, StateName::Provisioning | StateName::Stopping)
                && self.states.refusals.last.is_some_and(|last| last < task.created)
        };
        if found.iter().any(is_accepted) {
            self.states.refusals = Setbacks::default();
        }
        Ok(found)
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

    /// Returns the tasks for the plan: those with snapshots, and launches that have none yet.
    fn tasks(&self, found: &[WarmTask]) -> Vec<Task> {
        let mut tasks: Vec<Task> = found
            .iter()
            // One that ends is no task of its pool. What came of a launch is recorded first.
            .filter(|found| match self.ongoing.with(&found.id) {
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
        let is_new = |task: &JobId| found.iter().all(|found| found.id != *task);
        let new = self.ongoing.launches().filter(|driven| is_new(&driven.task));
        tasks.extend(new.map(|driven| Task {
            id: driven.task.clone(),
            pool: driven.pool.clone(),
            created: Timestamp::now(),
            is_ready: false,
            is_current: true,
        }));
        tasks
    }

    /// Whether its pool would launch the same task now.
    fn is_current(&self, found: &WarmTask) -> bool {
        let Some(kept) = self.pools.iter().find(|kept| kept.pool.name == found.pool) else {
            return true;
        };
        kept.launch.as_ref().is_some_and(|(_, fit)| *fit == found.fit)
            && self.inquiry.is_newest(found)
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
