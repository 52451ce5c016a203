//! The loop: plan, save, act, observe.

use std::{
    borrow::Cow,
    mem::{self, Discriminant},
    time::Duration,
};

use super::{Engine, EngineError, Goal, JobIo, Note, Outcome, Script, Work, watch::Pendings};
use crate::{
    Action, AnyJob, ClientToken, ControlCause, ControlError, ControlErrorKind, Header,
    LONGEST_CALL, LaunchSpec, Link, Observation, RunContainer, RunError, RunId, RunOutcome,
    Session as _, Snapshot, SnapshotStore, StateName, StopAnswer, StopPhase, StopReason, TaskArn,
    TaskControl, TaskReport, Timestamp, Transport, trace,
};

/// How often the snapshot is saved while nothing but the journal changes.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(2);

/// The part of a state that the world may remember. When it changes, the snapshot is saved before
/// any action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    state: StateName,
    task: Option<TaskArn>,
    launch: Option<(u32, Option<Timestamp>)>,
    run: Option<(RunId, bool)>,
    stop: Option<(Discriminant<StopPhase>, bool)>,
}

impl Promise {
    pub(super) fn of(job: &AnyJob) -> Self {
        let mut promise = Self {
            state: job.name(),
            task: job.task().cloned(),
            launch: None,
            run: None,
            stop: None,
        };
        match job {
            AnyJob::Provisioning(job) => promise.launch = Some((job.state.launch, job.state.asked)),
            AnyJob::Executing(job) => {
                promise.run = Some((job.state.order.run.clone(), job.state.ending.is_some()))
            }
            AnyJob::Stopping(job) => {
                promise.stop = Some((mem::discriminant(&job.state.phase), job.state.has_asked()))
            }
            AnyJob::Pending(_) | AnyJob::Running(_) | AnyJob::Reachable(_) => {}
        }
        promise
    }
}

impl<N, L> Work<N, L> {
    /// Journals the offset reached.
    pub(super) fn note_progress(&mut self, offset: u64, now: Timestamp) {
        self.snapshot.step(Observation::Progress { offset }, now);
    }
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Begins a job: nothing is launched yet, and nothing is on disk.
    pub fn begin(&self, header: Header, lease: S::Lease) -> Work<T::Session, S::Lease> {
        self.work(Snapshot::new(header), lease)
    }

    /// Records that this process works on the job. Always the first thing done with a job.
    pub async fn open(&self, work: &mut Work<T::Session, S::Lease>, purpose: &str) {
        let opened =
            Observation::Opened { process: std::process::id(), purpose: purpose.to_owned() };
        work.snapshot.step(opened, self.clock.now());
        if let AnyJob::Executing(job) = &work.snapshot.job
            && let Some(offset) = self
                .store
                .marked(&job.header.id, &job.state.order.run)
                .await
                .filter(|offset| *offset > job.state.offset)
        {
            // The process before was killed between handing this on and its next save.
            work.note_progress(offset, self.clock.now());
        }
    }

    /// Records that output of the run up to `offset` was handed on, by a process that could not mark
    /// it.
    pub fn handed_on(&self, work: &mut Work<T::Session, S::Lease>, offset: u64) {
        if matches!(&work.snapshot.job, AnyJob::Executing(job) if offset > job.state.offset) {
            work.note_progress(offset, self.clock.now());
        }
    }

    /// Records that a script is to run in `container`. Takes effect in `Reachable`. In `Executing`, a
    /// script equal to the running one is the same run, retried.
    ///
    /// # Errors
    /// In any other state, or while another script runs.
    pub fn request_run(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        stage: &str,
        script: Script,
        container: RunContainer,
    ) -> Result<(), EngineError> {
        match &work.snapshot.job {
            AnyJob::Reachable(_) => {
                let requested = Observation::RunRequested {
                    stage: stage.to_owned(),
                    digest: script.digest.clone(),
                    container,
                };
                work.snapshot.step(requested, self.clock.now());
                if let (AnyJob::Executing(job), Some((session, _))) =
                    (&work.snapshot.job, &work.session)
                {
                    // It is on its way while the snapshot is saved.
                    session.send_ahead(&job.state.order, &script.text);
                }
            }
            AnyJob::Executing(job)
                if job.state.order.stage == stage && job.state.digest == script.digest => {}
            AnyJob::Executing(job) => {
                return Err(EngineError::Unsuitable(format!(
                    "stage {} is still running in the container",
                    job.state.order.stage
                )));
            }
            other => {
                return Err(EngineError::Unsuitable(format!(
                    "the job is {}, not Reachable",
                    other.name()
                )));
            }
        }
        work.script = Some(script);
        Ok(())
    }

