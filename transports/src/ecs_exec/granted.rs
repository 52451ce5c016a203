//! A session between ExecuteCommand's answer and its end: whoever loses it ends it.

use std::{sync::Arc, time::Duration};

use states::{ConnectError, Target};
use tokio::{runtime::Handle, time::timeout};

use super::{ExecApi, OpenedSession, errors, note::Note};

/// How long a session that came to nothing may take to be ended.
const TERMINATE_WITHIN: Duration = Duration::from_secs(5);

/// An open session. Dropped before its end is known, it is ended: it would go on without us, and keep one of the
/// container's few slots until ECS's idle time-out.
pub(super) struct Granted<A: ExecApi> {
    pub(super) session: OpenedSession,
    api: Arc<A>,
    note: Option<Note>,
    over: bool,
}

impl<A: ExecApi> Granted<A> {
    /// Asks for a session that runs this command. In a task of its own, so that a session that is granted when nobody waits
    /// for it any more is ended too.
    pub(super) async fn ask(api: &Arc<A>, target: &Target, command: &str, note: Option<Note>) -> Result<Self, ConnectError> {
        let asked = tokio::spawn({
            let (api, target, command) = (Arc::clone(api), target.clone(), command.to_owned());
            async move {
                let session = api.execute(&target, &command).await?;
                Ok(Self { session, api, note: None, over: false })
            }
        });
        let mut granted = asked.await.unwrap_or_else(|e| Err(errors::unasked(target, &e)))?;
        if let Some(note) = &note {
            // Here: a session that nobody waited for must not take the place of the one after it.
            note.write(&granted.session.id);
        }
        granted.note = note;
        Ok(granted)
    }

    /// Ends the session, as far as that is possible in a short time.
    pub(super) async fn end(mut self) {
        self.over = true;
        terminate(Arc::clone(&self.api), self.session.id.clone(), self.note.take()).await;
    }

    /// The session has ended by itself.
    pub(super) fn has_ended(mut self) {
        self.over = true;
        if let Some(note) = &self.note {
            note.clear(&self.session.id);
        }
    }
}

impl<A: ExecApi> Drop for Granted<A> {
    fn drop(&mut self) {
        // Without a runtime the process ends; the next one finds the note.
        if !self.over
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(terminate(Arc::clone(&self.api), self.session.id.clone(), self.note.take()));
        }
    }
}

/// Ends a session, and forgets the note of it if that was possible.
pub(super) async fn terminate<A: ExecApi>(api: Arc<A>, session: String, note: Option<Note>) {
    if timeout(TERMINATE_WITHIN, api.terminate(&session)).await.is_err() {
        // The next process tries again.
        tracing::debug!(session, "the session could not be ended in time");
    } else if let Some(note) = note {
        note.clear(&session);
    }
}
