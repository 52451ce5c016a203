//! What was observed, in order: bounded, and exact enough to replay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AnyJob, Header, Job, Observation, Timestamp};

/// Entries kept. A job of a dozen stages makes some eighty.
const LONGEST: usize = 600;
/// A repetition is merged into an equal entry among this many last ones: while we wait, asking ECS
/// and knocking at the container alternate.
const WINDOW: usize = 4;
/// Repetitions that one entry takes.
const REPETITIONS: usize = 250;

/// The observations of one job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    /// What was observed, oldest first.
    pub entries: Vec<Entry>,
    /// How many entries were left out of the middle because there were too many.
    #[serde(default)]
    pub omitted: u64,
}

/// An observation, or several that differ in nothing but their time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was first observed.
    pub at: Timestamp,
    /// What was observed; of progress, the farthest.
    pub saw: Observation,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// When it was last observed, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// The repetitions between the first and the last, in milliseconds after the first. Of progress none is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<u64>,
}

fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

impl Journal {
    /// Adds an observation. One that `changed` the job's state is an entry of its own; another may
    /// be merged with an equal one just before it, so that [`Journal::replay`] comes out the same.
    pub fn record(&mut self, saw: Observation, at: Timestamp, changed: bool) {
        if !changed && self.merge(&saw, at) {
            return;
        }
        self.entries.push(Entry { at, saw, times: 1, last: None, between: Vec::new() });
        if self.entries.len() > LONGEST {
            // The beginning and the end tell most: the middle goes.
            self.entries.remove(LONGEST / 2);
            self.omitted += 1;
        }
    }

    fn merge(&mut self, saw: &Observation, at: Timestamp) -> bool {
        let newest = self.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max();
        // Times tell the order of merged entries: one that is not later than all others stands by itself.
        if newest.is_none_or(|newest| at <= newest) {
            return false;
        }
        if let Observation::Progress { offset } = saw {
            // Only the farthest offset matters, but only as long as nothing else came between.
            let Some(Entry { saw: Observation::Progress { offset: farthest }, times, last, .. }) = self.entries.last_mut() else {
                return false;
            };
            *farthest = (*farthest).max(*offset);
            *times = times.saturating_add(1);
            *last = Some(at);
            return true;
        }
        let Some(entry) = self.entries.iter_mut().rev().take(WINDOW).find(|entry| entry.saw == *saw && entry.between.len() < REPETITIONS)
        else {
            return false;
        };
        if let Some(last) = entry.last.replace(at) {
            entry.between.push(last.as_millis() - entry.at.as_millis());
        }
        entry.times += 1;
        true
    }

    /// Every observation with its time, as it happened; of progress the first and the last time.
    #[must_use]
    pub fn unfold(&self) -> Vec<(Timestamp, Observation)> {
        let mut all: Vec<(Timestamp, Observation)> = Vec::new();
        for entry in &self.entries {
            let between = entry.between.iter().map(|after| entry.at + Duration::from_millis(*after));
            let times = std::iter::once(entry.at).chain(between).chain(entry.last);
            all.extend(times.map(|at| (at, entry.saw.clone())));
        }
        // Stable: what happened in the same millisecond keeps its order.
        all.sort_by_key(|(at, _)| *at);
        all
    }

    /// The state that today's machine reaches from the beginning through this journal: the job's own
    /// state, unless entries were omitted or the clock was set back between two processes.
    #[must_use]
    pub fn replay(&self, header: Header) -> AnyJob {
        let mut job = AnyJob::from(Job::new(header));
        for (at, saw) in self.unfold() {
            job = job.observe(&saw, at);
            job.plan(at);
        }
        job
    }
}
