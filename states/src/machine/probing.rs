//! What `Pending`, `Running` and `Executing` share: pacing descriptions of the task and probes of
//! the container, and distinguishing temporary failures from final ones.

use super::{
    BELIEVED_REFUSALS, DESCRIBE, EXPLAINED_WITHIN, GONE_AFTER, KEY_INSTALLED_WITHIN, PROBE,
    PROBE_BY_API, PROBE_RARELY, RETRY,
};
use crate::{
    ConnectError, ConnectErrorKind, ControlError, Obstacle, Pace, Polling, Probing, Readiness,
    StopReason, TaskEnd, TaskReport, Timestamp,
};

/// Why the task stopped, or is stopping.
pub(super) fn stopped(report: &TaskReport, container: &str) -> StopReason {
    StopReason::TaskStopped { end: TaskEnd::of(report, container) }
}

/// The pace of probes after this failure. `agent_runs` is what ECS last reported of the exec agent,
/// if anything.
pub(super) fn pace(readiness: Readiness, agent_runs: Option<bool>, error: &ConnectError) -> Pace {
    match (readiness, agent_runs, error.kind) {
        (Readiness::Probed, ..) => PROBE,
        (Readiness::ExecAgent, Some(false), _) => PROBE_RARELY,
        // An attempt waits for the job's container itself.
        (
            Readiness::ExecAgent,
            _,
            ConnectErrorKind::AgentNotConnected | ConnectErrorKind::JobContainerNotUp,
        ) => PROBE_BY_API,
        // Throttling among others, which a quick pace would only prolong.
        (Readiness::ExecAgent, ..) => PROBE_RARELY,
    }
}

/// Whether the container's exec agent runs; `None` where ECS does not report it.
pub(super) fn agent_runs(report: &TaskReport, container: &str) -> Option<bool> {
    report.container(container)?.exec_agent.as_deref().map(|status| status == "RUNNING")
}

impl Polling {
    /// Returns why the task ends, if the report shows that it does. ECS reports that a task ends a
    /// moment before it reports why. The driver waits for that moment, as people need the reason.
    pub(super) fn ending(
        &mut self,
        report: &TaskReport,
        container: &str,
        now: Timestamp,
    ) -> Option<StopReason> {
        if !(report.stop_desired || report.status.is_ending()) {
            self.ending = None;
            return None;
        }
        let since = *self.ending.get_or_insert(now);
        if report.status.is_over() || report.tells_why() || now.since(since) >= EXPLAINED_WITHIN {
            return Some(stopped(report, container));
        }
        self.next = self.next.min(now + DESCRIBE.first);
        None
    }

    /// Records an ordinary answer: the next question follows at the pace.
    pub(super) fn answered(&mut self, pace: Pace, seed: u64, now: Timestamp) {
        self.next = now + pace.interval(self.answers, seed);
        self.answers += 1;
        self.failures = 0;
        self.missing = None;
    }

    /// Records `MISSING`. Returns a reason to stop if it lasts.
    pub(super) fn missing(&mut self, pace: Pace, seed: u64, now: Timestamp) -> Option<StopReason> {
        let (count, since) = self.missing.map_or((1, now), |(count, since)| (count + 1, since));
        self.next = now + pace.interval(self.answers.saturating_add(count - 1), seed);
        self.failures = 0;
        self.missing = Some((count, since));
        (count >= 3 && now.since(since) >= GONE_AFTER).then_some(StopReason::TaskVanished)
    }

    /// Records a failure: the next question follows later. Returns a reason to stop if the failure
    /// is permanent and repeats.
    pub(super) fn failed(
        &mut self,
        error: &ControlError,
        seed: u64,
        now: Timestamp,
    ) -> Option<StopReason> {
        self.next = now + RETRY.interval(self.failures, seed);
        self.failures += 1;
        (!error.kind.is_transient() && self.failures >= BELIEVED_REFUSALS)
            .then(|| StopReason::ControlFailed(error.clone()))
    }
}

impl Probing {
    /// Records a failed attempt: the next one follows at the pace. Returns a reason to stop if the
    /// failure is final.
    pub(super) fn failed(
        &mut self,
        error: &ConnectError,
        pace: Pace,
        seed: u64,
        now: Timestamp,
    ) -> Option<StopReason> {
        self.next = now + pace.interval(self.attempts, seed);
        self.attempts += 1;
        self.problem = Some(error.clone());
        // An entry point may start sshd before it has installed the key or made the user's shell
        // usable.
        let final_now =
            if matches!(error.kind, ConnectErrorKind::AuthRefused | ConnectErrorKind::NoShell) {
                let since = *self.auth_refused.get_or_insert(now);
                now.since(since) >= KEY_INSTALLED_WITHIN
            } else {
                self.auth_refused = None;
                !error.kind.is_transient()
            };
        final_now.then(|| StopReason::Unusable(error.clone()))
    }

    /// The obstacle of a state that waited for the container.
    pub(super) fn obstacle(&self) -> Obstacle {
        Obstacle::Connection(self.problem.clone())
    }
}
