//! A job's session between ExecuteCommand and its first command.
//!
//! It outlives the attempt that requested it: a session that has said nothing yet may wait for a
//! slot, so the next attempt waits for it, too. A request for another session could block the agent
//! for good (see [`super::admission`]).

use std::{sync::Arc, time::Duration};

use states::{ConnectError, Greeting, Target, trace::SPANS};
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::Instrument as _;

use super::{
    Container, ExecApi, ExecTerminal,
    admission::{self, WORKERS},
    errors,
    granted::Granted,
    notices::Notices,
    socket::{self, Dialer},
};
use crate::delivery::{
    Session,
    terminal::{Boot, TerminalShell},
};

/// How long it may take to connect to the service.
pub(super) const DIAL_WITHIN: Duration = Duration::from_secs(15);
/// After so long without output, the container's sessions are listed ...
const LOOK_AFTER: Duration = Duration::from_secs(6);
/// ... and how often again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a list of the container's sessions may take.
const LIST_WITHIN: Duration = Duration::from_secs(3);
/// How long a session that no other one delays may say nothing.
const BEGINS_WITHIN: Duration = Duration::from_secs(300);

type Opened = Result<(Session, Greeting), ConnectError>;

/// One job's attempts.
#[derive(Default)]
pub(super) struct Attempts {
    /// The session that was granted and is not ready yet.
    opening: Mutex<Option<JoinHandle<Opened>>>,
    pub(super) notices: Arc<Notices>,
}

impl Attempts {
    /// Waits for the session that is being opened, or for one that `grant` asks for, until the
    /// attempt's time is over.
    pub(super) async fn connect<A: ExecApi>(
        &self,
        target: &Target,
        boot: Boot,
        dialer: &Arc<Dialer>,
        grant: impl Future<Output = Result<(Container, Granted<A>), ConnectError>>,
    ) -> Opened {
        let until = Instant::now() + target.attempt_timeout;
        let too_slow = |_| errors::too_slow(target, self.notices.latest());
        let mut opening = self.opening.lock().await;
        let task = match &mut *opening {
            Some(task) => task,
            none => {
                let (container, granted) = timeout_at(until, grant).await.map_err(too_slow)??;
                let opened = open(
                    target.clone(),
                    boot,
                    Arc::clone(dialer),
                    container,
                    granted,
                    Arc::clone(&self.notices),
                );
                none.insert(tokio::spawn(opened.in_current_span()))
            }
        };
        let opened = timeout_at(until, task).await.map_err(too_slow)?;
        *opening = None;
        self.notices.clear();
        opened.unwrap_or_else(|e| Err(errors::unasked(target, &e)))
    }
}

async fn open<A: ExecApi>(
    target: Target,
    boot: Boot,
    dialer: Arc<Dialer>,
    container: Container,
    granted: Granted<A>,
    notices: Arc<Notices>,
) -> Opened {
    let (api, session) = (granted.api(), granted.session.id.clone());
    tracing::info!(target: SPANS, "session.granted");
    let dialled = timeout(DIAL_WITHIN, socket::dial(&granted.session.url, &*api, &dialer)).await;
    let socket = dialled.map_err(|_| errors::too_slow_to_dial())?.map_err(|e| errors::dial(&e))?;
    tracing::info!(target: SPANS, "data_channel.opened");
    let terminal = ExecTerminal::new(socket, granted, container.target.clone(), Arc::clone(&api));
    let (end, first_word) = (terminal.end(), terminal.first_word());
    let ready = async {
        let shell = TerminalShell::boot(terminal, &boot)
            .await
            .map_err(|e| errors::boot(&target, e, end.get()))?;
        tracing::info!(target: SPANS, "shell.answered");
        Session::open(shell, container.identity.clone(), &target).await
    };
    tokio::select! {
        biased;
        ready = ready => ready,
        why = why_silent(&*api, &container.target, &session, &notices, || first_word.get().is_some()) => {
            Err(errors::never_began(&target, why))
        }
    }
}

