//! Decides when a session may be requested.
//!
//! AWS's exec agent runs two sessions of a container and lets a third wait. It tries a further one
//! for five seconds; then it blocks, and no session ever starts again in that container. A session
//! that is terminated while it waits keeps its place there. So a job never has two sessions that
//! have said nothing. After one that did not end well, it requests none while two or more are open
//! in the container. Interactive terminals always list the sessions first.
//!
//! If the sessions cannot be listed (`ssm:DescribeSessions`), the job's own ones count until AWS's
//! idle time-out.

use std::{sync::Arc, time::Duration};

use states::Timestamp;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    ExecApi, ListedSession, NotDone,
    granted::{Termination, terminate},
    notices::Notices,
    session_ledger::{Earlier, SessionLedger},
};

/// How many sessions a container's agent runs.
pub(super) const WORKERS: usize = 2;
/// How long one list call may take …
const LIST_WITHIN: Duration = Duration::from_secs(3);
/// … and how long it is tried again when it fails.
const LIST_AGAIN: Duration = Duration::from_millis(500);
/// How long after a session's end its slot may still be taken: the agent's 2 s, and a margin.
const SLOT_FREE_WITHIN: Duration = Duration::from_millis(2500);
/// How long a session that was terminated may still be listed.
const DELISTED_WITHIN: Duration = Duration::from_secs(10);
/// How often a full container is looked at, at first and at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// How far the local clock and AWS's may differ.
const SKEW: Duration = Duration::from_secs(5);
/// How long a session may take to be listed. One that is not listed by then was never opened.
const LISTED_WITHIN: Duration = Duration::from_secs(60);
/// AWS ends a session after 20 minutes without input; a margin is added.
const ENDED_BY_THEN: Duration = Duration::from_secs(20 * 60 + 10);

const IS_BEING_ENDED: &str =
    "an earlier session of this job is being ended; the agent frees its slot within 2 s.";

/// Waits until a session may be requested in this container. Ends the earlier ones, and reports why
/// it waits.
///
/// Without a ledger, the session is for an interactive terminal.
pub(super) async fn admit<A: ExecApi>(
    api: &Arc<A>,
    container: &str,
    ledger: Option<&SessionLedger>,
    earlier: Vec<Earlier>,
    notices: &Notices,
) {
    let mut admission =
        Admission { api, container, ledger, earlier: Vec::new(), terminated_at: None };
    for earlier in earlier {
        admission.end(earlier).await;
    }
    if let Some(at) = admission.terminated_at {
        notices.say(IS_BEING_ENDED);
        sleep_until(at + SLOT_FREE_WITHIN).await;
    }
    let mut again = LOOK_EVERY;
    while let Some(why) = admission.obstacle().await {
        notices.say(&why);
        sleep(again).await;
        again = (again * 3 / 2).min(LOOK_AT_LEAST_EVERY);
    }
    notices.clear();
}

struct Admission<'a, A> {
    api: &'a Arc<A>,
    container: &'a str,
    ledger: Option<&'a SessionLedger>,
    /// If dropped, they are left to the next attempt.
    earlier: Vec<Earlier>,
    /// When the last session that had said nothing was terminated.
    terminated_at: Option<Instant>,
}

