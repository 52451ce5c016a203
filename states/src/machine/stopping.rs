//! `Stopping`: finds the tasks that may have been launched, stops them, and waits until they have
//! ended.
//!
//! Every task is asked to stop before the end of any is waited for. A process may leave as soon as
//! ECS has accepted all stops (see [`Stopping::all_accepted`]); another one checks later whether
//! the tasks have ended.

use std::{mem, time::Duration};

use super::{BELIEVED_REFUSALS, DESCRIBE, GONE_AFTER, RETRY, State, Step};
use crate::{
    Action, ControlError, Job, LONGEST_CALL, Observation, OtherTasks, Polling, StopPhase,
    StopReason, Stopping, TaskArn, TaskReport, Timestamp, Watch,
};

/// How long after RunTask its task may be missing in ListTasks (Amazon ECS API reference, RunTask:
/// "eventual consistency").
const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// How long after an unanswered RunTask began a ListTasks without its task shows that there is
/// none.
pub(super) const SETTLES_WITHIN: Duration = LONGEST_CALL.saturating_add(LISTED_WITHIN);

impl StopPhase {
    /// The phase in which `task` is the next to be stopped. As long as a launch has no answer, the
    /// task may be an earlier attempt's. So it is described first: if it is, the launched task is
    /// still to be found.
    pub(crate) fn stop(task: TaskArn, launched: Option<Timestamp>, others: OtherTasks) -> Self {
        match launched {
            Some(launched) => Self::Checking { task, launched, others },
            None => Self::Requesting { task, launched, sent: false, others },
        }
    }

    /// Takes the phase out of the state. The caller puts the next one there.
    fn take(&mut self) -> Self {
        mem::replace(self, Self::Over { task: None })
    }
}

impl Polling {
    /// Whether ECS has neither described the task nor refused that for good.
    pub(crate) fn has_no_result(&self) -> bool {
        self.answers == 0 && self.failures < BELIEVED_REFUSALS
    }
}

