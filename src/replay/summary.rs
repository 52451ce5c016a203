//! A job in a line: what `list` and `stats` need of it, and what the archive's index keeps.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use states::{RunOutcome, Snapshot, StateName, Timestamp};

use super::{
    diagnosis::{Cause, Diagnosis, diagnose},
    holder::{self, Surroundings},
    timeline::Timeline,
    words,
};

/// How a job ended, as GitLab's users would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
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

impl Verdict {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Failed,
        Self::SystemFailure,
        Self::Cancelled,
        Self::Unused,
        Self::Open,
    ];

    /// In a word or two.
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

/// A job in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary<'a> {
    /// The project's URL.
    #[serde(borrow)]
    pub project: Cow<'a, str>,
    /// GitLab's pipeline id.
    #[serde(borrow)]
    pub pipeline: Cow<'a, str>,
    /// GitLab's job id.
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
    /// When something was last observed of it, likewise.
    pub newest: u64,
    /// Its state.
    pub state: StateName,
    /// Since when, likewise.
    pub since: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// The exit code of the script that failed the job, or 0.
    pub exit: Option<i32>,
    /// What is, or was, wrong.
    pub cause: Cause,
    /// What was last observed, shortened.
    #[serde(borrow)]
    pub last: Cow<'a, str>,
    /// Milliseconds in each of the six states altogether.
    pub totals: [u64; 6],
    /// The longest stay in each, in milliseconds.
    pub longest: [u64; 6],
}

/// Characters of the last observation that are kept.
const LAST_LENGTH: usize = 100;

impl Summary<'static> {
    /// Sums a job up. Lengths are until `now` when it is not over.
    #[must_use]
    pub fn of(
        snapshot: &Snapshot,
        around: &Surroundings,
        now: Timestamp,
    ) -> (Self, Vec<Diagnosis>) {
        let story = Timeline::of(snapshot, now);
        let found = diagnose(snapshot, &story, around, now);
        let header = snapshot.job.header();
        let cause = found[0].cause;
        let exit = match story.failed_run() {
            Some((_, RunOutcome::Exited { code, .. })) => Some(*code),
            Some(_) => None,
            None => story.runs().next().map(|_| 0),
        };
        let verdict = match cause {
            _ if !story.over => Verdict::Open,
            Cause::Nothing if exit == Some(0) => Verdict::Success,
            Cause::Nothing => Verdict::Unused,
            Cause::ScriptFailed => Verdict::Failed,
            Cause::Cancelled => Verdict::Cancelled,
            _ => Verdict::SystemFailure,
        };
        let last = snapshot
            .journal
            .entries
            .last()
            .map(|entry| words::observation(&entry.saw))
            .unwrap_or_default();
        let owned = |text: &String| Cow::Owned(text.clone());
        let summary = Self {
            project: owned(&header.about.project_url),
            pipeline: owned(&header.about.pipeline_id),
            job: owned(&header.about.job_id),
            name: owned(&header.about.job_name),
            definition: owned(&header.spec.task_definition),
            began: story.begin().as_millis(),
            newest: story.newest.as_millis(),
            state: snapshot.job.name(),
            since: story.current().from.as_millis(),
            verdict,
            exit,
            cause,
            last: Cow::Owned(last.chars().take(LAST_LENGTH).collect()),
            totals: story.totals().map(millis),
            longest: story.longest().map(millis),
        };
        (summary, found)
    }

    /// The archive index's note of a finished job.
    #[must_use]
    pub fn note(snapshot: &Snapshot) -> String {
        // A finished job's time stands still: `now` does not matter.
        let (summary, _) = Self::of(snapshot, &holder::unknown(snapshot), Timestamp::now());
        // Plain data: it serialises. An empty note is none, and the snapshot is read instead.
        serde_json::to_string(&summary).unwrap_or_default()
    }
}

impl<'a> Summary<'a> {
    /// Reads an index's note.
    #[must_use]
    pub fn parse(note: &'a str) -> Option<Self> {
        serde_json::from_str(note).ok()
    }

    /// How long the job took, or has taken.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.totals.iter().sum())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
