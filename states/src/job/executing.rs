//! A script that runs in the container, and how it ended.

use serde::{Deserialize, Serialize};

use super::{Asking, Probing, Reachable};
use crate::{RunError, RunId, RunOrder, Signal, Timestamp};

/// One stage's script is, or may be, running in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executing {
    /// Where it runs; what the job returns to.
    pub place: Reachable,
    /// What runs.
    pub order: RunOrder,
    /// SHA-256 of gitlab-runner's script, hexadecimal: tells a repeated stage from another script.
    pub digest: String,
    /// When the stage began.
    pub since: Timestamp,
    /// Whether the container has confirmed that it has the script.
    pub started: bool,
    /// Bytes of output that were handed on so far.
    pub offset: u64,
    /// Failed connections since the last byte arrived, or since one last worked for long.
    pub failures: u32,
    /// Connections in a row that ended within moments and brought little output. Older drivers did
    /// not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fleeting: u32,
    /// The connection, as this process sees it.
    pub link: Link,
    /// Since when the connection is up, and the offset at which it continued. Older drivers did not
    /// record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<(Timestamp, u64)>,
    /// Since when the container has the script and answers over the present connection. Older
    /// drivers did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<Timestamp>,
    /// Set when the run is being ended early.
    pub ending: Option<Ending>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The connection to the container while a script runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// Connected.
    Up,
    /// Not connected. The script continues to run; the driver probes the container and asks ECS
    /// whether the task lives.
    Down {
        /// When to give up.
        deadline: Timestamp,
        /// Probing the container.
        probing: Probing,
        /// Asking ECS.
        describing: Asking,
    },
}

/// A run that is being ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EndingOnDisk")]
pub struct Ending {
    /// What was sent to the script last, and when.
    pub sent: Sent,
    /// When SIGKILL follows.
    pub kill_at: Timestamp,
    /// When the driver stops waiting for the exit status.
    pub deadline: Timestamp,
}

/// The last signal to a script that is being ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sent {
    /// None so far.
    #[default]
    Nothing,
    /// SIGTERM, at this time.
    Term(Timestamp),
    /// SIGKILL, at this time.
    Kill(Timestamp),
}

impl Sent {
    /// What was sent last, once the script has got `signal`. Nothing follows SIGKILL.
    #[must_use]
    pub fn after(self, signal: Signal, now: Timestamp) -> Self {
        match (self, signal) {
            (_, Signal::Kill) => Self::Kill(now),
            (Self::Kill(at), Signal::Term) => Self::Kill(at),
            (Self::Nothing | Self::Term(_), Signal::Term) => Self::Term(now),
        }
    }
}

/// [`Ending`], also as older drivers wrote it: with a flag for each signal.
#[derive(Deserialize)]
struct EndingOnDisk {
    #[serde(default)]
    sent: Sent,
    kill_at: Timestamp,
    deadline: Timestamp,
    #[serde(default = "unknown")]
    since: Timestamp,
    #[serde(default)]
    term_sent: bool,
    #[serde(default)]
    kill_sent: bool,
}

fn unknown() -> Timestamp {
    Timestamp::from_millis(0)
}

impl From<EndingOnDisk> for Ending {
    fn from(disk: EndingOnDisk) -> Self {
        let EndingOnDisk { sent, kill_at, deadline, since, term_sent, kill_sent } = disk;
        // Older drivers did not record when: they sent each signal as soon as it was due.
        let sent = match (sent, term_sent, kill_sent) {
            (Sent::Nothing, _, true) => Sent::Kill(kill_at),
            (Sent::Nothing, true, false) => Sent::Term(since),
            (sent, ..) => sent,
        };
        Self { sent, kill_at, deadline }
    }
}

/// A run that ended, with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The run.
    pub run: RunId,
    /// Its stage.
    pub stage: String,
    /// SHA-256 of gitlab-runner's script, hexadecimal: tells a repeated stage from another script.
    #[serde(default)]
    pub digest: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// When it ended.
    pub at: Timestamp,
    /// Whether a cancel ended it.
    pub cancelled: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunOutcome {
    /// The script ended by itself or by a signal, with this status.
    Exited {
        /// Its exit status as a shell reports it: 128 + signal number when a signal ended it.
        code: i32,
        /// Bytes of output in all.
        total: u64,
    },
    /// It could not be started, or it ended without an exit status.
    Failed(RunError),
    /// It was cancelled before the container had it.
    NeverSent,
    /// `Failed` or `NeverSent`, as the sentence that an older driver recorded.
    Lost(String),
}
