//! `Reachable`: the container waits for a script, or for the job's end.

use super::Step;
use crate::{
    Executing, Job, Link, Observation, Polling, Probing, Reachable, RunContainer, RunId, RunOrder,
    RunOutcome, StopReason, Stopping, Timestamp,
};

impl Job<Reachable> {
    pub(crate) fn observe(self, saw: &Observation, now: Timestamp) -> Step<Reachable> {
        match saw {
            // The process before was killed after this script's success and before its own end.
            // gitlab-runner repeats no stage that it saw succeed. It does repeat a failed stage,
            // and then the script runs again.
            Observation::RunRequested { stage, digest, .. } if self.has_done(stage, digest) => {
                Step::Stay(self)
            }
            Observation::RunRequested { stage, digest, container } => {
                Step::Next(self.execute(stage, digest, *container, now))
            }
            Observation::StopRequested(reason) => {
                let reason = reason.clone();
                Step::Stop(self.stop(reason, now))
            }
            // A cancel finds no script to end, and this state asks no questions.
            Observation::Opened { .. }
            | Observation::CancelRequested
            | Observation::Claimed(_)
            | Observation::Launched(_)
            | Observation::LaunchFailed(_)
            | Observation::Described(_)
            | Observation::Missing
            | Observation::DescribeFailed(_)
            | Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::Answered(_)
            | Observation::Unreachable(_)
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::RunFailed(_)
            | Observation::Measured { .. }
            | Observation::Signalled(_)
            | Observation::Found(_)
            | Observation::FindFailed(_)
            | Observation::StopAccepted
            | Observation::StopFailed(_)
            | Observation::TimePassed => Step::Stay(self),
        }
    }

    fn has_done(&self, stage: &str, digest: &str) -> bool {
        self.state.last.as_ref().is_some_and(|last| {
            last.stage == stage
                && last.digest == digest
                && !last.cancelled
                && matches!(last.outcome, RunOutcome::Exited { code: 0, .. })
        })
    }

    fn execute(
        self,
        stage: &str,
        digest: &str,
        container: RunContainer,
        now: Timestamp,
    ) -> Job<Executing> {
        let forget = self.state.last.as_ref().map(|last| last.run.clone());
        let order = RunOrder {
            run: run_id(self.state.runs, stage),
            stage: stage.to_owned(),
            forget,
            container,
        };
        let link = Link::Down {
            deadline: now + self.header.limits.reconnect,
            probing: Probing::from(now),
            // The first connection usually succeeds: ask ECS only when it does not.
            describing: Polling::from(now + std::time::Duration::from_secs(2)),
        };
        let place = Reachable { runs: self.state.runs + 1, ..self.state };
        let state = Executing {
            place,
            order,
            digest: digest.to_owned(),
            since: now,
            started: false,
            offset: 0,
            failures: 0,
            fleeting: 0,
            link,
            connected: None,
            followed: None,
            ending: None,
        };
        Job { header: self.header, state }
    }

    fn stop(self, reason: StopReason, now: Timestamp) -> Job<Stopping> {
        let task = self.state.task.clone();
        self.into_stopping(Some(task), None, reason, now)
    }
}

/// The id of a job's `number`-th run: unique within the job, and readable in the container.
#[must_use]
pub fn run_id(number: u32, stage: &str) -> RunId {
    let safe: String = stage
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .take(40)
        .collect();
    // Digits, '-' and the characters kept above are all valid, so the fallback is never taken.
    RunId::new(format!("{number:04}-{safe}"))
        .or_else(|_| RunId::new(format!("{number:04}")))
        .unwrap_or_else(|e| unreachable!("{e}"))
}
