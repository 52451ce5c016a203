//! `Stopping`: find what may have been launched, stop it, and see that it is over.
//!
//! Every task is asked to stop before the end of any is waited for: a process may leave as soon as
//! ECS has accepted all stops (see [`Stopping::all_accepted`]), and another one then looks whether
//! the tasks are over.

use std::time::Duration;

use super::{BELIEVED_REFUSALS, DESCRIBE, GONE_AFTER, RETRY, State, Step};
use crate::{
    Action, Asking, ControlError, Job, LONGEST_CALL, Observation, StopReason, Stopping, TaskArn,
    Timestamp, Watch,
};

/// How long after RunTask its task may be missing in ListTasks (Amazon ECS API reference, RunTask:
/// "eventual consistency").
const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// How long after an unanswered RunTask was begun a ListTasks that does not know its task is
/// believed.
pub(super) const SETTLES_WITHIN: Duration = LONGEST_CALL.saturating_add(LISTED_WITHIN);

impl Stopping {
    /// Whether ECS has accepted to stop every task of the job, so that only their end is waited
    /// for.
    #[must_use]
    pub fn all_accepted(&self) -> bool {
        self.accepted && self.task.is_some() && self.rest.is_empty() && self.unsettled.is_none()
    }

    /// The tasks that are not known to be over.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskArn> {
        self.task.iter().filter(|_| !self.over).chain(&self.ending).chain(&self.rest)
    }
}

impl<S: State> Job<S> {
    /// The edge to `Stopping` that every state has.
    pub(super) fn into_stopping(
        self,
        task: Option<TaskArn>,
        unsettled: Option<Timestamp>,
        reason: StopReason,
        now: Timestamp,
    ) -> Job<Stopping> {
        let over = matches!(reason, StopReason::TaskVanished);
        let state = Stopping {
            reason,
            since: now,
            task,
            unsettled,
            listing: None,
            asked: false,
            accepted: over,
            over,
            deadline: now + self.header.limits.stop,
            describing: Asking::from(now),
            problem: None,
            rest: Vec::new(),
            ending: Vec::new(),
        };
        Job { header: self.header, state }
    }
}

