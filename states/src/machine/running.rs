//! `Running`: the driver probes the container until it answers, and checks that the task still
//! lives.

use super::{AGENT, PROBE_RARELY, PROBED, Step, probing};
use crate::{
    Action, Greeting, Job, Observation, Pace, Reachable, Readiness, Running, StopReason, Stopping,
    TaskReport, Timestamp, Watch,
};

impl Job<Running> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Running> {
        let seed = self.seed();
        let ends = match saw {
            Observation::Answered(greeting) => {
                return Step::Next(self.reach(greeting.clone(), now));
            }
            Observation::Unreachable(error) => {
                let pace =
                    probing::pace(self.header.transport().readiness, self.state.agent_runs, error);
                self.state.probing.failed(error, pace, seed, now)
            }
            Observation::Described(report) => {
                self.learn(report, now);
                self.state.describing.answered(self.pace(), seed, now);
                self.state.describing.ending(report, &self.header.spec.container, now)
            }
            Observation::Missing => self.state.describing.missing(PROBED, seed, now),
            Observation::DescribeFailed(error) => self.state.describing.failed(error, seed, now),
            Observation::CancelRequested => Some(StopReason::Cancelled),
            Observation::StopRequested(reason) => Some(reason.clone()),
            Observation::Opened { .. } => {
                self.state.describing.next = now;
                self.state.probing.next = now;
                None
            }
            Observation::TimePassed => None,
            // Answers to questions of other states, and news of scripts: none can run yet.
            Observation::Claimed(_)
            | Observation::Launched(_)
            | Observation::LaunchFailed(_)
            | Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::RunRequested { .. }
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::RunFailed(_)
            | Observation::Measured { .. }
            | Observation::Signalled(_)
            | Observation::Found(_)
            | Observation::FindFailed(_)
            | Observation::StopAccepted
            | Observation::StopFailed(_) => None,
        };
        if let Some(reason) = ends {
            return Step::Stop(self.stop(reason, now));
        }
        if now >= self.state.deadline {
            let reason = self.too_long(self.header.limits.running, self.state.probing.obstacle());
            return Step::Stop(self.stop(reason, now));
        }
        Step::Stay(self)
    }

    pub(crate) fn plan(&self) -> Action {
        Action::Watch(Watch {
            describe: Some((self.state.task.clone(), self.state.describing.next)),
            address: None,
            probe: Some((
                self.header.destination(self.state.address.as_deref()),
                self.state.probing.next,
            )),
            until: self.state.deadline,
        })
    }

    /// Records what ECS reports of the exec agent. It accepts sessions moments after it is RUNNING,
    /// and none before.
    pub(super) fn learn(&mut self, report: &TaskReport, now: Timestamp) {
        let runs = probing::agent_runs(report, &self.header.spec.container);
        if self.header.transport().readiness != Readiness::ExecAgent
            || runs == self.state.agent_runs
        {
            return;
        }
        self.state.agent_runs = runs;
        self.state.probing.attempts = 0;
        self.state.probing.next =
            if runs == Some(false) { now + PROBE_RARELY.interval(0, self.seed()) } else { now };
    }

    /// The pace of DescribeTasks.
    pub(super) fn pace(&self) -> Pace {
        if self.state.agent_runs == Some(false) { AGENT } else { PROBED }
    }

    fn reach(self, greeting: Greeting, now: Timestamp) -> Job<Reachable> {
        let state = Reachable {
            task: self.state.task,
            address: self.state.address,
            since: now,
            identity: greeting.identity,
            facts: greeting.facts,
            runs: 0,
            last: None,
        };
        Job { header: self.header, state }
    }

    fn stop(self, reason: StopReason, now: Timestamp) -> Job<Stopping> {
        let task = self.state.task.clone();
        self.into_stopping(Some(task), None, reason, now)
    }
}
