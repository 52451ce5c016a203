//! Decides what a manager's pools of warm tasks need next. No I/O, and no clock.
//!
//! - A pool is refilled at once. Its refills yield to launches of jobs, and to refusals by ECS for
//!   which waiting helps: throttling, quotas, missing capacity. Then one launch at a time is tried,
//!   more and more rarely.
//! - A pool whose tasks do not start is tried likewise, and does not hinder others.
//! - A task that is too old is replaced before it is retired, one at a time in each pool.
//! - If more tasks are ready than wanted, the oldest is retired first.
//! - Tasks that no job could use any more are retired at once.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};
use states::{JobId, Pace, Retirement, Timestamp};

use crate::{
    config::{Config, Warm},
    schedule::{self, Window},
};

/// Launches that are begun at once, at most. RunTask admits 20 per second and account in most
/// regions (Amazon ECS service quotas, "Fargate task launch rate"), and jobs need it, too.
const AT_ONCE: usize = 5;
/// The next launches come after so long.
const TURN: Duration = Duration::from_secs(1);
/// Without anything to wait for, the pools are looked at again after so long.
const LONGEST: Duration = Duration::from_secs(60);
/// Tasks that a pool may have beyond what is wanted, to replace those that are too old.
const REPLACEMENTS: usize = 1;
/// Between two launches that ECS refused, of all pools.
const AFTER_REFUSALS: Pace =
    Pace { first: Duration::from_secs(5), longest: Duration::from_secs(5 * 60), growth: 200 };
/// Between two launches of a pool whose tasks did not start.
const AFTER_FAILURES: Pace =
    Pace { first: Duration::from_secs(10), longest: Duration::from_secs(10 * 60), growth: 200 };

/// A pool, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How many tasks it keeps outside the windows.
    pub count: u32,
    /// Its schedule.
    pub windows: Vec<Window>,
    /// The age at which a task is replaced.
    pub max_age: Duration,
}

impl Pool {
    /// Returns the pool of these settings.
    #[must_use]
    pub fn of(config: &Config, settings: &Warm) -> Self {
        Self {
            name: config.pool_name(settings),
            count: settings.count,
            windows: settings.schedule.clone(),
            max_age: settings.max_age,
        }
    }

    /// How many tasks it keeps ready at a time, and when that changes next.
    #[must_use]
    pub fn wanted(&self, at: Timestamp) -> (u32, Option<Timestamp>) {
        schedule::wanted(self.count, &self.windows, at)
    }
}

/// A warm task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its id.
    pub id: JobId,
    /// The name of its pool.
    pub pool: String,
    /// When its launch began.
    pub created: Timestamp,
    /// Whether a job could claim it; otherwise it is being launched.
    pub is_ready: bool,
    /// Whether a task that its pool launches now would be the same.
    pub is_current: bool,
}

/// How something fails again and again. It is over with the first success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Setbacks {
    /// How many in sequence.
    pub count: u32,
    /// When the last one was.
    pub last: Option<Timestamp>,
}

impl Setbacks {
    /// Counts one more: an attempt that began and failed at these times. Attempts that began before
    /// the last failure were side by side with it, and count as one.
    pub(super) fn add(&mut self, (began, failed): (Timestamp, Timestamp)) {
        if self.last.is_none_or(|last| began >= last) {
            self.count = self.count.saturating_add(1);
        }
        self.last = Some(failed);
    }

    /// The same if the clock was set back to `now` since: no wait begins later.
    pub(super) fn until_now(self, now: Timestamp) -> Self {
        Self { last: self.last.map(|last| last.min(now)), ..self }
    }

    /// When the next attempt may be made. The times of others of the same `pace` differ by `name`.
    fn until(&self, pace: &Pace, name: &str) -> Option<Timestamp> {
        Some(self.last? + pace.interval_for(self.count.saturating_sub(1), name))
    }
}

/// What stands in the way of launches.
#[derive(Debug, Clone, Default)]
pub(super) struct Pressure {
    /// Whether a job waits for ECS to accept its launch.
    pub is_job_launching: bool,
    /// Launches that ECS refused, with an error for which waiting helps.
    pub refusals: Setbacks,
    /// Tasks that did not start, by pool.
    pub failures: HashMap<String, Setbacks>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The pools of which a task is to be launched: a name for each task.
    pub launches: Vec<String>,
    /// The tasks that are to end.
    pub retirements: Vec<(JobId, Retirement)>,
    /// When to plan again, if nothing changes before.
    pub again: Timestamp,
    /// How many tasks each pool is to have ready now.
    pub wanted: HashMap<String, u32>,
}

