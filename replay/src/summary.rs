//! A job in one line: what `list` and `stats` show of it, and what the archive's index keeps.

use std::{borrow::Cow, time::Duration};

use diagnosis::{
    Cause, Diagnosis, Surroundings,
    costs::{Bill, Peak},
    diagnose,
    timeline::{Timeline, number},
    words,
};
use serde::{Deserialize, Serialize};
use states::{PoolRole, RunOutcome, Snapshot, StateName, Timestamp};

use crate::holder;

/// How a job ended, for GitLab's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobVerdict {
    /// It is not over.
    Open,
    /// Its scripts ended with exit code 0.
    Success,
    /// A script of its own failed.
    Failed,
    /// It was cancelled or timed out.
    Cancelled,
    /// The driver, AWS or the network failed it.
    SystemFailure,
    /// It ended before it ran a script, and nothing failed.
    Unused,
}

impl JobVerdict {
    /// All verdicts, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Failed,
        Self::SystemFailure,
        Self::Cancelled,
        Self::Unused,
        Self::Open,
    ];

    /// Returns the verdict in one or two words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Success => "success",
            Self::Failed => "script failed",
            Self::Cancelled => "cancelled",
            Self::SystemFailure => "system failure",
            Self::Unused => "unused",
        }
    }
}

/// A job in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary<'a> {
    /// The project's URL.
    #[serde(borrow)]
    pub project: Cow<'a, str>,
    /// GitLab's pipeline id.
    #[serde(borrow)]
    pub pipeline: Cow<'a, str>,
    /// GitLab's job id; of a warm task, its own.
    #[serde(borrow)]
    pub job: Cow<'a, str>,
    /// The job's name.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The task definition.
    #[serde(borrow)]
    pub definition: Cow<'a, str>,
    /// When the job began, in milliseconds since the epoch.
    pub began: u64,
    /// When its last observation was made, likewise.
    pub newest: u64,
    /// Its state.
    pub state: StateName,
    /// When it entered that state, likewise.
    pub since: u64,
    /// How it ended.
    pub verdict: JobVerdict,
    /// The exit code of the script that failed the job, or 0.
    pub exit: Option<i32>,
    /// What is, or was, wrong.
    pub cause: Cause,
    /// Its last observation, clipped.
    #[serde(borrow)]
    pub last: Cow<'a, str>,
    /// The time in each of the six states, in milliseconds.
    pub totals: [u64; 6],
    /// The longest stay in each, in milliseconds.
    pub longest: [u64; 6],
    /// Its part in a pool of warm tasks.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolUse<'a>>,
    /// What its task is billed by, if that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill: Option<Bill>,
    /// The most that it used of its task, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<Peak>,
}

/// A job's part in a pool of warm tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolUse<'a> {
    /// It is a warm task, which no job has claimed.
    Warm {
        /// The pool's name.
        #[serde(borrow)]
        pool: Cow<'a, str>,
        /// How long it was, or has been, ready, in milliseconds.
        idle: u64,
    },
    /// It claimed a warm task.
    Hit {
        /// The pool's name.
        #[serde(borrow)]
        pool: Cow<'a, str>,
        /// How long the task had been ready, in milliseconds.
        idle: u64,
    },
    /// It launched its own task, as the pool had none ready.
    Missed {
        /// The pool's name.
        #[serde(borrow)]
        pool: Cow<'a, str>,
    },
}

impl PoolUse<'_> {
    /// The pool's name.
    #[must_use]
    pub fn pool(&self) -> &str {
        match self {
            Self::Warm { pool, .. } | Self::Hit { pool, .. } | Self::Missed { pool } => pool,
        }
    }
}

