//! Sends a signal to a run, and reads its output meanwhile.

use std::time::Duration;

use super::{Engine, EngineError, JobIo, follow::Following};
use crate::{
    Run as _, RunError, RunEvent, RunOrder, Session, Signal, SnapshotStore, TaskControl, Transport,
};

/// How long the container may take to deliver a signal, before the connection counts as lost.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);

type Followed<T> = Following<<<T as Transport>::Session as Session>::Run>;

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Sends a signal. Output that arrives before the answer is handed on: a connection buffers
    /// only so much of it.
    ///
    /// # Errors
    /// When output cannot be handed on. The inner result is the signal's.
    pub(super) async fn signal(
        &self,
        session: &T::Session,
        lease: &S::Lease,
        (order, signal): (&RunOrder, Signal),
        following: &mut Option<Followed<T>>,
        io: &mut impl JobIo,
    ) -> Result<Result<(), RunError>, EngineError> {
        let answer = self.signal_answer(session, order, signal);
        tokio::pin!(answer);
        let Some(following) = following else { return Ok(answer.await) };
        loop {
            let event = tokio::select! {
                // Not at random: the same world leads to the same observations.
                biased;
                sent = &mut answer => return Ok(sent),
                // An event that is not output is left to the one who follows the run.
                event = following.run.next(), if following.next.is_none() => event,
            };
            let Ok(RunEvent::Output(bytes)) = event else {
                following.next = Some(event);
                continue;
            };
            let handing_on = self.hand_on(bytes, &order.run, lease, following, io);
            tokio::pin!(handing_on);
            let mut sent = None;
            loop {
                tokio::select! {
                    biased;
                    handed_on = &mut handing_on => break handed_on?,
                    answer = &mut answer, if sent.is_none() => sent = Some(answer),
                }
            }
            if let Some(sent) = sent {
                return Ok(sent);
            }
        }
    }

    /// A cancel does not wait until a silent connection's keep-alives fail.
    async fn signal_answer(
        &self,
        session: &T::Session,
        order: &RunOrder,
        signal: Signal,
    ) -> Result<(), RunError> {
        tokio::select! {
            biased;
            sent = session.signal(order, signal) => sent,
            () = self.clock.until(self.clock.now() + SIGNAL_TIMEOUT) => {
                let silence = format!("no answer to a signal within {} s", SIGNAL_TIMEOUT.as_secs());
                Err(RunError::ConnectionLost(silence))
            }
        }
    }
}
