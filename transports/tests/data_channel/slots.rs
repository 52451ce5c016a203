//! An unused session is ended, as it would hold one of the container's few slots for twenty
//! minutes. So is one that was granted without an answer.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use states::{ConnectError, ConnectErrorKind, HostIdentity, Target, Timestamp};
use tokio::{sync::Notify, time::timeout};
use transports::Connector as _;
use transports::ecs_exec::{
    Container, ExecApi, ExecTransport, ListedSession, NotDone, NotOpened, OpenedSession,
    channel::{DataKey, NoKey},
};

use crate::service::{LONG, target};

/// ECS's answer to DescribeTasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Describes {
    Throttled,
    Never,
    /// It is another container.
    Another,
    /// At once, regardless of other calls.
    AtOnce,
}

struct Api {
    describes: Describes,
    /// ExecuteCommand was called ...
    asked: Notify,
    /// ... and may answer.
    answers: Notify,
    /// For lost answers: whether it opens a session before.
    lost: Mutex<Vec<bool>>,
    /// TerminateSession's errors, last one first: whether they are transient.
    not_terminated: Mutex<Vec<bool>>,
    terminated: Mutex<Vec<String>>,
    /// DescribeSessions.
    listed: Mutex<Result<Vec<ListedSession>, NotDone>>,
    looked: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Shared(Arc<Api>);

impl Shared {
    fn new(describes: Describes) -> Self {
        Self(Arc::new(Api {
            describes,
            asked: Notify::new(),
            answers: Notify::new(),
            lost: Mutex::default(),
            not_terminated: Mutex::default(),
            terminated: Mutex::default(),
            listed: Mutex::new(Ok(Vec::new())),
            looked: Mutex::default(),
        }))
    }

    async fn assert_terminated(&self) {
        self.assert_ended(&["granted"]).await;
    }

    async fn assert_ended(&self, sessions: &[&str]) {
        let called = async {
            while self.0.terminated.lock().unwrap().len() < sessions.len() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, called).await.expect("the session is ended");
        assert_eq!(*self.0.terminated.lock().unwrap(), sessions);
    }
}

impl ExecApi for Shared {
    async fn identify(&self, _: &Target) -> Result<Container, ConnectError> {
        if !matches!(self.0.describes, Describes::Never | Describes::AtOnce) {
            // Not before a session is requested: both calls are made at once.
            self.0.asked.notified().await;
        }
        match self.0.describes {
            Describes::Throttled => Err(ConnectError {
                kind: ConnectErrorKind::Interrupted,
                message: "rate exceeded".into(),
                cause: Default::default(),
            }),
            Describes::Never => std::future::pending().await,
            Describes::Another => {
                Ok(Container { identity: HostIdentity("another".into()), target: "ecs:x".into() })
            }
            Describes::AtOnce => Ok(Container {
                identity: HostIdentity("runtime".into()),
                target: "ecs:ci_1_runtime".into(),
            }),
        }
    }

    async fn execute(&self, _: &Target, _: &str) -> Result<OpenedSession, NotOpened> {
        if let Some(perhaps) = self.0.lost.lock().unwrap().pop() {
            let error = ConnectError {
                kind: ConnectErrorKind::Interrupted,
                message: "no answer".into(),
                cause: Default::default(),
            };
            return Err(NotOpened { error, perhaps });
        }
        self.0.asked.notify_one();
        self.0.answers.notified().await;
        Ok(OpenedSession {
            id: "granted".into(),
            url: "ws://127.0.0.1:1/".into(),
            token: "secret".into(),
        })
    }

    async fn sign(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }

    async fn data_key(&self, _: &str, _: &[(&str, &str)]) -> Result<DataKey, NoKey> {
        unreachable!("no session begins")
    }

