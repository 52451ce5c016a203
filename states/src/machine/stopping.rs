//! `Stopping`: find what may have been launched, stop it, and see that it is over.

use std::time::Duration;

use super::{BELIEVED_REFUSALS, DESCRIBE, GONE_AFTER, RETRY, Step};
use crate::{Action, Asking, ControlError, Job, LONGEST_CALL, Observation, Stopping, Timestamp, Watch};

/// How long after RunTask its task may be missing in ListTasks (Amazon ECS API reference, RunTask: "eventual consistency").
const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// How long after an unanswered RunTask was begun a ListTasks that does not know its task is believed.
pub(super) const SETTLES_WITHIN: Duration = LONGEST_CALL.saturating_add(LISTED_WITHIN);
/// StopTask's `reason` is cut to this many characters (ECS shows 255 of `stoppedReason`).
const REASON_LENGTH: usize = 200;

impl Job<Stopping> {
    pub(crate) fn observe(mut self, saw: &Observation, now: Timestamp) -> Step<Stopping> {
        let seed = self.seed();
        match saw {
            Observation::Opened { .. } | Observation::StopRequested(_) => {
                // Whoever takes the job up asks again: an earlier process may have been told what did not come true.
                self.state.accepted = false;
                self.state.deadline = now + self.header.limits.stop;
                self.state.describing.next = now;
                self.state.describing.failures = 0;
                self.state.listing = None;
            }
            Observation::Found(tasks) => self.found(tasks, now),
            // RunTask's answer may come late, after a cancel: then there is a task after all.
            Observation::Launched(report) => {
                self.state.unsettled = None;
                self.state.task = Some(report.task.clone());
                self.state.describing = Asking::from(now);
            }
            Observation::StopAccepted => {
                self.state.accepted = true;
                self.state.problem = None;
                self.state.describing = Asking::from(now + DESCRIBE.interval(0, seed));
            }
            Observation::Described(report) => {
                self.state.describing.answered(DESCRIBE, seed, now);
                self.state.accepted |= report.stop_desired;
                if report.status.is_over() {
                    self.ended(now);
                } else if self.state.unsettled.take().is_some() {
                    // An earlier attempt's task was over before this attempt began: one that lives is what we look for.
                    self.state.describing.next = now;
                }
            }
            Observation::Missing => {
                let gone = self.state.describing.missing(DESCRIBE, seed, now);
                // A task that ECS forgot is over; one that it does not show yet was launched moments ago.
                if gone.is_some() && now.since(self.state.since) >= GONE_AFTER {
                    self.ended(now);
                }
            }
            Observation::StopFailed(error) => {
                self.state.asked = false;
                self.failed(error, seed, now);
            }
            Observation::FindFailed(error) | Observation::DescribeFailed(error) => self.failed(error, seed, now),
            _ => {}
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
        let wait = Watch { describe: None, address: None, probe: None, until: state.describing.next.min(state.deadline) };
        let Some(task) = state.task.clone() else {
            if now < state.describing.next {
                return Action::Watch(wait);
            }
            state.listing.get_or_insert(now);
            return Action::Find { cluster, started_by: self.header.spec.started_by.clone() };
        };
        // A found task may be an earlier attempt's, which is over: then the one that was asked for is still to be found.
        let is_found = state.unsettled.is_some() && state.describing.answers == 0 && state.describing.failures < BELIEVED_REFUSALS;
        if state.accepted || is_found {
            let until = state.deadline;
            return Action::Watch(Watch { describe: Some((task, state.describing.next)), until, ..wait });
        }
        if now < state.describing.next {
            return Action::Watch(wait);
        }
        state.asked = true;
        let reason: String = format!("fargate driver: {}", state.reason).chars().take(REASON_LENGTH).collect();
        Action::Stop { cluster, task, reason }
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
        if let Some((first, rest)) = tasks.split_first() {
            state.task = Some(first.clone());
            state.rest = rest.to_vec();
            state.describing = Asking::from(now);
        } else {
            state.describing.next = now + DESCRIBE.interval(state.describing.answers, crate::pace::seed(self.header.id.as_str()));
            state.describing.answers += 1;
        }
    }

    /// One task is over; the next one, if there are more.
    fn ended(&mut self, now: Timestamp) {
        let state = &mut self.state;
        state.asked = false;
        if !state.rest.is_empty() {
            state.task = Some(state.rest.remove(0));
            state.accepted = false;
            state.describing = Asking::from(now);
        } else if state.unsettled.is_some() {
            state.task = None;
            state.accepted = false;
            state.describing = Asking::from(now + DESCRIBE.longest);
        } else {
            state.over = true;
        }
    }

    fn failed(&mut self, error: &ControlError, seed: u64, now: Timestamp) {
        self.state.listing = None;
        self.state.describing.next = now + RETRY.interval(self.state.describing.failures.min(4), seed);
        self.state.describing.failures += 1;
        self.state.problem = Some(error.clone());
    }
}