/// A pool with its tasks that can stay.
struct Tended<'a> {
    pool: &'a Pool,
    /// The ready ones, the oldest first.
    ready: Vec<&'a Task>,
    /// The ones that start, the oldest first.
    starting: Vec<&'a Task>,
    wanted: usize,
    missing: usize,
}

/// Plans what all pools need now.
#[must_use]
pub(super) fn plan(now: Timestamp, pools: &[Pool], tasks: &[Task], pressure: &Pressure) -> Plan {
    let mut plan = Plan {
        launches: Vec::new(),
        retirements: Vec::new(),
        again: now + LONGEST,
        wanted: HashMap::new(),
    };
    for task in tasks {
        let why = if pools.iter().all(|pool| pool.name != task.pool) {
            Retirement::NoPool
        } else if task.is_current {
            continue;
        } else {
            Retirement::Outdated
        };
        plan.retirements.push((task.id.clone(), why));
    }
    let mut tended: Vec<Tended<'_>> =
        pools.iter().map(|pool| tend(pool, tasks, now, &mut plan)).collect();
    launch(&mut tended, pressure, now, &mut plan);
    plan
}

/// Retires what one pool has too much, and counts what it lacks.
fn tend<'a>(pool: &'a Pool, tasks: &'a [Task], now: Timestamp, plan: &mut Plan) -> Tended<'a> {
    let (wanted, change) = pool.wanted(now);
    plan.wanted.insert(pool.name.clone(), wanted);
    plan.again = plan.again.min(change.unwrap_or(plan.again));
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut own: Vec<&Task> =
        tasks.iter().filter(|task| task.pool == pool.name && task.is_current).collect();
    own.sort_by_key(|task| (task.created, &task.id));
    let (mut ready, mut starting): (Vec<&Task>, Vec<&Task>) =
        own.into_iter().partition(|task| task.is_ready);
    let is_aged = |task: &&Task| now.since(task.created) >= pool.max_age;
    let surplus = ready.len().saturating_sub(wanted);
    for task in ready.drain(..surplus) {
        let why = if is_aged(&task) { Retirement::Aged } else { Retirement::Surplus };
        plan.retirements.push((task.id.clone(), why));
    }
    let aged = ready.iter().filter(|task| is_aged(task)).count();
    for task in &ready {
        let due = task.created + pool.max_age;
        if due > now {
            plan.again = plan.again.min(due);
        }
    }
    let enough = wanted + aged.min(REPLACEMENTS);
    let room = enough.saturating_sub(ready.len());
    for task in starting.drain(room.min(starting.len())..) {
        plan.retirements.push((task.id.clone(), Retirement::Surplus));
    }
    let missing = room - starting.len();
    Tended { pool, ready, starting, wanted, missing }
}

/// Launches what is missing, unless something stands in the way. Each pool gets one task in turn. The
/// pools with the smallest part of what they want come first.
fn launch(tended: &mut [Tended<'_>], pressure: &Pressure, now: Timestamp, plan: &mut Plan) {
    if tended.iter().all(|pool| pool.missing == 0) {
        return;
    }
    let soon = now + TURN;
    if pressure.is_job_launching {
        plan.again = plan.again.min(soon);
        return;
    }
    if let Some(until) = pressure.refusals.until(&AFTER_REFUSALS, "refusals") {
        // One of all pools is the attempt that shows whether it is over.
        let is_tried = tended.iter().any(|pool| !pool.starting.is_empty());
        if now < until || is_tried {
            plan.again = plan.again.min(until.max(soon));
            return;
        }
    }
    let mut free = if pressure.refusals.count > 0 { 1 } else { AT_ONCE };
    for pool in tended.iter_mut() {
        let Some(failures) = pressure.failures.get(&pool.pool.name) else { continue };
        let Some(until) = failures.until(&AFTER_FAILURES, &pool.pool.name) else { continue };
        if now < until {
            plan.again = plan.again.min(until);
            pool.missing = 0;
        } else {
            pool.missing = pool.missing.min(usize::from(pool.starting.is_empty()));
        }
    }
    tended.sort_by_key(|pool| {
        let there = pool.ready.len() + pool.starting.len();
        (there * 1000 / pool.wanted.max(1), Reverse(pool.missing))
    });
    while free > 0 {
        let before = free;
        for pool in tended.iter_mut().filter(|pool| pool.missing > 0).take(free) {
            plan.launches.push(pool.pool.name.clone());
            pool.missing -= 1;
            free -= 1;
        }
        if free == before {
            return;
        }
    }
    plan.again = plan.again.min(soon);
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
