//! Faults that can be scripted: a cluster's bad day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What goes wrong. Everything is off by default; `times` and counts are counted down as they happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Action → how many of its next calls are answered with `ThrottlingException`.
    pub throttle: BTreeMap<String, u32>,
    /// Action → an error that its next calls are answered with.
    pub refuse: BTreeMap<String, Refusal>,
    /// Action → milliseconds that an answer waits after the action was done.
    pub delay_ms: BTreeMap<String, u64>,
    /// RunTask answers with a failure and no task.
    pub launch_failure: Option<LaunchFailure>,
    /// New tasks stay PENDING.
    pub never_starts: bool,
    /// New tasks stop before they run.
    pub stops_early: Option<EarlyStop>,
    /// Tasks die some time after RUNNING.
    pub dies: Option<Death>,
    /// StopTask is accepted and nothing happens.
    pub stop_ignored: bool,
    /// Calls that fail at random.
    pub random: Option<RandomFaults>,
    /// What goes wrong with SSH.
    pub ssh: SshFaults,
}

/// Calls that fail at random: throttled, failed before anything was done, or done and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFaults {
    /// How many of a hundred calls fail.
    pub percent: u32,
}

/// How a call fails at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    Throttled,
    FailedBefore,
    FailedAfter,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// AWS's error code.
    pub code: String,
    /// Its message.
    pub message: String,
    /// How often.
    pub times: u32,
}

/// A failure of RunTask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchFailure {
    /// `RESOURCE:ENI`, …
    pub reason: String,
    /// More words.
    #[serde(default)]
    pub detail: Option<String>,
    /// How often.
    pub times: u32,
}

/// How a task stops before it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// `stopCode`.
    pub code: String,
    /// `stoppedReason`.
    pub reason: String,
    /// The container's `reason`.
    #[serde(default)]
    pub container_reason: Option<String>,
    /// The container's exit code.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// How a running task dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Death {
    /// Milliseconds after RUNNING.
    pub after_ms: u64,
    /// `stopCode`.
    pub code: String,
    /// `stoppedReason`.
    pub reason: String,
    /// The container's `reason`.
    #[serde(default)]
    pub container_reason: Option<String>,
    /// The container's exit code.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// What goes wrong with SSH.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SshFaults {
    /// The SSH server never comes up.
    pub never_listens: bool,
    /// Packets to it vanish, as behind a security group that lets nobody in.
    pub silent: bool,
    /// New connections meet another host key than those before, as when another container answers.
    pub other_host_key: bool,
    /// It comes up so many milliseconds later.
    pub late_ms: u64,
    /// It accepts no key.
    pub refuses_keys: bool,
    /// Connections are cut after so many bytes to the client …
    pub cut_after_bytes: Option<u64>,
    /// … this many of them (those that lived so long).
    pub cuts: u32,
    /// Bytes per second to the client.
    pub bytes_per_second: Option<u64>,
}

impl Faults {
    /// Whether this call is throttled.
    pub(crate) fn throttles(&mut self, action: &str) -> bool {
        self.throttle.get_mut(action).is_some_and(count_down)
    }

    /// The error that this call is to be answered with.
    pub(crate) fn refuses(&mut self, action: &str) -> Option<Refusal> {
        let refusal = self.refuse.get_mut(action)?;
        count_down(&mut refusal.times).then(|| refusal.clone())
    }

    /// How this call fails, if it does.
    pub(crate) fn mishap(&self) -> Option<Mishap> {
        let random = self.random?;
        if rand::random_range(0..100) >= random.percent {
            return None;
        }
        Some(match rand::random_range(0..3) {
            0 => Mishap::Throttled,
            1 => Mishap::FailedBefore,
            _ => Mishap::FailedAfter,
        })
    }

    /// The failure that this launch is to be answered with.
    pub(crate) fn fails_launch(&mut self) -> Option<LaunchFailure> {
        let failure = self.launch_failure.as_mut()?;
        count_down(&mut failure.times).then(|| failure.clone())
    }
}

fn count_down(times: &mut u32) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}
