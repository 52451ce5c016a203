//! `Provisioning`: the driver launches the task, with an idempotency token per launch.

use std::{sync::Arc, time::Duration};

use super::{RETRY, START, Step, searching::Searched};
use crate::{
    Action, Claim, ClientToken, ControlError, ControlErrorKind, Header, InterfaceId, Job,
    Observation, Obstacle, Pending, Polling, Probing, Provisioning, Reachable, StopReason,
    Stopping, TaskReport, TaskStatus, Timestamp, Watch,
};

/// How long the driver waits for credentials where there are none. A manager that has just started
/// gets its own within this time.
const NO_CREDENTIALS: Duration = Duration::from_secs(60);

impl Job<Provisioning> {
    /// A new job: nothing has been launched.
    #[must_use]
    pub fn new(header: impl Into<Arc<Header>>) -> Self {
        let header = header.into();
        let now = header.created;
        let state = Provisioning {
            deadline: now + header.limits.provisioning,
            launch: 0,
            asked: None,
            unknown: false,
            refusals: 0,
            next: now,
            attempts: 0,
            problem: None,
            search: None,
        };
        Self { header, state }
    }

    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Provisioning> {
        let seed = self.seed();
        if let Some(search) = &mut self.state.search {
            match search.observe(saw, seed, now) {
                Searched::On => {}
                Searched::Found(report) => return Step::Next(self.launched(&report, now)),
                Searched::Nothing => self.launch_anew(now),
                Searched::Refused(reason) => return Step::Stop(self.stop(reason, now)),
            }
        }
        match saw {
            Observation::Launched(report) => return Step::Next(self.launched(report, now)),
            Observation::LaunchFailed(error) if error.kind == ControlErrorKind::Conflict => {
                self.search(error, now)
            }
            Observation::LaunchFailed(error) if error.kind.is_transient() => {
                if self.settles(error, now) {
                    self.state.refusals += u32::from(error.kind == ControlErrorKind::Capacity);
                    self.state.launch += 1;
                    self.state.asked = None;
                    self.state.unknown = false;
                }
                self.await_credentials(error.kind, now);
                self.state.next = now + RETRY.interval(self.state.attempts, self.seed());
                self.state.attempts += 1;
                self.state.problem = Some(error.clone());
            }
            Observation::LaunchFailed(error) => {
                if self.settles(error, now) {
                    self.state.asked = None;
                }
                return Step::Stop(self.stop(StopReason::LaunchRefused(error.clone()), now));
            }
            Observation::CancelRequested => {
                return Step::Stop(self.stop(StopReason::Cancelled, now));
            }
            Observation::StopRequested(reason) => {
                return Step::Stop(self.stop(reason.clone(), now));
            }
            Observation::Opened { .. } => {
                self.state.next = now;
                // The process that asked died before the answer came.
                self.state.unknown |= self.state.asked.is_some();
            }
            // The search's answers, which it has recorded above; and passing time.
            Observation::Described(_)
            | Observation::Missing
            | Observation::DescribeFailed(_)
            | Observation::Found(_)
            | Observation::FindFailed(_)
            | Observation::TimePassed => {}
            // No task exists that these could be about; one that may exist rules out a claim.
            Observation::Claimed(_)
            | Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::Answered(_)
            | Observation::Unreachable(_)
            | Observation::RunRequested { .. }
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::RunFailed(_)
            | Observation::Measured { .. }
            | Observation::Signalled(_)
            | Observation::StopAccepted
            | Observation::StopFailed(_) => {}
        }
        if now >= self.state.deadline {
            let reason = match self.state.problem.take() {
                Some(problem) => StopReason::LaunchRefused(problem),
                None => self.too_long(self.header.limits.provisioning, Obstacle::Launch),
            };
            return Step::Stop(self.stop(reason, now));
        }
        if self.state.asked.is_some() && self.state.search.is_none() && now >= self.state.next {
            // RunTask is called again now, so its task may appear that much later.
            self.state.asked = Some(now);
        }
        Step::Stay(self)
    }

