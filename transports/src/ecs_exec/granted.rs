//! A session between ExecuteCommand's answer and its end. Dropping it ends the session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use states::{ConnectError, Target};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use super::{
    ExecApi, NotOpened, OpenedSession, errors,
    session_ledger::{ExecuteCall, SessionLedger},
};

/// How long the termination of an unused session may take …
const TERMINATE_WITHIN: Duration = Duration::from_secs(5);
/// … and the first interval between its attempts.
const TERMINATE_AGAIN: Duration = Duration::from_millis(100);

/// An open session. If it is dropped before its end is known, it is terminated. Otherwise it would
/// hold one of the container's few slots until ECS's idle time-out.
pub(super) struct Granted<A: ExecApi> {
    pub(super) session: OpenedSession,
    api: Arc<A>,
    call: Option<ExecuteCall>,
    is_answered: bool,
    over: bool,
}

/// The result of an attempt to end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Termination {
    /// AWS has accepted to end it.
    Accepted,
    /// It was not allowed, the session does not exist any more, or there was no answer in time.
    Unknown,
}

impl<A: ExecApi> Granted<A> {
    /// Requests a session that runs this command, in a task of its own. So a session that is
    /// granted after the caller has given up is ended, too.
    pub(super) async fn ask(
        api: &Arc<A>,
        target: &Target,
        command: &str,
        ledger: Option<&SessionLedger>,
    ) -> Result<Self, ConnectError> {
        let asked = tokio::spawn({
            let (api, target, command) = (Arc::clone(api), target.clone(), command.to_owned());
            let call = ledger.map(SessionLedger::ask);
            let asked = async move {
                match api.execute(&target, &command).await {
                    Ok(session) => {
                        if let Some(call) = &call {
                            call.opened(&session.id);
                        }
                        Ok(Self { session, api, call, is_answered: false, over: false })
                    }
                    Err(NotOpened { error, perhaps }) => {
                        if let Some(call) = call {
                            if perhaps { call.lost() } else { call.over() }
                        }
                        Err(error)
                    }
                }
            };
            // The call is a part of the trace.
            asked.in_current_span()
        });
        asked.await.unwrap_or_else(|e| Err(errors::unasked(target, &e)))
    }

    /// Returns the API that granted it.
    pub(super) fn api(&self) -> Arc<A> {
        Arc::clone(&self.api)
    }

    /// Records that the session's command has said something.
    pub(super) fn has_answered(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true)
            && let Some(call) = &self.call
        {
            call.answered();
        }
    }

    /// Ends the session if that is possible in a short time.
    pub(super) async fn end(mut self) {
        self.over = true;
        end(Arc::clone(&self.api), self.session.id.clone(), self.call.take(), self.is_answered)
            .await;
    }

    /// Records that the session has ended by itself.
    pub(super) fn has_ended(mut self) {
        self.over = true;
        if let Some(call) = self.call.take() {
            call.over();
        }
    }
}

impl<A: ExecApi> Drop for Granted<A> {
    fn drop(&mut self) {
        // Without a runtime the process ends; the next one reads the ledger.
        if !self.over
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(end(
                Arc::clone(&self.api),
                self.session.id.clone(),
                self.call.take(),
                self.is_answered,
            ));
        }
    }
}

/// Ends a session. It stays in the ledger for the next attempt if it may still have a place at the
/// agent. That is so if it was not terminated, or never had a worker.
async fn end<A: ExecApi>(
    api: Arc<A>,
    session: String,
    call: Option<ExecuteCall>,
    is_answered: bool,
) {
    let termination = terminate(&*api, &session).await;
    if termination == Termination::Accepted
        && is_answered
        && let Some(call) = call
    {
        call.over();
    }
}

/// Logs once per process that sessions cannot be ended: each would get the same refusal.
fn report_refusal(session: &str, why: &str) {
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);
    if IS_REPORTED.swap(true, Ordering::Relaxed) {
        tracing::debug!(session, why, "the session was not ended");
    } else {
        tracing::warn!(
            session,
            "the session was not ended: {why}. Allow ssm:TerminateSession (docs/iam.md)"
        );
    }
}

/// Asks AWS to end a session, for a bounded time.
pub(super) async fn terminate(api: &impl ExecApi, session: &str) -> Termination {
    let done = timeout(TERMINATE_WITHIN, async {
        let mut again = TERMINATE_AGAIN;
        while let Err(e) = api.terminate(session).await {
            if !e.transient {
                report_refusal(session, &e.why);
                return Termination::Unknown;
            }
            tracing::debug!(session, why = e.why, "the session was not ended yet");
            sleep(again).await;
            again *= 2;
        }
        Termination::Accepted
    });
    done.await.unwrap_or(Termination::Unknown)
}