    async fn terminate(&self, session: &str) -> Result<(), NotDone> {
        if let Some(transient) = self.0.not_terminated.lock().unwrap().pop() {
            return Err(NotDone { why: "not now".into(), transient });
        }
        self.0.terminated.lock().unwrap().push(session.to_owned());
        Ok(())
    }

    async fn sessions(&self, container: &str) -> Result<Vec<ListedSession>, NotDone> {
        self.0.looked.lock().unwrap().push(container.to_owned());
        let mut listed = self.0.listed.lock().unwrap().clone()?;
        listed.retain(|listed| !self.0.terminated.lock().unwrap().contains(&listed.id));
        Ok(listed)
    }
}

/// The target of a job whose container was reached before.
fn again(place: &Path, attempt_timeout: Duration) -> Target {
    Target {
        key: place.join("job.key"),
        pinned: Some(HostIdentity("runtime".into())),
        attempt_timeout,
        ..target()
    }
}

/// The session's entry in the ledger is removed with it.
async fn assert_no_note(place: &Path) {
    let gone = async {
        while place.join("job.session").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, gone).await.expect("no session is noted");
}

/// It was ended and had said nothing. Its slot may still be taken, so the next attempt lists
/// sessions first.
fn assert_noted(place: &Path) {
    let noted = std::fs::read_to_string(place.join("job.session")).unwrap();
    assert!(
        noted.contains("open ") && noted.contains(" granted\n") && !noted.contains("over "),
        "{noted}"
    );
}

#[tokio::test]
async fn a_session_is_ended_if_its_container_is_not_identified() {
    for (describes, kind) in [
        (Describes::Throttled, ConnectErrorKind::Interrupted),
        (Describes::Another, ConnectErrorKind::IdentityChanged),
    ] {
        let place = tempfile::tempdir().unwrap();
        let api = Shared::new(describes);
        let transport = ExecTransport::new(api.clone());
        api.0.answers.notify_one();
        let refused =
            transport.connect(&again(place.path(), Duration::from_secs(30))).await.err().unwrap();
        assert_eq!(refused.kind, kind, "{refused:?}");
        api.assert_terminated().await;
        assert_noted(place.path());
    }
}

#[tokio::test]
async fn a_session_is_ended_if_describing_outlasts_the_attempt() {
    let place = tempfile::tempdir().unwrap();
    let api = Shared::new(Describes::Never);
    let transport = ExecTransport::new(api.clone());
    api.0.answers.notify_one();
    let late =
        transport.connect(&again(place.path(), Duration::from_millis(100))).await.err().unwrap();
    assert_eq!(late.kind, ConnectErrorKind::TimedOut);
    api.assert_terminated().await;
    assert_noted(place.path());
}

/// The attempt is given up during ExecuteCommand, so no attempt uses the session that it grants.
#[tokio::test]
async fn a_session_granted_after_the_attempt_is_ended() {
    let place = tempfile::tempdir().unwrap();
    let api = Shared::new(Describes::Never);
    let transport = ExecTransport::new(api.clone());
    let late =
        transport.connect(&again(place.path(), Duration::from_millis(100))).await.err().unwrap();
    assert_eq!(late.kind, ConnectErrorKind::TimedOut);
    api.0.asked.notified().await;
    api.0.answers.notify_one();
    api.assert_terminated().await;
    assert_noted(place.path());
}

/// A transient refusal must not leave a session in its slot.
#[tokio::test]
async fn only_transient_refusals_to_terminate_are_retried() {
    for (refusals, terminated) in [(vec![true; 3], 1), (vec![false], 0)] {
        let place = tempfile::tempdir().unwrap();
        let api = Shared::new(Describes::Throttled);
        *api.0.not_terminated.lock().unwrap() = refusals;
        api.0.answers.notify_one();
        assert!(
            ExecTransport::new(api.clone())
                .connect(&again(place.path(), Duration::from_secs(30)))
                .await
                .is_err()
        );
        let asked = async {
            while !api.0.not_terminated.lock().unwrap().is_empty()
                || api.0.terminated.lock().unwrap().len() < terminated
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, asked).await.expect("it is tried");
        assert_noted(place.path());
        assert_eq!(api.0.terminated.lock().unwrap().len(), terminated);
    }
}

fn now() -> u64 {
    Timestamp::now().as_millis()
}

fn session(id: &str, began: u64) -> ListedSession {
    ListedSession { id: id.to_owned(), began: Timestamp::from_millis(began) }
}

/// A job whose calls of ExecuteCommand fail.
struct Job {
    place: tempfile::TempDir,
    api: Shared,
}

impl Job {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap(), api: Shared::new(Describes::AtOnce) }
    }

    /// Fails to connect, in another process each time; `perhaps` opens a session.
    async fn call(&self, perhaps: bool) {
        self.api.0.lost.lock().unwrap().push(perhaps);
        let target = again(self.place.path(), Duration::from_secs(30));
        assert_eq!(
            ExecTransport::new(self.api.clone()).connect(&target).await.err().unwrap().message,
            "no answer"
        );
    }

    fn lists(&self, listed: Result<Vec<ListedSession>, NotDone>) {
        *self.api.0.listed.lock().unwrap() = listed;
    }

    fn looked(&self) -> usize {
        self.api.0.looked.lock().unwrap().len()
    }

    async fn assert_ended(&self, sessions: &[&str]) {
        self.api.assert_ended(sessions).await;
        assert_no_note(self.place.path()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_lost_answer_is_found_and_ended() {
    for apart in [-10_000, 10_000] {
        let job = Job::new();
        job.call(true).await;
        assert_eq!(job.looked(), 0, "there was nothing to look for");
        job.lists(Ok(vec![
            session("another", now().checked_add_signed(apart).unwrap()),
            session("ours", now()),
        ]));
        job.call(false).await;
        job.assert_ended(&["ours"]).await;
        assert!(
            job.api
                .0
                .looked
                .lock()
                .unwrap()
                .iter()
                .all(|container| container == "ecs:ci_1_runtime")
        );
        let looked = job.looked();
        job.call(false).await;
        assert_eq!(job.looked(), looked, "there is nothing to look for any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_found_in_a_later_list() {
    let job = Job::new();
    job.call(true).await;
    job.call(false).await;
    job.lists(Err(NotDone { why: "rate exceeded".into(), transient: true }));
    job.call(false).await;
    job.lists(Ok(vec![session("ours", now())]));
    job.call(false).await;
    job.assert_ended(&["ours"]).await;
}

/// The sessions stay in the ledger: two of them may hold both slots until AWS's idle time-out.
#[tokio::test(start_paused = true)]
async fn without_list_permission_a_third_session_is_not_requested() {
    let job = Job::new();
    job.lists(Err(NotDone { why: "access denied".into(), transient: false }));
    job.call(true).await;
    job.call(true).await;
    let target = again(job.place.path(), Duration::from_secs(60));
    let late = ExecTransport::new(job.api.clone()).connect(&target).await.err().unwrap();
    assert!(
        late.kind == ConnectErrorKind::TimedOut && late.message.contains("access denied"),
        "{late:?}"
    );
    assert_eq!(*job.api.0.terminated.lock().unwrap(), [""; 0]);
}

/// A killed process's call is in the ledger without a result. An old one whose session was never
/// listed opened none.
#[tokio::test(start_paused = true)]
async fn a_session_requested_by_a_killed_process_is_ended() {
    let job = Job::new();
    let asked = |ago: u64| {
        std::fs::write(job.place.path().join("job.session"), format!("asked a {}\n", now() - ago))
            .unwrap()
    };
    asked(1_000);
    job.lists(Ok(vec![session("its", now())]));
    job.call(false).await;
    job.assert_ended(&["its"]).await;
    asked(600_000);
    job.call(false).await;
    job.assert_ended(&["its"]).await;
}