/// Reports why a session says nothing. Returns once it never will.
async fn why_silent(
    api: &impl ExecApi,
    container: &str,
    session: &str,
    notices: &Notices,
    has_begun: impl Fn() -> bool,
) -> String {
    let began = Instant::now();
    let mut missing = 0;
    sleep(LOOK_AFTER).await;
    while !has_begun() {
        let seconds = began.elapsed().as_secs();
        match timeout(LIST_WITHIN, api.sessions(container)).await {
            Ok(Ok(listed)) => {
                let others: Vec<_> = listed.iter().filter(|listed| listed.id != session).cloned().collect();
                missing = if listed.len() == others.len() { missing + 1 } else { 0 };
                if missing > 1 {
                    return format!("AWS does not list the session {session} any more");
                }
                if others.len() >= WORKERS {
                    notices.say(&admission::are_open(&others));
                } else if began.elapsed() >= BEGINS_WITHIN {
                    return format!("its exec agent did not begin the session within {seconds} s");
                } else {
                    notices.say("the container's exec agent has not begun the session yet.");
                }
            }
            Ok(Err(e)) => notices.say(&format!(
                "the container's exec agent has not begun the session yet; whether others have its {WORKERS} slots cannot be seen ({}).",
                e.why
            )),
            Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Lock;

    use states::Timestamp;

    use super::*;
    use crate::ecs_exec::{ListedSession, NotDone, NotOpened, OpenedSession, channel};

    /// Only lists.
    struct Lists(Lock<Result<Vec<&'static str>, NotDone>>);

    impl ExecApi for Lists {
        async fn identify(&self, _: &Target) -> Result<Container, ConnectError> {
            unreachable!()
        }

        async fn execute(&self, _: &Target, _: &str) -> Result<OpenedSession, NotOpened> {
            unreachable!()
        }

        async fn sign(&self, _: &str) -> Result<Vec<(String, String)>, String> {
            unreachable!()
        }

        async fn data_key(
            &self,
            _: &str,
            _: &[(&str, &str)],
        ) -> Result<channel::DataKey, channel::NoKey> {
            unreachable!()
        }

        async fn terminate(&self, _: &str) -> Result<(), NotDone> {
            unreachable!()
        }

        async fn sessions(&self, _: &str) -> Result<Vec<ListedSession>, NotDone> {
            let listed = self.0.lock().unwrap().clone()?;
            Ok(listed
                .into_iter()
                .map(|id| ListedSession { id: id.to_owned(), began: Timestamp::from_millis(0) })
                .collect())
        }
    }

    async fn silent(lists: &Lists, notices: &Notices, seconds: u64) -> Option<String> {
        timeout(Duration::from_secs(seconds), why_silent(lists, "ecs:x", "ours", notices, || false))
            .await
            .ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_session_is_given_up_only_if_no_other_delays_it() {
        let notices = Notices::default();
        let lists = |listed| Lists(Lock::new(listed));
        // Others hold the slots: it waits without a limit of its own.
        assert_eq!(silent(&lists(Ok(vec!["a", "ours", "b"])), &notices, 900).await, None);
        assert!(notices.latest().is_some_and(|said| said.contains("2 sessions are open") && said.contains("(a, b)")));
        let alone = silent(&lists(Ok(vec!["ours", "a"])), &notices, 900).await.unwrap();
        assert!(alone.contains("within 30"), "{alone}");
        let gone = silent(&lists(Ok(vec!["a"])), &notices, 30).await.unwrap();
        assert!(gone.contains("does not list"), "{gone}");
        let denied = lists(Err(NotDone { why: "access denied".into(), transient: false }));
        assert_eq!(silent(&denied, &notices, 900).await, None);
        assert!(notices.latest().is_some_and(|said| said.contains("access denied")));
    }

    #[tokio::test(start_paused = true)]
    async fn notices_are_returned_once() {
        let notices = Notices::default();
        notices.say("first");
        notices.say("first");
        assert_eq!(notices.next().await, "first");
        assert!(timeout(Duration::from_secs(1), notices.next()).await.is_err());
        notices.say("second\nline");
        assert_eq!(
            (notices.next().await.as_str(), notices.latest().as_deref()),
            ("second line", Some("second line"))
        );
        notices.clear();
        assert_eq!(notices.latest(), None);
    }
}
