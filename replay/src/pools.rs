//! What came of pools of warm tasks: jobs that got a task and jobs that did not, and how long tasks
//! waited.

use std::time::Duration;

use diagnosis::words;
use serde::Serialize;
use states::Timestamp;

use crate::summary::PoolUse;

/// A pool, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PoolCounts {
    /// Jobs that claimed a warm task.
    pub hits: u64,
    /// Jobs that launched one, as none was ready.
    pub misses: u64,
    /// Warm tasks that no job claimed.
    pub unclaimed: u64,
    /// How long all its tasks waited for jobs, in milliseconds.
    pub idle_ms: u64,
}

impl PoolCounts {
    /// Counts one more.
    pub fn add(&mut self, part: &PoolUse<'_>) {
        let idle = match part {
            PoolUse::Hit { idle, .. } => {
                self.hits += 1;
                *idle
            }
            PoolUse::Missed { .. } => {
                self.misses += 1;
                0
            }
            PoolUse::Warm { idle, .. } => {
                self.unclaimed += 1;
                *idle
            }
        };
        self.idle_ms = self.idle_ms.saturating_add(idle);
    }

    /// The share of hits among the jobs that wanted a task, in percent; `None` without any.
    #[must_use]
    pub fn hit_rate(&self) -> Option<u64> {
        (self.hits * 100).checked_div(self.hits + self.misses)
    }

    /// Says it in a line.
    #[must_use]
    pub fn words(&self) -> String {
        let rate = self.hit_rate().map(|percent| format!(" ({percent} %)")).unwrap_or_default();
        format!(
            "{} hits{rate}, {} misses, {} tasks unclaimed, idle for {}",
            self.hits,
            self.misses,
            self.unclaimed,
            words::span(self.idle())
        )
    }

    /// How long all its tasks waited for jobs.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }
}

/// A pool's warm tasks that exist now, and what came of others while they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenPool {
    /// Tasks that wait for a job.
    pub ready: u64,
    /// Tasks that are being launched.
    pub starting: u64,
    /// How long those that are ready have waited, all together.
    pub waiting: Duration,
    /// What came of the others since the counting began.
    pub counts: PoolCounts,
}

impl OpenPool {
    /// Counts an open warm task; `since` is when it became ready.
    pub(crate) fn add(&mut self, ready: Option<Timestamp>, now: Timestamp) {
        match ready {
            Some(since) => {
                self.ready += 1;
                self.waiting += now.since(since);
            }
            None => self.starting += 1,
        }
    }
}