impl Job<Stopping> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Stopping> {
        let seed = self.seed();
        match saw {
            Observation::Opened { .. } => self.begin_anew(now),
            Observation::StopRequested(_) => {
                // A process that wants the end asks for it again: an earlier one may have been told
                // what did not come true.
                self.state.accepted = false;
                self.state.rest.append(&mut self.state.ending);
                self.begin_anew(now);
            }
            Observation::Found(tasks) => self.found(tasks, now),
            // RunTask's answer may come late, after a cancel: then there is a task after all.
            Observation::Launched(report) => {
                self.state.unsettled = None;
                self.state.task = Some(report.task.clone());
                self.state.describing = Asking::from(now);
            }
            Observation::StopAccepted => {
                self.state.problem = None;
                self.accepted(now);
            }
            Observation::Described(report) => {
                self.state.describing.answered(DESCRIBE, seed, now);
                let is_stopped = report.stop_desired || report.status.is_ending();
                if report.status.has_ended() {
                    self.ended(now);
                } else if self.state.unsettled.is_some() && is_stopped && !self.state.accepted {
                    // It may be an earlier attempt's, whose end was not waited for: what was
                    // launched is still to be found.
                    self.state.ending.extend(self.state.task.take());
                    self.next(now);
                } else {
                    if self.state.unsettled.take().is_some() {
                        // Earlier attempts' tasks were stopped before this attempt began: one that
                        // is not is what we look for.
                        self.state.describing.next = now;
                    }
                    if is_stopped && !self.state.accepted {
                        self.accepted(now);
                    }
                }
            }
            Observation::Missing => {
                let gone = self.state.describing.missing(DESCRIBE, seed, now);
                // A task that ECS forgot is over; one that it does not show yet was launched
                // moments ago. ECS knew the task whose stop it accepted.
                if (gone.is_some() || self.state.accepted)
                    && now.since(self.state.since) >= GONE_AFTER
                {
                    self.ended(now);
                }
            }
            Observation::StopFailed(error) => {
                self.state.asked = false;
                self.failed(error, seed, now);
            }
            Observation::FindFailed(error) | Observation::DescribeFailed(error) => {
                self.failed(error, seed, now)
            }
            // A launch that failed launched nothing, and the end is under way already.
            Observation::LaunchFailed(_)
            | Observation::CancelRequested
            | Observation::TimePassed => {}
            // The container is of no interest any more.
            Observation::Addressed(_)
            | Observation::AddressFailed(_)
            | Observation::Answered(_)
            | Observation::Unreachable(_)
            | Observation::RunRequested { .. }
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::RunFailed(_)
            | Observation::Signalled(_) => {}
        }
        Step::Stay(self)
    }

    pub(crate) fn plan(&mut self, now: Timestamp) -> Action {
        let state = &mut self.state;
        let cluster = self.header.spec.cluster.clone();
        if state.over || (state.task.is_none() && state.unsettled.is_none()) {
            return Action::Archive;
        }
        if now >= state.deadline {
            return Action::GiveUp;
        }
        let wait = Watch {
            describe: None,
            address: None,
            probe: None,
            until: state.describing.next.min(state.deadline),
        };
        let Some(task) = state.task.clone() else {
            if now < state.describing.next {
                return Action::Watch(wait);
            }
            state.listing.get_or_insert(now);
            return Action::Find { cluster, started_by: self.header.spec.started_by.clone() };
        };
        // A found task may be an earlier attempt's, which is over: then the one that was asked for
        // is still to be found.
        let is_found = state.unsettled.is_some()
            && state.describing.answers == 0
            && state.describing.failures < BELIEVED_REFUSALS;
        if state.accepted || is_found {
            let until = state.deadline;
            return Action::Watch(Watch {
                describe: Some((task, state.describing.next)),
                until,
                ..wait
            });
        }
        if now < state.describing.next {
            return Action::Watch(wait);
        }
        state.asked = true;
        Action::Stop { cluster, task, reason: state.reason.clone() }
    }

    /// Another process takes the end up: it has its own time, and asks at once.
    fn begin_anew(&mut self, now: Timestamp) {
        self.state.deadline = now + self.header.limits.stop;
        self.state.describing.next = now;
        self.state.describing.failures = 0;
        self.state.listing = None;
    }

    /// ECS has accepted to stop the task. The next one is stopped before this one's end is waited
    /// for.
    fn accepted(&mut self, now: Timestamp) {
        let seed = self.seed();
        let state = &mut self.state;
        if state.rest.is_empty() {
            state.accepted = true;
            state.describing = Asking::from(now + DESCRIBE.interval(0, seed));
        } else {
            let next = state.rest.remove(0);
            state.ending.extend(state.task.replace(next));
            state.asked = false;
            state.describing = Asking::from(now);
        }
    }

    fn found(&mut self, tasks: &[crate::TaskArn], now: Timestamp) {
        let state = &mut self.state;
        state.problem = None;
        // An answer may be as old as its question.
        let listed = state.listing.take();
        if let (Some(asked), Some(listed)) = (state.unsettled, listed)
            && listed.since(asked) >= SETTLES_WITHIN
        {
            state.unsettled = None;
        }
        // Tasks that were stopped before are known already.
        let mut tasks: Vec<_> =
            tasks.iter().filter(|task| !state.ending.contains(task)).cloned().collect();
        tasks.extend(state.rest.drain(..).filter(|task| !tasks.contains(task)).collect::<Vec<_>>());
        if tasks.is_empty() && state.unsettled.is_some() {
            state.describing.next = now
                + DESCRIBE
                    .interval(state.describing.answers, crate::pace::seed(self.header.id.as_str()));
            state.describing.answers += 1;
        } else if tasks.is_empty() {
            self.next(now);
        } else {
            state.task = Some(tasks.remove(0));
            state.rest = tasks;
            state.describing = Asking::from(now);
        }
    }

    /// One task is over.
    fn ended(&mut self, now: Timestamp) {
        self.state.asked = false;
        if self.state.rest.is_empty()
            && self.state.ending.is_empty()
            && self.state.unsettled.is_none()
        {
            self.state.over = true;
        } else {
            self.next(now);
        }
    }

    /// On to the next task: one that is to be stopped, one that is still to be found, one whose end
    /// is to be seen.
    fn next(&mut self, now: Timestamp) {
        let state = &mut self.state;
        state.asked = false;
        state.accepted = false;
        if !state.rest.is_empty() {
            state.task = Some(state.rest.remove(0));
            state.describing = Asking::from(now);
        } else if state.unsettled.is_some() {
            state.task = None;
            state.describing = Asking::from(now + DESCRIBE.longest);
        } else if !state.ending.is_empty() {
            state.task = Some(state.ending.remove(0));
            state.accepted = true;
            state.describing = Asking::from(now);
        } else {
            state.task = None;
        }
    }

    fn failed(&mut self, error: &ControlError, seed: u64, now: Timestamp) {
        self.state.listing = None;
        self.state.describing.next =
            now + RETRY.interval(self.state.describing.failures.min(4), seed);
        self.state.describing.failures += 1;
        self.state.problem = Some(error.clone());
    }
}