impl<A: ExecApi> Admission<'_, A> {
    /// Ends an earlier session, if it is known.
    async fn end(&mut self, earlier: Earlier) {
        if let Some(session) = &earlier.session {
            tracing::info!(
                session,
                is_answered = earlier.is_answered,
                "a session was left open, and is ended"
            );
            let termination = terminate(&**self.api, session).await;
            if termination == Termination::Accepted && earlier.is_answered {
                // It has a worker, which is free soon; there is another worker.
                return earlier.call.over();
            }
            if !earlier.is_answered {
                self.terminated_at = Some(Instant::now());
            }
        }
        self.earlier.push(earlier);
    }

    /// Returns why no session may be requested now.
    async fn obstacle(&mut self) -> Option<String> {
        match self.list().await {
            Ok(listed) => {
                let listed = self.compare(listed).await;
                if self.terminated_at.is_some_and(|at| at.elapsed() < SLOT_FREE_WITHIN) {
                    return Some(IS_BEING_ENDED.to_owned());
                }
                let is_recent = self.terminated_at.is_some_and(|at| at.elapsed() < DELISTED_WITHIN);
                let is_own = |session: &&ListedSession| {
                    self.earlier.iter().any(|earlier| {
                        !earlier.is_answered && earlier.session.as_ref() == Some(&session.id)
                    })
                };
                if let Some(own) = listed.iter().find(is_own).filter(|_| is_recent) {
                    Some(format!(
                        "the session {} of this job, which was never answered, has not ended yet.",
                        own.id
                    ))
                } else {
                    (listed.len() >= WORKERS).then(|| are_open(&listed))
                }
            }
            Err(e) => self.obstacle_unseen(&e),
        }
    }

    /// Returns the obstacle when sessions cannot be listed.
    fn obstacle_unseen(&mut self, e: &NotDone) -> Option<String> {
        let Some(ledger) = self.ledger else {
            tracing::warn!(
                "whether the container has a slot for a session cannot be seen: {}",
                e.why
            );
            return None;
        };
        let now = Timestamp::now();
        let (over, earlier) = std::mem::take(&mut self.earlier)
            .into_iter()
            .partition(|earlier| now > earlier.window.until + ENDED_BY_THEN);
        self.earlier = earlier;
        Vec::into_iter(over).for_each(|earlier: Earlier| earlier.call.over());
        (ledger.in_hand() >= WORKERS).then(|| {
            format!(
                "{} sessions of this job may still be open in the container, which has {WORKERS} slots; AWS ends them after 20 minutes. \
                 They cannot be listed ({}): allow ssm:DescribeSessions and ssm:TerminateSession (docs/iam.md).",
                ledger.in_hand(),
                e.why
            )
        })
    }

    async fn list(&self) -> Result<Vec<ListedSession>, NotDone> {
        let listed = timeout(LIST_WITHIN, async {
            loop {
                match self.api.sessions(self.container).await {
                    Err(e) if e.transient => {
                        tracing::debug!(
                            self.container,
                            why = e.why,
                            "sessions could not be listed"
                        );
                        sleep(LIST_AGAIN).await;
                    }
                    other => return other,
                }
            }
        });
        listed.await.unwrap_or_else(|_| {
            Err(NotDone { why: "AWS did not list them in time".to_owned(), transient: true })
        })
    }

    /// Forgets the earlier sessions that are not listed, and ends those whose ids were not known.
    /// Returns the rest of the list.
    async fn compare(&mut self, mut listed: Vec<ListedSession>) -> Vec<ListedSession> {
        let Some(ledger) = self.ledger else { return listed };
        let known = ledger.sessions();
        for earlier in std::mem::take(&mut self.earlier) {
            if let Some(session) = &earlier.session {
                if listed.iter().any(|listed| listed.id == *session) {
                    self.earlier.push(earlier);
                } else {
                    earlier.call.over();
                }
                continue;
            }
            let its = |began: Timestamp| {
                earlier.window.from <= began + SKEW && began <= earlier.window.until + SKEW
            };
            let found: Vec<String> = listed
                .iter()
                .filter(|listed| its(listed.began) && !known.contains(&listed.id))
                .map(|listed| listed.id.clone())
                .collect();
            let mut are_ended = !found.is_empty();
            for session in found {
                tracing::info!(
                    session,
                    "a call that was not answered had opened a session, which is ended"
                );
                if terminate(&**self.api, &session).await == Termination::Accepted {
                    listed.retain(|listed| listed.id != session);
                    // No client connected to it; its slot is free when it has ended.
                    self.terminated_at = Some(Instant::now());
                } else {
                    are_ended = false;
                }
            }
            if are_ended || Timestamp::now() > earlier.window.until + LISTED_WITHIN {
                earlier.call.over();
            } else {
                self.earlier.push(earlier);
            }
        }
        listed
    }
}

/// Describes how many sessions are open.
pub(super) fn are_open(listed: &[ListedSession]) -> String {
    let ids: Vec<&str> = listed.iter().map(|session| session.id.as_str()).take(4).collect();
    format!(
        "{} sessions are open in the container, and it takes {WORKERS} at a time ({}): terminals, probably (fargate-replay shell, \
         aws ecs execute-command). One of them has to end first.",
        listed.len(),
        ids.join(", ")
    )
}
