//! `Pending`: ECS has the task. The driver describes it, learns its address, and probes it early:
//! the container may answer before ECS reports RUNNING.

use super::{AGENT, PROBED, START, Step, VISIBLE_WITHIN, probing, provisioning::interface_of};
use crate::{
    Action, ConnectTo, Job, Observation, Obstacle, Pace, Pending, Polling, Probing, Readiness,
    Running, StopReason, Stopping, TaskReport, TaskStatus, Timestamp, Watch,
};

impl Job<Pending> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Pending> {
        let seed = self.seed();
        let ends = match saw {
            Observation::Described(report) => {
                self.learn(report);
                self.state.describing.answered(self.pace(), seed, now);
                self.state.describing.ending(report, &self.header.spec.container, now)
            }
            Observation::Missing => {
                let gone = self.state.describing.missing(self.pace(), seed, now);
                gone.filter(|_| now.since(self.state.since) >= VISIBLE_WITHIN)
            }
            Observation::DescribeFailed(error) => self.state.describing.failed(error, seed, now),
            Observation::Addressed(address) => {
                self.state.addressing.answered(START, seed, now);
                self.state.address.clone_from(address);
                None
            }
            Observation::AddressFailed(error) => self.state.addressing.failed(error, seed, now),
            // The container itself shows that the task runs, so there is no need to wait for ECS.
            Observation::Answered(_) if self.is_located() => {
                self.state.running = true;
                None
            }
            Observation::Unreachable(error) => {
                let pace = probing::pace(self.header.transport().readiness, None, error);
                self.state.probing.failed(error, pace, seed, now)
            }
            Observation::CancelRequested => Some(StopReason::Cancelled),
            Observation::StopRequested(reason) => Some(reason.clone()),
            Observation::Opened { .. } => {
                self.state.describing.next = now;
                self.state.probing.next = now;
                None
            }
            // An answer without a known address cannot be used.
            Observation::Answered(_) | Observation::TimePassed => None,
            // Answers to questions of other states, and news of scripts: none can run yet.
            Observation::Claimed(_)
            | Observation::Launched(_)
            | Observation::LaunchFailed(_)
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
        if self.state.running && self.is_located() {
            return Step::Next(self.run(saw, now));
        }
        if now >= self.state.deadline {
            let reason = self.too_long(self.header.limits.pending, self.obstacle());
            return Step::Stop(self.stop(reason, now));
        }
        Step::Stay(self)
    }

    pub(crate) fn plan(&self) -> Action {
        let probe_at = self.state.probing.next;
        let probe = self
            .state
            .address
            .as_deref()
            .map(|address| (self.header.destination(Some(address)), probe_at));
        let address = match (&self.state.interface, self.header.connect_to) {
            (Some(interface), ConnectTo::PublicAddress) if self.state.address.is_none() => {
                Some((interface.clone(), self.state.addressing.next))
            }
            _ => None,
        };
        let describe = Some((self.state.task.clone(), self.state.describing.next));
        Action::Watch(Watch { describe, address, probe, until: self.state.deadline })
    }

    /// The pace of DescribeTasks.
    fn pace(&self) -> Pace {
        if self.state.address.is_some() { PROBED } else { START }
    }

    /// Records what a report shows. It may be RunTask's own.
    pub(super) fn learn(&mut self, report: &TaskReport) {
        self.state.running |= report.status == TaskStatus::Running;
        if let Some(id) = interface_of(report) {
            self.state.interface = Some(id);
        }
        if self.header.connect_to == ConnectTo::PrivateAddress
            && let Some(address) = report.interface.as_ref().and_then(|i| i.private_address.clone())
        {
            self.state.address = Some(address);
        }
    }

    /// Whether the driver knows all that the transport needs to find the container.
    fn is_located(&self) -> bool {
        self.state.address.is_some() || self.header.connect_to == ConnectTo::NoAddress
    }

    fn obstacle(&self) -> Obstacle {
        if self.state.running { Obstacle::Address(self.header.connect_to) } else { Obstacle::Start }
    }

    fn run(self, saw: &Observation, now: Timestamp) -> Job<Running> {
        let next = match self.header.transport().readiness {
            Readiness::Probed => self.state.describing.next.max(now),
            Readiness::ExecAgent => now + AGENT.interval(0, self.seed()),
        };
        let state = Running {
            task: self.state.task,
            address: self.state.address,
            since: now,
            deadline: now + self.header.limits.running,
            describing: Polling::from(next),
            // It runs: probe at once.
            probing: Probing { next: now, ..self.state.probing },
            agent_runs: None,
        };
        let mut job = Job { header: self.header, state };
        if let Observation::Described(report) = saw {
            job.learn(report, now);
        }
        job
    }

    fn stop(self, reason: StopReason, now: Timestamp) -> Job<Stopping> {
        let task = self.state.task.clone();
        self.into_stopping(Some(task), None, reason, now)
    }
}
