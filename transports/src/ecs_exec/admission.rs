//! Sessions that were left behind: those that are noted, and those that ExecuteCommand may have opened although it did
//! not say so. Nobody knows the ids of these, and each keeps one of the container's few slots for twenty minutes: they are
//! looked for by when they began.

use std::{sync::Arc, time::Duration};

use states::Timestamp;
use tokio::time::timeout;

use super::{
    ExecApi,
    granted::terminate,
    note::{Call, Left, Note, Window},
};

/// How long looking for them may take: an attempt to connect waits for it.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// How far our clock and AWS's may be apart.
const SKEW: Duration = Duration::from_secs(5);
/// How long a session may take to be listed. One that is not by then was never opened.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// Ends the sessions that were left; the calls that may have left others, for [`end`].
pub(super) fn take_up<A: ExecApi>(api: &Arc<A>, note: &Note) -> Vec<(Call, Window)> {
    let mut lost = Vec::new();
    for left in note.left() {
        match left {
            Left::Open(call, session) => {
                tracing::info!(session, "a session was left open, and is ended");
                tokio::spawn(terminate(Arc::clone(api), session, Some(call)));
            }
            Left::Lost(call, window) => lost.push((call, window)),
        }
    }
    lost
}

/// Ends the sessions in this container that these calls opened. What may be listed later is left for the next attempt.
///
/// To be called before another session is asked for, which would be taken for one of them.
pub(super) async fn end<A: ExecApi>(api: &Arc<A>, container: &str, lost: Vec<(Call, Window)>) {
    let Some(note) = lost.first().map(|(call, _)| call.note.clone()) else { return };
    let listed = match timeout(LOOK_WITHIN, api.sessions(container)).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(e)) => {
            tracing::debug!(container, why = e.why, "sessions that may have been left cannot be looked for");
            if !e.transient {
                lost.into_iter().for_each(|(call, _)| call.over());
            }
            return;
        }
        Err(_) => {
            tracing::debug!(container, "sessions that may have been left could not be looked for in time");
            return;
        }
    };
    let known = note.sessions();
    for (call, window) in lost {
        let its = |began: Timestamp| window.from <= began + SKEW && began <= window.until + SKEW;
        let sessions = listed.iter().filter(|session| its(session.began) && !known.contains(&session.id));
        let sessions: Vec<String> = sessions.map(|session| session.id.clone()).collect();
        if !sessions.is_empty() {
            tracing::info!(?sessions, "a call that was not answered had opened a session, which is ended");
            let api = Arc::clone(api);
            tokio::spawn(async move {
                let mut all = true;
                for session in sessions {
                    all &= terminate(Arc::clone(&api), session, None).await;
                }
                if all {
                    call.over();
                }
            });
        } else if Timestamp::now() > window.until + LISTED_WITHIN {
            call.over();
        }
    }
}