    /// Records that the job's task is to end.
    pub fn request_stop(&self, work: &mut Work<T::Session, S::Lease>, reason: StopReason) {
        work.snapshot.step(Observation::StopRequested(reason), self.clock.now());
    }

    /// Records that the stage, or the run, is to end early.
    pub fn request_cancel(&self, work: &mut Work<T::Session, S::Lease>) {
        work.snapshot.step(Observation::CancelRequested, self.clock.now());
    }

    /// Drives the job towards `goal`.
    ///
    /// # Errors
    /// When the snapshot cannot be saved, or the output cannot be written. The driver begins
    /// nothing that the snapshot does not hold.
    pub async fn drive(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        goal: Goal,
        io: &mut impl JobIo,
    ) -> Result<Outcome, EngineError> {
        let mut pending = Pendings::none();
        let mut following = None;
        loop {
            let now = self.clock.now();
            let action = work.snapshot.plan(now);
            if !matches!(action, Action::Watch(_)) {
                // A future that is no longer polled must be dropped: others may wait for the same
                // answer.
                pending = Pendings::none();
            }
            // Archiving saves the snapshot, too.
            let is_archived_now =
                action == Action::Archive && matches!(goal, Goal::Stop | Goal::End);
            let is_settled_later = work.settles
                && goal == Goal::Run
                && action == Action::Await
                && has_succeeded(&work.snapshot.job);
            let is_saved =
                is_settled_later || (!is_archived_now && self.save_if_due(work, &action).await?);
            if let Some(outcome) = self.reached(work, &action, goal, is_saved).await? {
                return Ok(outcome);
            }
            if matches!(action, Action::Watch(_)) {
                // This job has nothing to do at this moment.
                self.conclude_one().await;
            }
            let saw = match action {
                Action::Launch { token, spec } => {
                    // A cancel does not abandon the call: its answer names the task to stop.
                    match self.launch(work.snapshot.job.header(), &token, spec).await {
                        Ok(report) => Observation::Launched(report.into()),
                        Err(error) => Observation::LaunchFailed(error),
                    }
                }
                Action::Watch(watch) => tokio::select! {
                    biased;
                    () = io.cancelled() => Observation::CancelRequested,
                    notice = self.waits_for(
                        work.snapshot.job.header().transport().name.clone(),
                        work.snapshot.job.task().cloned(),
                    ) => {
                        io.note(Note::Waiting(&notice));
                        continue;
                    }
                    saw = self.watch(watch, work, &mut pending) => saw,
                },
                Action::Follow(follow) => self.follow(&follow, work, &mut following, io).await?,
                Action::Signal { order, signal } => match &work.session {
                    Some((session, _)) => match self
                        .signal(session, &work.lease, (&order, signal), &mut following, io)
                        .await?
                    {
                        Ok(()) => Observation::Signalled(signal),
                        Err(error) => {
                            self.give_up_connection(work, following.take());
                            Observation::RunFailed(error)
                        }
                    },
                    None => Observation::RunFailed(RunError::ConnectionLost(
                        "there is no connection".to_owned(),
                    )),
                },
                Action::Find { cluster, started_by } => {
                    match self.control.find(&cluster, &started_by).await {
                        Ok(tasks) => Observation::Found(tasks),
                        Err(error) => Observation::FindFailed(error),
                    }
                }
                Action::Stop { cluster, task, reason } => {
                    match self.control.stop(&cluster, &task, &reason).await {
                        Ok(StopAnswer::Accepted) => Observation::StopAccepted,
                        Ok(StopAnswer::Missing) => Observation::Missing,
                        Err(error) => Observation::StopFailed(error),
                    }
                }
                // `reached` returns for these.
                Action::Await | Action::Archive | Action::GiveUp => {
                    unreachable!("{action:?} ends a drive")
                }
            };
            self.observe(work, saw, io);
            if !matches!(work.snapshot.job, AnyJob::Executing(_)) {
                following = None;
            }
        }
    }

