//! The search for a task whose launch got no answer, while ECS refuses its token with a conflict.
//!
//! The conflict shows that an earlier RunTask used the token, but not whether it launched a task.
//! ListTasks and DescribeTasks show that. When they have shown none for as long as one may still
//! appear, there is none, and a new token is safe.

use std::sync::Arc;

use super::{DESCRIBE, stopping::SETTLES_WITHIN};
use crate::{
    Action, ControlError, Header, Job, Observation, Polling, Provisioning, Search, StopReason,
    TaskReport, Timestamp, Watch,
};

/// What an observation means for a search.
pub(super) enum Searched {
    /// It continues.
    On,
    /// This task lives: it is the job's.
    Found(Arc<TaskReport>),
    /// The earlier launch has no task.
    Nothing,
    /// ECS refuses to answer.
    Refused(StopReason),
}

impl Search {
    /// Starting now.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, listed: None, candidates: Vec::new(), asking: Polling::from(now) }
    }

    pub(super) fn observe(&mut self, saw: &Observation, seed: u64, now: Timestamp) -> Searched {
        match saw {
            Observation::Opened { .. } => {
                // The answer to the earlier process's question never came.
                self.listed = None;
                self.candidates.clear();
                self.asking.next = now;
                self.asking.failures = 0;
            }
            Observation::Found(tasks) => {
                self.candidates = tasks.clone();
                self.asking.next = now;
                return self.next_candidate(seed, now);
            }
            Observation::Described(report) if self.candidates.first() == Some(&report.task) => {
                if !report.stop_desired && !report.status.is_ending() {
                    return Searched::Found(Arc::clone(report));
                }
                self.candidates.remove(0);
                return self.next_candidate(seed, now);
            }
            // ListTasks may show a task a moment earlier than DescribeTasks. A later round decides:
            // this one has found a task, so it does not show that there is none.
            Observation::Missing if !self.candidates.is_empty() => {
                self.listed = None;
                self.candidates.remove(0);
                return self.next_candidate(seed, now);
            }
            Observation::FindFailed(error) => {
                self.listed = None;
                return self.failed(error, seed, now);
            }
            Observation::DescribeFailed(error) => return self.failed(error, seed, now),
            // Answers about tasks that are not candidates, and passing time.
            Observation::Described(_) | Observation::Missing | Observation::TimePassed => {}
            // `Provisioning` handles these.
            Observation::Claimed(_)
            | Observation::Launched(_)
            | Observation::LaunchFailed(_)
            | Observation::CancelRequested
            | Observation::StopRequested(_) => {}
            // No task exists that these could be about.
            Observation::Addressed(_)
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
        Searched::On
    }

    /// Continues with the round's next candidate, or ends the round after the last one. An answer
    /// is as old as its question.
    fn next_candidate(&mut self, seed: u64, now: Timestamp) -> Searched {
        self.asking.failures = 0;
        if !self.candidates.is_empty() {
            return Searched::On;
        }
        if self.listed.take().is_some_and(|listed| listed.since(self.since) >= SETTLES_WITHIN) {
            return Searched::Nothing;
        }
        self.asking.answered(DESCRIBE, seed, now);
        Searched::On
    }

    fn failed(&mut self, error: &ControlError, seed: u64, now: Timestamp) -> Searched {
        self.asking.failed(error, seed, now).map_or(Searched::On, Searched::Refused)
    }

    pub(super) fn plan(&mut self, header: &Header, deadline: Timestamp, now: Timestamp) -> Action {
        let watch = |describe, until: Timestamp| {
            Action::Watch(Watch {
                describe,
                address: None,
                probe: None,
                until: until.min(deadline),
            })
        };
        if let Some(task) = self.candidates.first() {
            return watch(Some((task.clone(), self.asking.next)), deadline);
        }
        if now < self.asking.next {
            return watch(None, self.asking.next);
        }
        self.listed.get_or_insert(now);
        Action::Find {
            cluster: header.spec.cluster.clone(),
            started_by: header.spec.started_by.clone(),
        }
    }
}

impl Job<Provisioning> {
    /// Begins a search: ECS has refused the launch's token, as an earlier call used it.
    pub(super) fn search(&mut self, conflict: &ControlError, now: Timestamp) {
        self.state.unknown = true;
        self.state.problem = Some(conflict.clone());
        self.state.search = Some(Search::new(now));
    }

    /// Prepares a launch with a new token: no task of an earlier one can appear any more.
    pub(super) fn launch_anew(&mut self, now: Timestamp) {
        self.state.search = None;
        self.state.launch += 1;
        self.state.asked = None;
        self.state.unknown = false;
        self.state.next = now;
    }
}