    /// Takes over a warm task. The caller has checked that no launch was asked for: a second task
    /// would be leaked.
    pub(super) fn claimed(self, claim: &Claim, now: Timestamp) -> Job<Reachable> {
        let state = Reachable {
            task: claim.task.clone(),
            address: claim.address.clone(),
            since: now,
            identity: claim.greeting.identity.clone(),
            facts: claim.greeting.facts.clone(),
            runs: 0,
            last: None,
        };
        Job { header: self.header, state }
    }

    pub(crate) fn plan(&mut self, now: Timestamp) -> Action {
        if let Some(search) = &mut self.state.search {
            return search.plan(&self.header, self.state.deadline, now);
        }
        if now < self.state.next {
            return Action::Watch(Watch {
                describe: None,
                address: None,
                probe: None,
                until: self.state.next.min(self.state.deadline),
            });
        }
        self.state.asked.get_or_insert(now);
        Action::Launch {
            token: self.token(),
            spec: Box::new(self.header.spec.after_refusals(self.state.refusals)),
        }
    }

    fn launched(self, report: &TaskReport, now: Timestamp) -> Job<Pending> {
        let begins = matches!(report.status, TaskStatus::Provisioning | TaskStatus::Pending);
        let state = Pending {
            since: now,
            deadline: now + self.header.limits.pending,
            interface: interface_of(report),
            address: None,
            running: false,
            describing: Polling::from(if begins {
                now + START.interval(0, self.seed())
            } else {
                now
            }),
            addressing: Polling::from(now),
            probing: Probing::from(now),
            task: report.task.clone(),
        };
        let mut job = Job { header: self.header, state };
        job.learn(report);
        job
    }

    /// Shortens the deadline where there are no credentials at all: only existing ones can be
    /// renewed.
    fn await_credentials(&mut self, kind: ControlErrorKind, now: Timestamp) {
        let missing = |kind| kind == ControlErrorKind::NoCredentials;
        let before = self.state.problem.as_ref().is_some_and(|problem| missing(problem.kind));
        match (before, missing(kind)) {
            (false, true) => self.state.deadline = self.state.deadline.min(now + NO_CREDENTIALS),
            (true, false) => {
                self.state.deadline = self.header.created + self.header.limits.provisioning
            }
            _ => {}
        }
    }

    /// Whether it is certain, after this refusal, that no RunTask with the current token launched a
    /// task. Marks the launch as unknown otherwise: then its token stays, so that a repetition
    /// cannot launch a second task, and a stop searches for the first.
    fn settles(&mut self, error: &ControlError, now: Timestamp) -> bool {
        let answered = match error.kind {
            // The request was never sent.
            ControlErrorKind::NoCredentials => true,
            kind => error.code.is_some() && kind != ControlErrorKind::Unavailable,
        };
        self.state.unknown |= !answered;
        if !answered {
            // The request may have reached ECS as late as this.
            self.state.asked = Some(now);
        }
        // ECS checks throttling, permissions and the like before it looks at the token, so these
        // say nothing of an earlier request. When it reports no capacity, it has looked.
        answered && (!self.state.unknown || error.kind == ControlErrorKind::Capacity)
    }

    /// This launch's idempotency token.
    fn token(&self) -> ClientToken {
        let numbered = format!("{}-{}", self.header.token, self.state.launch);
        ClientToken::new(numbered).unwrap_or_else(|_| self.header.token.clone())
    }

    fn stop(self, reason: StopReason, now: Timestamp) -> Job<Stopping> {
        let unsettled = self.state.asked;
        self.into_stopping(None, unsettled, reason, now)
    }
}

/// The network interface's id, if the report has one.
pub(super) fn interface_of(report: &TaskReport) -> Option<InterfaceId> {
    report.interface.as_ref().and_then(|i| i.id.clone())
}
