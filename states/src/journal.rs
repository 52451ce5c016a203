//! The journal of a job's observations: bounded, and exact enough to replay.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{AnyJob, Header, Job, Observation, StateName, Timestamp};

/// The largest number of entries that are kept. A job of a dozen stages makes some eighty.
const LONGEST: usize = 600;
/// The largest size of the entries as JSON, in bytes. It is far more than an honest job's, and a
/// quarter of a snapshot's limit. Entries contain text from the container, and RON escapes
/// characters that JSON does not.
const LARGEST: usize = 256 * 1024;
/// A repetition is merged into an equal entry among this many last ones. While the driver waits,
/// descriptions of the task and probes of the container alternate.
const WINDOW: usize = 4;
/// The largest number of repetitions in one entry.
const REPETITIONS: usize = 250;
/// The largest size of a repetition as JSON, in bytes: a number and a comma.
const REPETITION_SIZE: usize = 21;

/// The observations of one job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    /// The observations, oldest first.
    pub entries: Vec<Entry>,
    /// How many entries were dropped from the middle because there were too many.
    #[serde(default)]
    pub omitted: u64,
    /// How many entries precede the omitted ones, if fewer than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_gap: Option<usize>,
    #[serde(skip)]
    size: Size,
}

/// The size of the entries; `None` until it is needed. It follows from them, so it plays no part in
/// comparisons.
#[derive(Debug, Clone, Default)]
struct Size(Option<usize>);

impl PartialEq for Size {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Size {}

/// An observation, or several that differ only in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was first observed.
    pub at: Timestamp,
    /// The observation; of progress, the farthest.
    pub saw: Observation,
    /// How many times.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// When it was last observed, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// The repetitions between the first and the last, in milliseconds after the first. Repetitions
    /// of progress are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<u64>,
    /// The state after the last of these observations. Older drivers did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<StateDigest>,
}

impl Entry {
    /// Its size as JSON, in bytes, which is counted faster than RON's.
    fn size(&self) -> usize {
        // Data from the machine can always be serialized.
        serde_json::to_vec(self).map_or(0, |text| text.len())
    }
}

/// A state's name and digest, recorded with every observation. A replay by another version of the
/// machine is compared with it. In a snapshot: `Pending 1-3f9a1c20`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct StateDigest {
    /// The state's name.
    pub state: StateName,
    /// `<shape>-<digest of the whole state>`: see [`StateDigest::of`].
    pub digest: String,
}

/// Version of the states' fields. Raise it when a state gains, loses or renames a field: digests of
/// different shapes cannot be compared. `docs/decisions/0024-a-journal-entry-notes-its-state.md`
/// says what each shape changed.
const SHAPE: u32 = 5;

impl From<StateDigest> for String {
    fn from(left: StateDigest) -> Self {
        format!("{} {}", left.state, left.digest)
    }
}

impl TryFrom<String> for StateDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (state, digest) =
            text.split_once(' ').ok_or_else(|| format!("{text:?} is no state and digest"))?;
        let state = ron::from_str(state).map_err(|_| format!("{state:?} is no state"))?;
        Ok(Self { state, digest: digest.to_owned() })
    }
}

impl StateDigest {
    /// The state's name and 32 bits of the SHA-256 of the state as RON.
    #[must_use]
    pub fn of(job: &AnyJob) -> Self {
        use sha2::{Digest, Sha256};
        let text = match job {
            AnyJob::Provisioning(job) => ron::to_string(&job.state),
            AnyJob::Pending(job) => ron::to_string(&job.state),
            AnyJob::Running(job) => ron::to_string(&job.state),
            AnyJob::Reachable(job) => ron::to_string(&job.state),
            AnyJob::Executing(job) => ron::to_string(&job.state),
            AnyJob::Stopping(job) => ron::to_string(&job.state),
        };
        // Data from the machine can always be serialized. A digest of nothing would only show as a
        // difference.
        let hash = Sha256::digest(text.unwrap_or_default());
        let digest =
            format!("{SHAPE}-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        Self { state: job.name(), digest }
    }

    /// Whether this may be the same state as `other`. Digests of different shapes are not compared.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.state == other.state && (self.digest == other.digest || self.shape() != other.shape())
    }

    /// Whether the driver that recorded it had states of today's shape.
    pub(crate) fn has_todays_shape(&self) -> bool {
        self.shape() == SHAPE.to_string()
    }

    fn shape(&self) -> &str {
        self.digest.split('-').next().unwrap_or_default()
    }
}

fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

/// One observation of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    /// Index of the entry.
    pub(crate) entry: usize,
    /// Whether it is the entry's last observation: the entry records the state after this one.
    pub(crate) last: bool,
}

impl Journal {
    /// Adds an observation and the state that it `left` the job in. An observation that `changed`
    /// the job's state is an entry of its own. Others may be merged with an equal one just before,
    /// in such a way that [`Journal::replay`] reaches the same state.
    pub fn record(&mut self, saw: Observation, at: Timestamp, changed: bool, left: StateDigest) {
        if !changed && let Some(growth) = self.merge(&saw, at, &left) {
            if growth > 0 {
                self.shorten(self.size() + growth);
            }
            return;
        }
        let entry = Entry { at, saw, times: 1, last: None, between: Vec::new(), left: Some(left) };
        let size = self.size() + entry.size();
        self.entries.push(entry);
        self.shorten(size);
    }