    /// Asks for a task. Nothing is sent after [`LONGEST_CALL`]: the search for a launch without an
    /// answer relies on it.
    async fn launch(
        &self,
        header: &Header,
        token: &ClientToken,
        mut spec: Box<LaunchSpec>,
    ) -> Result<TaskReport, ControlError> {
        (self.secrets)(header, &mut spec).map_err(|error| ControlError {
            operation: "RunTask".to_owned(),
            kind: ControlErrorKind::Other,
            code: None,
            message: error.message,
            cause: ControlCause::JobKey,
        })?;
        tokio::select! {
            biased;
            answer = self.control.launch(token, &spec) => answer,
            () = self.clock.until(self.clock.now() + LONGEST_CALL) => Err(ControlError {
                operation: "RunTask".to_owned(),
                kind: ControlErrorKind::Unavailable,
                code: None,
                message: format!("it did not answer within {} s", LONGEST_CALL.as_secs()),
                cause: ControlCause::NoAnswer,
            }),
        }
    }

    /// Returns the next thing that attempts to reach the task wait for.
    async fn waits_for(&self, transport: Cow<'static, str>, task: Option<TaskArn>) -> String {
        match task {
            Some(task) => self.transport.waits_for(&transport, &task).await,
            None => std::future::pending().await,
        }
    }

    /// Journals an observation, steps the machine, and reports to the caller.
    fn observe(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        saw: Observation,
        io: &mut impl JobIo,
    ) {
        let before = work.snapshot.job.name();
        let was_down = is_down(&work.snapshot.job);
        if let Observation::Unreachable(error) = &saw {
            io.note(Note::Unreachable(error));
        }
        work.snapshot.step(saw.clone(), self.clock.now());
        let job = &work.snapshot.job;
        let note = match (was_down, is_down(job), &saw, job) {
            _ if job.name() != before => {
                Note::Entered { state: job.name(), snapshot: &work.snapshot }
            }
            (false, true, Observation::RunFailed(error), _) => {
                Note::ConnectionLost(error.to_string())
            }
            (true, false, _, AnyJob::Executing(executing))
                if !was_first(was_down, &work.snapshot) =>
            {
                Note::Reconnected { offset: executing.state.offset }
            }
            _ => Note::Observed(&saw),
        };
        trace::record(&note);
        io.note(note);
    }

    /// Returns the outcome if the goal is reached, or if this process can do no more for it. All
    /// observations are then on disk, or [`Engine::settle`] saves them.
    async fn reached(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        action: &Action,
        goal: Goal,
        is_saved: bool,
    ) -> Result<Option<Outcome>, EngineError> {
        let outcome = match (&work.snapshot.job, action) {
            (AnyJob::Reachable(job), Action::Await) => Outcome::Reachable(job.state.last.clone()),
            (AnyJob::Stopping(job), Action::Archive) if matches!(goal, Goal::Stop | Goal::End) => {
                let reason = job.state.reason.clone();
                self.store.archive(&work.lease, &work.snapshot).await?;
                work.saved = None;
                return Ok(Some(Outcome::Ended(reason)));
            }
            (AnyJob::Stopping(job), _) if goal == Goal::Stop && job.state.all_accepted() => {
                Outcome::Stopping(job.state.reason.clone())
            }
            (AnyJob::Stopping(_), Action::GiveUp) if matches!(goal, Goal::Stop | Goal::End) => {
                Outcome::Unfinished
            }
            // `cleanup`, which comes next, does the rest.
            (AnyJob::Stopping(job), _) if goal == Goal::Run => {
                Outcome::MustEnd(job.state.reason.clone())
            }
            // A task that is not used is stopped before the stage ends. Only the wait for its end
            // is left to `cleanup`.
            (AnyJob::Stopping(job), Action::Watch(_))
                if goal == Goal::Reach
                    && matches!(
                        job.state.phase,
                        StopPhase::Searching { .. } | StopPhase::Ending { .. }
                    ) =>
            {
                Outcome::MustEnd(job.state.reason.clone())
            }
            (AnyJob::Stopping(job), Action::Archive | Action::GiveUp) if goal == Goal::Reach => {
                Outcome::MustEnd(job.state.reason.clone())
            }
            _ => return Ok(None),
        };
        // A state that was just entered has been saved as it is.
        if !is_saved {
            self.save_unless_full(
                work,
                goal == Goal::Run && is_finished(&work.snapshot.job, action),
            )
            .await?;
        }
        if matches!(outcome, Outcome::Stopping(_))
            && let Err(e) = self.store.note_ending(&work.lease, &work.snapshot).await
        {
            tracing::warn!("{e}; `fargate reap` archives the job");
        }
        Ok(Some(outcome))
    }

