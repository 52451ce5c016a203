//! What was observed, in order: bounded, and exact enough to replay.

use serde::{Deserialize, Serialize};

use crate::{AnyJob, Header, Job, Observation, Timestamp};

/// Entries kept. A job of a dozen stages makes some eighty.
const LONGEST: usize = 600;
/// A repetition is merged into an equal entry among this many last ones: while we wait, asking ECS
/// and knocking at the container alternate.
const WINDOW: usize = 4;

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
    /// What was observed; of progress, the latest.
    pub saw: Observation,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// When it was last observed, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
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
    /// be merged with an equal one just before it.
    pub fn record(&mut self, saw: Observation, at: Timestamp, changed: bool) {
        if !changed {
            let earlier = self.entries.iter_mut().rev().take(WINDOW).find(|entry| saw.repeats(&entry.saw));
            if let Some(entry) = earlier {
                entry.times = entry.times.saturating_add(1);
                entry.last = Some(at);
                entry.saw = saw;
                return;
            }
        }
        self.entries.push(Entry { at, saw, times: 1, last: None });
        if self.entries.len() > LONGEST {
            // The beginning and the end tell most: the middle goes.
            self.entries.remove(LONGEST / 2);
            self.omitted += 1;
        }
    }

    /// Every observation with its time, as it happened: repetitions are placed at their last time.
    #[must_use]
    pub fn unfold(&self) -> Vec<(Timestamp, Observation)> {
        let mut all: Vec<(Timestamp, Observation)> = Vec::new();
        for entry in &self.entries {
            all.push((entry.at, entry.saw.clone()));
            if let Some(last) = entry.last {
                all.extend((1..entry.times).map(|_| (last, entry.saw.clone())));
            }
        }
        all.sort_by_key(|(at, _)| *at);
        all
    }

    /// The state that today's machine reaches from the beginning through this journal.
    #[must_use]
    pub fn replay(&self, header: Header) -> AnyJob {
        let mut job = AnyJob::from(Job::new(header));
        let created = job.header().created;
        job.plan(created);
        for (at, saw) in self.unfold() {
            job = job.observe(&saw, at);
            job.plan(at);
        }
        job
    }
}
