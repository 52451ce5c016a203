//! A job on disk: its state and journal, with a version, as RON that an engineer can read.

use std::sync::Arc;

use ron::ser::PrettyConfig;
use serde::{Deserialize, Serialize};

use crate::{
    Action, AnyJob, Header, Job, Journal, Observation, Reachable, Replay, RunOutcome, Timestamp,
    journal::StateDigest,
};

/// The format's version. A change of the format raises it and adds a migration and a fixture.
/// Version 2 has facts instead of sentences in errors, in the reason of a stop and in a lost run's
/// outcome.
pub const VERSION: u32 = 2;
/// The oldest version that is read.
const OLDEST: u32 = 1;

/// The largest snapshot that is written or read, in bytes. A job of a dozen stages takes some
/// 10,000.
pub const MAX_BYTES: u64 = 1024 * 1024;
/// The number of levels that are written with line breaks.
const DEPTH: usize = 7;

/// A job with its journal. It holds no secret: the private key is in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The format's version; [`VERSION`] once the snapshot is loaded.
    pub version: u32,
    /// The job.
    pub job: AnyJob,
    /// What was observed.
    pub journal: Journal,
}

/// Why a text cannot be read as a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// Written by a newer driver.
    #[error(
        "it has format version {0}, and this fargate knows {VERSION} at most: it was written by a newer one"
    )]
    Newer(u32),
    /// It is larger than any that a driver writes.
    #[error("it is larger than {} MiB, and no snapshot is", MAX_BYTES / 1024 / 1024)]
    TooLarge,
    /// It is damaged, or not a snapshot.
    #[error("it is not a whole snapshot: {0}")]
    Damaged(String),
}

impl Snapshot {
    /// A new job.
    #[must_use]
    pub fn new(header: impl Into<Arc<Header>>) -> Self {
        Self { version: VERSION, job: Job::new(header).into(), journal: Journal::default() }
    }

    /// Observes and journals `saw`, and returns what to do next.
    pub fn step(&mut self, saw: Observation, now: Timestamp) -> Action {
        let before = self.job.name();
        // The machine consumes the state. It gets a clone, as moving out of `&mut self` would leave
        // a hole if a transition panicked.
        self.job = self.job.clone().observe(&saw, now);
        let action = self.job.plan(now);
        self.journal.record(saw, now, self.job.name() != before, StateDigest::of(&self.job));
        action
    }

    /// Returns what to do next without a new observation. If time alone changes the state, that is
    /// journaled as `TimePassed`: a replay has no other moments.
    pub fn plan(&mut self, now: Timestamp) -> Action {
        let mut ahead = self.job.clone();
        let action = ahead.plan(now);
        if ahead == self.job { action } else { self.step(Observation::TimePassed, now) }
    }

    /// Writes the snapshot as RON, for people and for [`Snapshot::parse`].
    ///
    /// # Errors
    /// The serializer's. There are none for data from the machine.
    pub fn to_ron(&self) -> Result<String, ron::Error> {
        let style = PrettyConfig::new()
            .depth_limit(DEPTH)
            .separate_tuple_members(false)
            .compact_arrays(false);
        ron::ser::to_string_pretty(self, style)
    }

    /// As [`Snapshot::to_ron`], in at most [`MAX_BYTES`]: drops entries from the middle of a larger
    /// journal.
    ///
    /// This is the last line of defence, as foreign text is clipped before it is journaled. The
    /// job's state, which ends the task, is always written completely.
    ///
    /// # Errors
    /// When the job is larger even without a journal; otherwise the serializer's.
    pub(crate) fn to_bounded_ron(&self) -> Result<String, ron::Error> {
        let fits = |text: &str| text.len() as u64 <= MAX_BYTES;
        let mut text = self.to_ron()?;
        if fits(&text) {
            return Ok(text);
        }
        let mut shorter = self.clone();
        while !shorter.journal.entries.is_empty() {
            shorter.journal.keep_only(shorter.journal.entries.len() / 2);
            text = shorter.to_ron()?;
            if fits(&text) {
                let (kept, omitted) = (shorter.journal.entries.len(), shorter.journal.omitted);
                tracing::warn!(
                    kept,
                    omitted,
                    "the snapshot is too large: entries of its journal were left out"
                );
                return Ok(text);
            }
        }
        Err(ron::Error::Message(format!(
            "it would have {} bytes without its journal, and at most {MAX_BYTES} are written",
            text.len()
        )))
    }

    /// Parses the bytes of a snapshot's file. To recognize one that is too large, [`MAX_BYTES`] and
    /// one more byte are enough.
    ///
    /// # Errors
    /// As [`Snapshot::parse`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, BadSnapshot> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(BadSnapshot::TooLarge);
        }
        Self::parse(&String::from_utf8(bytes).map_err(|e| BadSnapshot::Damaged(e.to_string()))?)
    }

    /// Parses what [`Snapshot::to_ron`] of any driver wrote. The text may be damaged.
    ///
    /// # Errors
    /// [`BadSnapshot`] for anything other than a complete snapshot of a known version.
    pub fn parse(text: &str) -> Result<Self, BadSnapshot> {
        if text.len() as u64 > MAX_BYTES {
            return Err(BadSnapshot::TooLarge);
        }
        /// Only the version, to distinguish a newer format from a damaged file. It is read only then:
        /// it takes half as long as all.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: ron::error::SpannedError| BadSnapshot::Damaged(e.to_string());
        let snapshot: Result<Self, _> = ron::from_str(text);
        let version = match &snapshot {
            Ok(snapshot) => snapshot.version,
            Err(_) => ron::from_str::<Versioned>(text).map_err(damaged)?.version,
        };
        if version > VERSION {
            return Err(BadSnapshot::Newer(version));
        }
        if version < OLDEST {
            return Err(BadSnapshot::Damaged(format!("format version {version} never existed")));
        }
        let snapshot = snapshot.map_err(damaged)?;
        Ok(if version == VERSION { snapshot } else { snapshot.migrated() })
    }

    /// Migrates version 1, which has sentences where version 2 has facts. A replay of the journal
    /// finds the facts, unless too many entries were omitted. Then the sentences stay.
    fn migrated(mut self) -> Self {
        let today = {
            let mut replay = Replay::new(&self);
            replay.go_to(usize::MAX);
            replay.job().clone()
        };
        match (&mut self.job, &today) {
            (AnyJob::Stopping(job), AnyJob::Stopping(today)) => {
                job.state.reason.learn_facts(&today.state.reason);
            }
            (AnyJob::Reachable(job), AnyJob::Reachable(today)) => {
                learn_outcome(&mut job.state, &today.state);
            }
            (AnyJob::Executing(job), AnyJob::Executing(today)) => {
                learn_outcome(&mut job.state.place, &today.state.place);
            }
            _ => {}
        }
        self.version = VERSION;
        self
    }
}

/// Takes the last run's outcome from a replay if an older driver recorded a sentence.
fn learn_outcome(state: &mut Reachable, today: &Reachable) {
    if let (Some(last), Some(today)) = (&mut state.last, &today.last)
        && last.run == today.run
        && matches!(last.outcome, RunOutcome::Lost(_))
        && !matches!(today.outcome, RunOutcome::Exited { .. })
    {
        last.outcome = today.outcome.clone();
    }
}