impl<S: State> Job<S> {
    /// The edge to `Stopping` that every state has.
    pub(super) fn into_stopping(
        self,
        task: Option<TaskArn>,
        launched: Option<Timestamp>,
        reason: StopReason,
        now: Timestamp,
    ) -> Job<Stopping> {
        let others = OtherTasks::default();
        let phase = match (task, launched) {
            (task, _) if matches!(reason, StopReason::TaskVanished) => StopPhase::Over { task },
            (Some(task), launched) => StopPhase::stop(task, launched, others),
            (None, Some(launched)) => StopPhase::Searching { launched, listed: None, others },
            (None, None) => StopPhase::Over { task: None },
        };
        let state = Stopping {
            reason,
            since: now,
            deadline: now + self.header.limits.stop,
            phase,
            describing: Polling::from(now),
            problem: None,
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
                self.request_again();
                self.begin_anew(now);
            }
            Observation::Found(tasks) => self.found(tasks, now),
            Observation::Launched(report) => self.launched(&report.task, now),
            Observation::StopAccepted => {
                self.state.problem = None;
                self.accepted(now);
            }
            Observation::Described(report) => {
                self.state.describing.answered(DESCRIBE, seed, now);
                self.described(report, now);
            }
            Observation::Missing => {
                let gone = self.state.describing.missing(DESCRIBE, seed, now);
                // ECS has forgotten a task that ended; it may not show yet one that was launched
                // moments ago. ECS knew the task whose stop it accepted.
                let was_accepted = matches!(self.state.phase, StopPhase::Ending { .. });
                if (gone.is_some() || was_accepted) && now.since(self.state.since) >= GONE_AFTER {
                    self.ended(now);
                }
            }
            Observation::StopFailed(error) => {
                if let StopPhase::Requesting { sent, .. } = &mut self.state.phase {
                    *sent = false;
                }
                self.failed(error, seed, now);
            }
            Observation::FindFailed(error) | Observation::DescribeFailed(error) => {
                self.failed(error, seed, now);
            }
            // A launch that failed launched nothing, and the end is under way already.
            Observation::LaunchFailed(_)
            | Observation::CancelRequested
            | Observation::TimePassed => {}
            // The container does not matter any more.
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
            | Observation::Signalled(_) => {}
        }
        Step::Stay(self)
    }

    pub(crate) fn plan(&mut self, now: Timestamp) -> Action {
        let state = &mut self.state;
        let is_due = now >= state.describing.next;
        let wait = Watch {
            describe: None,
            address: None,
            probe: None,
            until: state.describing.next.min(state.deadline),
        };
        let cluster = self.header.spec.cluster.clone();
        match &mut state.phase {
            StopPhase::Over { .. } => Action::Archive,
            _ if now >= state.deadline => Action::GiveUp,
            StopPhase::Checking { task, .. } | StopPhase::Ending { task, .. } => {
                Action::Watch(Watch {
                    describe: Some((task.clone(), state.describing.next)),
                    until: state.deadline,
                    ..wait
                })
            }
            StopPhase::Searching { .. } | StopPhase::Requesting { .. } if !is_due => {
                Action::Watch(wait)
            }
            StopPhase::Searching { listed, .. } => {
                listed.get_or_insert(now);
                Action::Find { cluster, started_by: self.header.spec.started_by.clone() }
            }
            StopPhase::Requesting { task, sent, .. } => {
                *sent = true;
                Action::Stop { cluster, task: task.clone(), reason: state.reason.clone() }
            }
        }
    }

    /// Another process continues: it has its own time, and asks at once.
    fn begin_anew(&mut self, now: Timestamp) {
        let state = &mut self.state;
        state.deadline = now + self.header.limits.stop;
        state.describing.next = now;
        state.describing.failures = 0;
        state.phase = match state.phase.take() {
            StopPhase::Searching { launched, others, .. } => {
                StopPhase::Searching { launched, listed: None, others }
            }
            StopPhase::Requesting { task, launched: Some(launched), others, .. } => {
                StopPhase::Checking { task, launched, others }
            }
            phase => phase,
        };
    }

    /// A process that wants the end asks for all stops again: ECS may have accepted one to an
    /// earlier process without carrying it out.
    fn request_again(&mut self) {
        let state = &mut self.state;
        state.phase = match state.phase.take() {
            StopPhase::Searching { launched, listed, others } => {
                StopPhase::Searching { launched, listed, others: others.all_to_stop() }
            }
            StopPhase::Checking { task, launched, others } => {
                StopPhase::Checking { task, launched, others: others.all_to_stop() }
            }
            StopPhase::Requesting { task, launched, sent, others } => {
                StopPhase::Requesting { task, launched, sent, others: others.all_to_stop() }
            }
            StopPhase::Ending { task, launched, others } => {
                let others = OtherTasks { to_stop: others, ending: Vec::new() };
                StopPhase::stop(task, launched, others)
            }
            over @ StopPhase::Over { .. } => over,
        };
    }

    /// RunTask's answer came late, after a cancel: then there is a task after all.
    fn launched(&mut self, launched: &TaskArn, now: Timestamp) {
        let state = &mut self.state;
        let mut others = match state.phase.take() {
            StopPhase::Searching { others, .. } => others,
            StopPhase::Checking { task, mut others, .. }
            | StopPhase::Requesting { task, mut others, .. } => {
                others.to_stop.push(task);
                others
            }
            StopPhase::Ending { task, mut others, .. } => {
                others.push(task);
                OtherTasks { to_stop: Vec::new(), ending: others }
            }
            StopPhase::Over { .. } => OtherTasks::default(),
        };
        others.to_stop.retain(|task| task != launched);
        others.ending.retain(|task| task != launched);
        state.phase = StopPhase::stop(launched.clone(), None, others);
        state.describing = Polling::from(now);
    }

    /// ListTasks answered.
    fn found(&mut self, found: &[TaskArn], now: Timestamp) {
        let seed = self.seed();
        let state = &mut self.state;
        let (launched, listed, mut others) = match state.phase.take() {
            StopPhase::Searching { launched, listed, others } => (launched, listed, others),
            // Only `Searching` asks.
            phase => {
                state.phase = phase;
                return;
            }
        };
        state.problem = None;
        // An answer may be as old as its question.
        let is_settled = listed.is_some_and(|listed| listed.since(launched) >= SETTLES_WITHIN);
        let launched = (!is_settled).then_some(launched);
        // Tasks that were stopped before are known already.
        let mut tasks: Vec<_> =
            found.iter().filter(|task| !others.ending.contains(task)).cloned().collect();
        others.to_stop.retain(|task| !tasks.contains(task));
        tasks.append(&mut others.to_stop);
        others.to_stop = tasks;
        match launched {
            Some(launched) if others.to_stop.is_empty() => {
                state.phase = StopPhase::Searching { launched, listed: None, others };
                state.describing.next = now + DESCRIBE.interval(state.describing.answers, seed);
                state.describing.answers += 1;
            }
            launched => self.next(launched, others, now),
        }
    }

    /// DescribeTasks answered about the phase's task.
    fn described(&mut self, report: &TaskReport, now: Timestamp) {
        if report.status.has_ended() {
            self.ended(now);
            return;
        }
        let is_stopped = report.stop_desired || report.status.is_ending();
        let state = &mut self.state;
        match state.phase.take() {
            // It may be an earlier attempt's, whose end was not waited for: the launched one is
            // still to be found.
            StopPhase::Checking { task, launched, mut others }
            | StopPhase::Requesting { task, launched: Some(launched), mut others, .. }
                if is_stopped =>
            {
                others.ending.push(task);
                self.next(Some(launched), others, now);
            }
            // Earlier attempts' tasks were stopped before this attempt began: one that is not is
            // the launched one.
            StopPhase::Checking { task, others, .. } => {
                state.describing.next = now;
                state.phase = StopPhase::stop(task, None, others);
            }
            StopPhase::Requesting { task, launched: Some(_), sent, others } => {
                state.describing.next = now;
                state.phase = StopPhase::Requesting { task, launched: None, sent, others };
            }
            StopPhase::Ending { task, launched: Some(_), others } => {
                state.describing.next = now;
                state.phase = StopPhase::Ending { task, launched: None, others };
            }
            phase => {
                state.phase = phase;
                if is_stopped && matches!(state.phase, StopPhase::Requesting { .. }) {
                    self.accepted(now);
                }
            }
        }
    }

    /// ECS has accepted to stop the task. The next one is stopped before this one's end is waited
    /// for.
    fn accepted(&mut self, now: Timestamp) {
        let seed = self.seed();
        let state = &mut self.state;
        let (task, launched, mut others) = match state.phase.take() {
            StopPhase::Requesting { task, launched, others, .. } => (task, launched, others),
            StopPhase::Checking { task, launched, others } => (task, Some(launched), others),
            phase => {
                state.phase = phase;
                return;
            }
        };
        if others.to_stop.is_empty() {
            state.phase = StopPhase::Ending { task, launched, others: others.ending };
            state.describing = Polling::from(now + DESCRIBE.interval(0, seed));
        } else {
            others.ending.push(task);
            self.next(launched, others, now);
        }
    }

    /// The phase's task has ended.
    fn ended(&mut self, now: Timestamp) {
        let state = &mut self.state;
        let (task, launched, others) = match state.phase.take() {
            StopPhase::Checking { task, launched, others } => (task, Some(launched), others),
            StopPhase::Requesting { task, launched, others, .. } => (task, launched, others),
            StopPhase::Ending { task, launched, others } => {
                (task, launched, OtherTasks { to_stop: Vec::new(), ending: others })
            }
            phase @ (StopPhase::Searching { .. } | StopPhase::Over { .. }) => {
                state.phase = phase;
                return;
            }
        };
        if launched.is_none() && others.is_empty() {
            state.phase = StopPhase::Over { task: Some(task) };
        } else {
            self.next(launched, others, now);
        }
    }

    /// Turns to the next task: one that is to be stopped, one that is still to be found, one whose
    /// end is awaited.
    fn next(&mut self, launched: Option<Timestamp>, mut others: OtherTasks, now: Timestamp) {
        let state = &mut self.state;
        state.describing = Polling::from(now);
        state.phase = if !others.to_stop.is_empty() {
            let task = others.to_stop.remove(0);
            StopPhase::stop(task, launched, others)
        } else if let Some(launched) = launched {
            state.describing.next = now + DESCRIBE.longest;
            StopPhase::Searching { launched, listed: None, others }
        } else if !others.ending.is_empty() {
            let task = others.ending.remove(0);
            StopPhase::Ending { task, launched: None, others: others.ending }
        } else {
            StopPhase::Over { task: None }
        };
    }

    /// A call failed. A task that ECS refuses to describe is stopped all the same.
    fn failed(&mut self, error: &ControlError, seed: u64, now: Timestamp) {
        let state = &mut self.state;
        state.describing.next = now + RETRY.interval(state.describing.failures.min(4), seed);
        state.describing.failures += 1;
        state.problem = Some(error.clone());
        state.phase = match state.phase.take() {
            StopPhase::Searching { launched, others, .. } => {
                StopPhase::Searching { launched, listed: None, others }
            }
            StopPhase::Checking { task, launched, others } if !state.describing.has_no_result() => {
                StopPhase::Requesting { task, launched: Some(launched), sent: false, others }
            }
            phase => phase,
        };
    }
}

impl OtherTasks {
    /// Those that are ending are stopped again.
    fn all_to_stop(mut self) -> Self {
        self.to_stop.append(&mut self.ending);
        self
    }
}