    /// Saves the end of a run that [`Work::settle_later`] left. A failure is only logged: nothing
    /// depends on it.
    pub async fn settle(&self, work: &mut Work<T::Session, S::Lease>) {
        if Some(Promise::of(&work.snapshot.job)) != work.saved {
            // This error is logged.
            let _ = self.save_unless_full(work, true).await;
        }
    }

    /// Saves if the promise changed, or if the last save is long ago. Returns whether the snapshot
    /// is on disk as it is now.
    async fn save_if_due(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        action: &Action,
    ) -> Result<bool, EngineError> {
        let promised = Some(Promise::of(&work.snapshot.job)) == work.saved;
        let recent = work.saved_at.is_some_and(|at| self.clock.now().since(at) < SAVE_EVERY);
        if promised && recent {
            Ok(false)
        } else {
            self.save_unless_full(work, promised || is_finished(&work.snapshot.job, action)).await
        }
    }

    /// Saves, and returns whether it did. If nothing depends on it (`dispensable`), a write that
    /// fails is repeated after [`SAVE_EVERY`]: scripts continue when the disk is full.
    pub(super) async fn save_unless_full(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        dispensable: bool,
    ) -> Result<bool, EngineError> {
        match self.save(work).await {
            Err(error) if dispensable => {
                tracing::warn!("{error}; the job continues, and the save is repeated");
                work.saved_at = Some(self.clock.now());
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    async fn save(&self, work: &mut Work<T::Session, S::Lease>) -> Result<(), EngineError> {
        self.store.save(&work.lease, &work.snapshot).await?;
        work.saved = Some(Promise::of(&work.snapshot.job));
        work.saved_at = Some(self.clock.now());
        work.saved_end = work.snapshot.journal.end();
        Ok(())
    }
}

/// Whether a script has ended and nothing else was begun. A process whose snapshot shows it as
/// running attaches to it, and finds the same end.
fn is_finished(job: &AnyJob, action: &Action) -> bool {
    matches!((job, action), (AnyJob::Reachable(job), Action::Await) if job.state.last.is_some())
}

/// Whether a script has succeeded: if its stage is repeated, it does not run again.
fn has_succeeded(job: &AnyJob) -> bool {
    let AnyJob::Reachable(job) = job else { return false };
    job.state.last.as_ref().is_some_and(|last| {
        !last.cancelled && matches!(last.outcome, RunOutcome::Exited { code: 0, .. })
    })
}

fn is_down(job: &AnyJob) -> bool {
    matches!(job, AnyJob::Executing(job) if matches!(job.state.link, Link::Down { .. }))
}

/// Whether the connection that has just come up is this stage's first, so that none was lost.
fn was_first(was_down: bool, snapshot: &Snapshot) -> bool {
    let lost = |entry: &crate::Entry| matches!(entry.saw, Observation::RunFailed(_));
    let begins = |entry: &crate::Entry| {
        matches!(entry.saw, Observation::RunRequested { .. } | Observation::Opened { .. })
    };
    was_down && snapshot.journal.entries.iter().rev().take_while(|e| !begins(e)).all(|e| !lost(e))
}