impl PoolUse<'static> {
    /// Returns the part of a job; `None` of a warm task.
    #[must_use]
    pub fn of_job(snapshot: &Snapshot) -> Option<Self> {
        let named = |pool: &String| Cow::Owned(pool.clone());
        if let Some(claim) = snapshot.claim() {
            let idle = snapshot.job.header().created.since(claim.ready);
            return Some(Self::Hit { pool: named(&claim.pool), idle: millis(idle) });
        }
        match snapshot.job.header().pool.as_ref()? {
            PoolRole::Missed { pool } => Some(Self::Missed { pool: named(pool) }),
            PoolRole::Warm(_) => None,
        }
    }

    fn of(snapshot: &Snapshot, timeline: &Timeline) -> Option<Self> {
        let Some(origin) = snapshot.job.header().warm() else { return Self::of_job(snapshot) };
        let idle = timeline.totals()[number(StateName::Reachable)];
        Some(Self::Warm { pool: Cow::Owned(origin.pool.clone()), idle: millis(idle) })
    }
}

/// Characters of the last observation, at most.
const LAST_LENGTH: usize = 100;

impl Summary<'static> {
    /// Summarises and diagnoses a job. If it is not over, lengths are until `now`.
    #[must_use]
    pub fn of(
        snapshot: &Snapshot,
        surroundings: &Surroundings,
        now: Timestamp,
    ) -> (Self, Vec<Diagnosis>) {
        let timeline = Timeline::of(snapshot, now);
        let diagnoses = diagnose(snapshot, &timeline, surroundings, now);
        let header = snapshot.job.header();
        let cause = diagnoses[0].cause;
        let exit = match timeline.failed_run() {
            Some((_, RunOutcome::Exited { code, .. })) => Some(*code),
            Some(_) => None,
            None => timeline.runs().next().map(|_| 0),
        };
        let verdict = match cause {
            _ if !timeline.over => JobVerdict::Open,
            Cause::Nothing if exit == Some(0) => JobVerdict::Success,
            Cause::Nothing => JobVerdict::Unused,
            Cause::ScriptFailed => JobVerdict::Failed,
            Cause::Cancelled => JobVerdict::Cancelled,
            _ => JobVerdict::SystemFailure,
        };
        let last = snapshot
            .journal
            .entries
            .last()
            .map(|entry| words::observation(&entry.saw))
            .unwrap_or_default();
        let bill = Bill::of(snapshot, timeline.newest);
        let owned = |text: &String| Cow::Owned(text.clone());
        // A warm task has no job. Its own id names it.
        let (job, name) = match header.warm() {
            Some(origin) => {
                (Cow::Owned(header.id.to_string()), format!("pool {}", origin.pool).into())
            }
            None => (owned(&header.about.job_id), owned(&header.about.job_name)),
        };
        let summary = Self {
            project: owned(&header.about.project_url),
            pipeline: owned(&header.about.pipeline_id),
            job,
            name,
            definition: owned(&header.spec.task_definition),
            began: timeline.begin().as_millis(),
            newest: timeline.newest.as_millis(),
            state: snapshot.job.name(),
            since: timeline.current().from.as_millis(),
            verdict,
            exit,
            cause,
            last: Cow::Owned(last.chars().take(LAST_LENGTH).collect()),
            totals: timeline.totals().map(millis),
            longest: timeline.longest().map(millis),
            pool: PoolUse::of(snapshot, &timeline),
            peak: bill.as_ref().and_then(|bill| Peak::of(snapshot, bill)),
            bill,
        };
        (summary, diagnoses)
    }

    /// Returns a finished job's note for the archive's index.
    #[must_use]
    pub fn note(snapshot: &Snapshot) -> String {
        // A finished job's lengths do not depend on `now`.
        let (summary, _) = Self::of(snapshot, &holder::elsewhere(snapshot), Timestamp::now());
        // Plain data always serialises. For an empty note, readers read the snapshot instead.
        serde_json::to_string(&summary).unwrap_or_default()
    }
}

impl<'a> Summary<'a> {
    /// Reads a note of the index.
    #[must_use]
    pub fn parse(note: &'a str) -> Option<Self> {
        serde_json::from_str(note).ok()
    }

    /// Whether it is a GitLab job's, and no warm task's that no job has claimed.
    #[must_use]
    pub fn is_job(&self) -> bool {
        !matches!(self.pool, Some(PoolUse::Warm { .. }))
    }

    /// Returns how long the job took, or has taken so far.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.totals.iter().sum())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
