//! The strictness and the pace of an exec agent.

use std::time::Duration;

/// An exec agent's rules and times beyond the protocol itself.
///
/// [`AgentRules::quick`] is for tests that need speed, [`AgentRules::real`] is what was observed of
/// AWS's own, unmodified agent (amazon-ssm-agent 3.3). Each field can be changed on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentRules {
    /// Sessions per container at once.
    pub workers: usize,
    /// Sessions per container that wait for a worker.
    pub queued: usize,
    /// What happens to a session without a free slot.
    pub overflow: Overflow,
    /// Whether a session that is terminated while it waits keeps its slot until a worker takes it.
    pub keeps_terminated: bool,
    /// How long a worker stays taken after the end of its session.
    pub release: Duration,
    /// From ExecuteCommand, or from when a worker is free, until the command runs. In the first
    /// half, input is acknowledged and discarded; in the second, it is not accepted.
    pub start: Duration,
    /// From the start of the command until its output is read for the first time.
    pub first_output: Duration,
    /// How long the agent rests after each message of at most 1024 bytes. Zero: output is as fast
    /// as it can be.
    pub rest: Duration,
    /// How much of its rests the agent skips to catch up when it was late.
    pub catch_up: Duration,
    /// How long the last messages wait for their acknowledgements; twice as long if the client
    /// never acknowledged any.
    pub last_acknowledgements: Duration,
    /// Whether the text of a failure comes inside a frame of dashes and line breaks.
    pub frames_errors: bool,
    /// Whether an unsolicited response of a handshake stops the agent from reading for good, and a
    /// command with `{{ssm:` in it is dropped silently.
    pub strict: bool,
    /// How long the session's log takes to be uploaded, between the end of the command and
    /// `channel_closed`: as where the cluster logs sessions, which the agent does by
    /// `script(1)`.
    pub log_upload: Duration,
}

/// What happens to a session without a free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// ExecuteCommand is refused with `TargetNotConnectedException`.
    Refused,
    /// It is granted and tried five times, a second apart. Then the agent blocks: no session ever
    /// starts again in that container.
    Blocks,
}

impl AgentRules {
    /// Lenient rules and short times.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            workers: 2,
            queued: 1,
            overflow: Overflow::Refused,
            keeps_terminated: false,
            release: Duration::ZERO,
            start: Duration::from_millis(20),
            first_output: Duration::from_millis(50),
            rest: Duration::from_millis(1),
            catch_up: Duration::from_millis(8),
            last_acknowledgements: Duration::from_secs(2),
            frames_errors: false,
            strict: false,
            log_upload: Duration::ZERO,
        }
    }

    /// The rules and times of AWS's own agent in an idle container.
    #[must_use]
    pub fn real() -> Self {
        Self {
            overflow: Overflow::Blocks,
            keeps_terminated: true,
            release: Duration::from_secs(2),
            start: Duration::from_millis(50),
            first_output: Duration::from_secs(1),
            rest: Duration::from_micros(1300),
            // AWS's agent does not catch up; two ticks of this process's timer keep the average
            // right.
            catch_up: Duration::from_millis(2),
            frames_errors: true,
            strict: true,
            ..Self::quick()
        }
    }
}

impl Default for AgentRules {
    fn default() -> Self {
        Self::quick()
    }
}