    /// Drops entries until the journal keeps to its limits. They are dropped from the middle, as
    /// the beginning and the end say most.
    fn shorten(&mut self, mut size: usize) {
        while self.entries.len() > LONGEST || (size > LARGEST && self.entries.len() > 1) {
            if self.omitted == 0 {
                let mut sum = 0;
                let fits = self.entries.iter().take_while(|entry| {
                    sum += entry.size();
                    sum <= LARGEST / 2
                });
                self.before_gap = Some(fits.count()).filter(|fits| *fits < LONGEST / 2);
            }
            self.omitted += 1;
            let whole = self.whole_until();
            let gap = whole.min(self.entries.len() - 2);
            size = size.saturating_sub(self.entries.remove(gap).size());
            if gap < whole {
                // What precedes the gap is too large by itself.
                self.before_gap = Some(gap);
            }
        }
        self.size = Size(Some(size));
    }

    fn size(&self) -> usize {
        self.size.0.unwrap_or_else(|| self.entries.iter().map(Entry::size).sum())
    }

    /// Keeps `keep` entries: as many from the beginning as from the end, or fewer from the
    /// beginning where a gap follows them already.
    pub(crate) fn keep_only(&mut self, keep: usize) {
        let gap = self.whole_until().min(keep / 2);
        let before = self.entries.len();
        let end = before - keep.min(before).saturating_sub(gap);
        self.entries.drain(gap..end);
        self.omitted += (before - self.entries.len()) as u64;
        self.before_gap = Some(gap);
        self.size = Size(None);
    }

    /// Entries before a gap: all of them, unless some were omitted.
    #[must_use]
    pub fn whole_until(&self) -> usize {
        if self.omitted == 0 {
            self.entries.len()
        } else {
            self.entries.len().min(self.before_gap.unwrap_or(LONGEST / 2))
        }
    }

    /// The number of entries and the time of the last observation. It changes with every
    /// observation.
    pub(crate) fn end(&self) -> Option<(usize, Timestamp)> {
        Some((self.entries.len(), self.newest()?))
    }

    fn newest(&self) -> Option<Timestamp> {
        self.entries.iter().map(|entry| entry.last.unwrap_or(entry.at)).max()
    }

    /// Notes an observation with an equal one before it, if that can be. The bytes that it takes.
    fn merge(&mut self, saw: &Observation, at: Timestamp, left: &StateDigest) -> Option<usize> {
        let newest = self.newest();
        // Times give the order of merged entries, so an observation that is not later than all
        // others is not merged.
        if newest.is_none_or(|newest| at <= newest) {
            return None;
        }
        if let Observation::Progress { offset } = saw {
            // Only the farthest offset matters, as long as nothing else came between.
            let Some(Entry {
                saw: Observation::Progress { offset: farthest },
                at: began,
                times,
                last,
                left: before,
                ..
            }) = self.entries.last_mut()
            else {
                return None;
            };
            // An observation that came between may have been merged with an earlier entry.
            if Some(last.unwrap_or(*began)) != newest {
                return None;
            }
            *before = Some(left.clone());
            *farthest = (*farthest).max(*offset);
            *times = times.saturating_add(1);
            *last = Some(at);
            return Some(0);
        }
        let mut latest = self.entries.iter_mut().rev().take(WINDOW);
        let entry = latest.find(|entry| entry.saw == *saw && entry.between.len() < REPETITIONS)?;
        if let Some(last) = entry.last.replace(at) {
            entry.between.push(last.as_millis() - entry.at.as_millis());
        }
        entry.times += 1;
        entry.left = Some(left.clone());
        Some(REPETITION_SIZE)
    }

    /// Every observation with its time, in order; of progress the first and the last.
    #[must_use]
    pub fn unfold(&self) -> Vec<(Timestamp, Observation)> {
        self.moments()
            .into_iter()
            .map(|moment| (moment.at, self.entries[moment.entry].saw.clone()))
            .collect()
    }

    /// Every observation's time and entry, in order; of progress the first and the last.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let mut all: Vec<Moment> = Vec::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let between =
                entry.between.iter().map(|after| entry.at + Duration::from_millis(*after));
            let times = std::iter::once(entry.at).chain(between).chain(entry.last);
            all.extend(times.map(|at| Moment { at, entry: number, last: false }));
            if let Some(newest) = all.last_mut() {
                newest.last = true;
            }
        }
        // A stable sort: observations of the same millisecond keep their order.
        all.sort_by_key(|moment| moment.at);
        all
    }

    /// The state that today's machine reaches through this journal. It is the job's own, unless
    /// entries were omitted or the clock was set back between two processes.
    #[must_use]
    pub fn replay(&self, header: impl Into<Arc<Header>>) -> AnyJob {
        let mut job = AnyJob::from(Job::new(header));
        for (at, saw) in self.unfold() {
            job = job.observe(&saw, at);
            job.plan(at);
        }
        job
    }
}
