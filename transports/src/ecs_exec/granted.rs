//! A session between ExecuteCommand's answer and its end: whoever loses it ends it.

use std::{sync::Arc, time::Duration};

use states::{ConnectError, Target};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    ExecApi, NotOpened, OpenedSession, errors,
    note::{Call, Note},
};

/// How long a session that came to nothing may take to be ended …
const TERMINATE_WITHIN: Duration = Duration::from_secs(5);
/// … and after how long that is tried again at first.
const TERMINATE_AGAIN: Duration = Duration::from_millis(100);

/// An open session. Dropped before its end is known, it is ended: it would go on without us, and keep one of the
/// container's few slots until ECS's idle time-out.
pub(super) struct Granted<A: ExecApi> {
    pub(super) session: OpenedSession,
    api: Arc<A>,
    call: Option<Call>,
    over: bool,
}

impl<A: ExecApi> Granted<A> {
    /// Asks for a session that runs this command. In a task of its own, so that a session that is granted when nobody waits
    /// for it any more is ended too.
    pub(super) async fn ask(api: &Arc<A>, target: &Target, command: &str, note: Option<&Note>) -> Result<Self, ConnectError> {
        let asked = tokio::spawn({
            let (api, target, command) = (Arc::clone(api), target.clone(), command.to_owned());
            let call = note.map(Note::ask);
            async move {
                match api.execute(&target, &command).await {
                    Ok(session) => {
                        if let Some(call) = &call {
                            call.opened(&session.id);
                        }
                        Ok(Self { session, api, call, over: false })
                    }
                    Err(NotOpened { error, perhaps }) => {
                        if let Some(call) = call {
                            if perhaps { call.lost() } else { call.over() }
                        }
                        Err(error)
                    }
                }
            }
        });
        asked.await.unwrap_or_else(|e| Err(errors::unasked(target, &e)))
    }

    /// Ends the session, as far as that is possible in a short time.
    pub(super) async fn end(mut self) {
        self.over = true;
        terminate(Arc::clone(&self.api), self.session.id.clone(), self.call.take()).await;
    }

    /// The session has ended by itself.
    pub(super) fn has_ended(mut self) {
        self.over = true;
        if let Some(call) = self.call.take() {
            call.over();
        }
    }
}

impl<A: ExecApi> Drop for Granted<A> {
    fn drop(&mut self) {
        // Without a runtime the process ends; the next one finds the note.
        if !self.over
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(terminate(Arc::clone(&self.api), self.session.id.clone(), self.call.take()));
        }
    }
}

/// Ends a session, and forgets the note of it unless another attempt may do more.
pub(super) async fn terminate<A: ExecApi>(api: Arc<A>, session: String, call: Option<Call>) -> bool {
    let done = timeout(TERMINATE_WITHIN, async {
        let mut again = TERMINATE_AGAIN;
        while let Err(e) = api.terminate(&session).await {
            tracing::debug!(session, why = e.why, "the session was not terminated");
            if !e.transient {
                // Not allowed, or it is over: AWS ends it, sooner or later.
                return;
            }
            sleep(again).await;
            again *= 2;
        }
    });
    let done = done.await.is_ok();
    if let Some(call) = call.filter(|_| done) {
        call.over();
    }
    done
}
