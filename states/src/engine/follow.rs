//! Starts or attaches to a run, and hands its output on.

use std::time::Duration;

use bytes::Bytes;

use super::{Engine, EngineError, JobIo, Work, drive::SAVE_EVERY};
use crate::{
    AnyJob, Described, Follow, Observation, Run, RunContainer, RunError, RunEvent, RunId, RunOrder,
    Seen, Session, SnapshotStore, TaskControl, Timestamp, Transport,
};

/// How often the offset reached is journaled while output flows.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// When ECS is asked about the task of a script whose processes are gone. ECS learns of a crash a
/// moment later …
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];
/// … and knows of a stop before. How long one answer may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// When it is asked again after a call that was throttled or failed for now, and for how long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Exit statuses after SIGKILL and SIGTERM (POSIX shells: 128 and the signal's number).
const KILLED: [i32; 2] = [128 + 9, 128 + 15];

/// A run being followed, kept from one observation to the next.
pub(super) struct Following<R> {
    pub(super) run: R,
    offset: u64,
    recorded: Timestamp,
    /// An event that came while the driver did something else.
    pub(super) next: Option<Result<RunEvent, RunError>>,
}

impl<R: Run> Following<R> {
    /// Returns the run's next event. Cancel-safe.
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        match self.next.take() {
            Some(event) => event,
            None => self.run.next().await,
        }
    }
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Drops the connection and journals how far a run was followed over it. The next connection
    /// continues there.
    pub(super) fn give_up_connection<R>(
        &self,
        work: &mut Work<T::Session, S::Lease>,
        followed: Option<Following<R>>,
    ) {
        work.session = None;
        if let AnyJob::Executing(job) = &work.snapshot.job
            && let Some(followed) = followed
            && followed.offset > job.state.offset
        {
            work.note_progress(followed.offset, self.clock.now());
        }
    }

    /// Performs [`crate::Action::Follow`] until the machine has something to decide.
    pub(super) async fn follow(
        &self,
        follow: &Follow,
        work: &mut Work<T::Session, S::Lease>,
        following: &mut Option<Following<<T::Session as Session>::Run>>,
        io: &mut impl JobIo,
    ) -> Result<Observation, EngineError> {
        let Follow { order, started, from, until } = follow;
        let from = *from;
        let Some((session, _)) = &work.session else {
            let lost = RunError::ConnectionLost("there is no connection".to_owned());
            return Ok(Observation::RunFailed(lost));
        };
        let current = match following {
            Some(now) => now,
            None => {
                let begin = async {
                    match &work.script {
                        Some(script) if !*started => {
                            session.start(order, script.text.clone()).await
                        }
                        _ => session.attach(order, from).await,
                    }
                };
                // A connection that accepts nothing must not delay a cancel. A start that is
                // abandoned begins again.
                let run = tokio::select! {
                    biased;
                    () = io.cancelled() => return Ok(Observation::CancelRequested),
                    run = begin => run,
                };
                match run {
                    // If the script is not known to have started, nothing was handed on: `from` is
                    // 0, where a start streams from.
                    Ok(run) => following.insert(Following {
                        run,
                        offset: from,
                        recorded: self.clock.now(),
                        next: None,
                    }),
                    Err(error) => {
                        work.session = None;
                        let error = self.explained(error, order, work).await;
                        return Ok(Observation::RunFailed(error));
                    }
                }
            }
        };
        let time_is_up = async {
            match until {
                Some(at) => self.clock.until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(time_is_up);
        let mut unsaved = work.snapshot.journal.end() != work.saved_end;
        loop {
            // A script may be silent for hours. The snapshot shows meanwhile how far it came.
            let is_due = unsaved || current.offset > from;
            let on_record = async {
                match work.saved_at.filter(|_| is_due) {
                    Some(at) => self.clock.until(at + SAVE_EVERY).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                () = io.cancelled() => return Ok(Observation::CancelRequested),
                () = &mut time_is_up => return Ok(Observation::TimePassed),
                event = current.next() => event,
                () = on_record => {
                    if current.offset > from {
                        current.recorded = self.clock.now();
                        return Ok(Observation::Progress { offset: current.offset });
                    }
                    // This save is only for people.
                    self.save_unless_full(work, true).await?;
                    unsaved = false;
                    continue;
                }
            };
            match event {
                Ok(RunEvent::Started) => return Ok(Observation::Delivered),
                Ok(RunEvent::Output(bytes)) => {
                    self.hand_on(bytes, &order.run, &work.lease, current, io).await?;
                    let now = self.clock.now();
                    if now.since(current.recorded) >= RECORD_EVERY {
                        current.recorded = now;
                        return Ok(Observation::Progress { offset: current.offset });
                    }
                }
                Ok(RunEvent::Measured(usage)) => {
                    return Ok(Observation::Measured { container: order.container, usage });
                }
                Ok(RunEvent::Exited { code, total }) => {
                    let followed = following.take();
                    if KILLED.contains(&code) && self.task_is_ending(work, &LOOKS[..1]).await {
                        self.give_up_connection(work, followed);
                        let why = format!(
                            "the script was killed (exit status {code}) while its task ended"
                        );
                        return Ok(Observation::RunFailed(RunError::ConnectionLost(why)));
                    }
                    return Ok(Observation::Exited { code, total });
                }
                Err(error) => {
                    let followed = following.take();
                    let error = self.explained(error, order, work).await;
                    if matches!(error, RunError::ConnectionLost(_) | RunError::Protocol(_)) {
                        self.give_up_connection(work, followed);
                    }
                    return Ok(Observation::RunFailed(error));
                }
            }
        }
    }

    /// Hands output on, and marks how far.
    pub(super) async fn hand_on<R>(
        &self,
        mut left: Bytes,
        run: &RunId,
        lease: &S::Lease,
        following: &mut Following<R>,
        io: &mut impl JobIo,
    ) -> Result<(), EngineError> {
        while !left.is_empty() {
            let taken = match io.output(left.clone()).await {
                Ok(0) => return Err(EngineError::Output(std::io::ErrorKind::WriteZero.into())),
                Ok(taken) => taken,
                Err(e) => return Err(EngineError::Output(e)),
            };
            left = left.slice(taken..);
            following.offset += taken as u64;
            // After every write, not after every piece. If the process is killed when a slow reader
            // has taken half of a piece, the next one must not repeat that half.
            if let Err(e) = self.store.mark(lease, run, following.offset).await {
                // Output must continue when the disk is full. The next process may then repeat some
                // of it.
                tracing::debug!("{e}");
            }
        }
        Ok(())
    }

    /// Returns the error of a run, or that the connection was lost if the container ended: then ECS
    /// reports the reason.
    async fn explained(
        &self,
        error: RunError,
        order: &RunOrder,
        work: &Work<T::Session, S::Lease>,
    ) -> RunError {
        let may_be_the_end = match &error {
            RunError::NoStatus(_) => true,
            // The job's container can end without the one that answers.
            RunError::NotStarted(_) => order.container == RunContainer::Job,
            RunError::ConnectionLost(_) | RunError::Unknown(_) | RunError::Protocol(_) => false,
        };
        if may_be_the_end && self.task_is_ending(work, &LOOKS).await {
            RunError::ConnectionLost(format!("{error}, as ECS ends its task"))
        } else {
            error
        }
    }

    /// Whether ECS is ending the task of a script that was killed: then that is why the script
    /// ended, and ECS reports the reason. Always false for a script that the driver ends.
    async fn task_is_ending(&self, work: &Work<T::Session, S::Lease>, looks: &[Duration]) -> bool {
        let AnyJob::Executing(job) = &work.snapshot.job else { return false };
        if job.state.ending.is_some() {
            return false;
        }
        let began = self.clock.now();
        for look in looks {
            let mut at = (began + *look).max(self.clock.now());
            loop {
                let described = self.describe(&job.header.spec.cluster, &job.state.place.task, at);
                let described = tokio::select! {
                    biased;
                    described = described => described,
                    () = self.clock.until(at + LOOK_WITHIN) => return false,
                };
                let now = self.clock.now();
                match described {
                    Ok(Described { seen: Seen::Task(report), .. })
                        if report.stop_desired || report.status.is_ending() =>
                    {
                        return true;
                    }
                    // Only an answer tells a lost task from a script that failed.
                    Err(e) if e.kind.is_transient() && now < began + REFUSED_FOR => {
                        at = now + LOOK_AGAIN;
                    }
                    _ => break,
                }
            }
        }
        false
    }
}
