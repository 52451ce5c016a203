//! Faults that tests and users can inject.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// The faults to inject. All are off by default; `times` and other counts are counted down as
/// faults happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Action → how many of its next calls are answered with `ThrottlingException`.
    pub throttle: BTreeMap<String, u32>,
    /// Action → an error that its next calls are answered with.
    pub refuse: BTreeMap<String, Refusal>,
    /// Action → how many of its next calls are done and answered with a failure all the same.
    pub unanswered: BTreeMap<String, u32>,
    /// Action → milliseconds that an answer waits after the action was done.
    pub delay_ms: BTreeMap<String, u64>,
    /// So many RunTasks that repeat an earlier call's token are answered with `ConflictException`,
    /// as while that call is under way.
    pub conflicts: u32,
    /// So many calls of RegisterTaskDefinition are answered as if another one of the same family
    /// were under way.
    pub concurrent_registrations: u32,
    /// RunTask answers with a failure and no task.
    pub launch_failure: Option<LaunchFailure>,
    /// New tasks stay PENDING.
    pub never_starts: bool,
    /// New tasks stop before they run.
    pub stops_early: Option<EarlyStop>,
    /// Tasks die some time after RUNNING.
    pub dies: Option<Death>,
    /// StopTask is accepted without effect.
    pub stop_ignored: bool,
    /// Calls that fail at random.
    pub random: Option<RandomFaults>,
    /// Faults of SSH.
    pub ssh: SshFaults,
    /// Faults of ECS Exec.
    pub exec: ExecFaults,
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

/// How a task stops before it runs, or when it is ended like a crash.
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

/// Faults of SSH.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SshFaults {
    /// The SSH server never comes up.
    pub never_listens: bool,
    /// Packets to it vanish, as behind a security group that admits no address.
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

/// Faults of ECS Exec: of the agent, of new sessions, and of their connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecFaults {
    /// The agents of new tasks run, but never connect: as without permissions or a route.
    pub never_connects: bool,
    /// They connect so many milliseconds later.
    pub late_ms: u64,
    /// They stop at once, for this reason: as with a read-only root file system.
    pub agent_stops: Option<String>,
    /// So many calls of ExecuteCommand find all slots of the container taken.
    pub slots_taken: u32,
    /// New sessions end at once, without a process.
    pub ends_at_start: Option<EarlyEnd>,
    /// Upgrades that are refused …
    pub refuses_upgrades: Option<Upgrades>,
    /// … with this HTTP status; without one, with 403.
    pub upgrade_status: Option<u16>,
    /// Agents ask for this KMS key instead of the cluster's: as an agent does that the job has
    /// replaced.
    pub kms_key: Option<String>,
    /// Stream URLs come signed: their upgrades must not be signed again.
    pub signs_urls: bool,
    /// ResumeSession answers without a token, as if the session had timed out.
    pub never_resumes: bool,
    /// Connections are cut.
    pub cut: Option<Cut>,
    /// The service pauses the client.
    pub pause: Option<Pause>,
    /// On new connections, each message is so many milliseconds on its way, in either direction.
    pub latency_ms: u64,
    /// Of a hundred messages, in both directions: how many are lost …
    pub drop_percent: u32,
    /// … come twice …
    pub duplicate_percent: u32,
    /// … come after the next one …
    pub reorder_percent: u32,
    /// … come with another payload than was sent …
    pub corrupt_percent: u32,
    /// … or with a digest that is wrong.
    pub wrong_digest_percent: u32,
}

/// How a session ends before it began: the text of `channel_closed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyEnd {
    /// `Output`: a full disk, a log group that is not encrypted …
    pub output: String,
    /// How often.
    pub times: u32,
}

/// Upgrades to a WebSocket, by their signature (SigV4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgrades {
    /// Those with a signature.
    Signed,
    /// Those without.
    Unsigned,
    /// All.
    All,
}

/// When and how connections are cut. Both conditions may be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// How.
    pub how: CutKind,
    /// After so many bytes to the client.
    #[serde(default)]
    pub after_bytes: Option<u64>,
    /// After so many milliseconds.
    #[serde(default)]
    pub after_ms: Option<u64>,
    /// This many of them (those that lived so long).
    pub times: u32,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutKind {
    /// A TCP reset.
    Reset,
    /// A close frame, 1000 "Bye", as the service sends about hourly.
    Bye,
    /// Nothing more comes, and nothing is answered.
    Silence,
}

/// A pause: the service says so, and passes nothing on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// After so many bytes to the client.
    pub after_bytes: u64,
    /// For so many milliseconds.
    pub for_ms: u64,
    /// Whether the end of it is announced too.
    pub announced: bool,
    /// How often.
    pub times: u32,
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

    /// Whether this call is done without saying so.
    pub(crate) fn leaves_unanswered(&mut self, action: &str) -> bool {
        self.unanswered.get_mut(action).is_some_and(count_down)
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

    /// Whether this repetition of a launch is a conflict.
    pub(crate) fn conflicts(&mut self) -> bool {
        count_down(&mut self.conflicts)
    }

    /// Whether this registration meets another one.
    pub(crate) fn registers_concurrently(&mut self) -> bool {
        count_down(&mut self.concurrent_registrations)
    }

    /// The failure that this launch is to be answered with.
    pub(crate) fn fails_launch(&mut self) -> Option<LaunchFailure> {
        let failure = self.launch_failure.as_mut()?;
        count_down(&mut failure.times).then(|| failure.clone())
    }
}

impl ExecFaults {
    /// Whether this call of ExecuteCommand finds no slot.
    pub(crate) fn takes_slots(&mut self) -> bool {
        count_down(&mut self.slots_taken)
    }

    /// The text that this session ends with at once.
    pub(crate) fn ends_session(&mut self) -> Option<String> {
        let end = self.ends_at_start.as_mut()?;
        count_down(&mut end.times).then(|| end.output.clone())
    }

    /// How a connection that has lived so long is cut now.
    pub(crate) fn cuts(&mut self, bytes: u64, age: Duration) -> Option<CutKind> {
        let cut = self.cut.as_mut()?;
        let due = cut.after_bytes.is_some_and(|after| bytes >= after)
            || cut.after_ms.is_some_and(|after| age >= Duration::from_millis(after));
        (due && count_down(&mut cut.times)).then_some(cut.how)
    }

    /// The pause that begins now on a connection that has carried so much.
    pub(crate) fn pauses(&mut self, bytes: u64) -> Option<Pause> {
        let pause = self.pause.as_mut()?;
        (bytes >= pause.after_bytes && count_down(&mut pause.times)).then(|| pause.clone())
    }
}

fn count_down(times: &mut u32) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}
