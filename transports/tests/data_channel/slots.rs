//! A session that is granted and not used is ended: it would keep one of the container's few slots for twenty minutes.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use states::{ConnectError, ConnectErrorKind, HostIdentity, Target, Transport as _};
use tokio::{sync::Notify, time::timeout};
use transports::ecs_exec::{
    Container, ExecApi, ExecTransport, OpenedSession,
    channel::{DataKey, NoKey},
};

use crate::service::target;

/// How ECS answers to DescribeTasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Describes {
    Throttled,
    Never,
    /// It is another container.
    Another,
}

struct Api {
    describes: Describes,
    /// ExecuteCommand was called ...
    asked: Notify,
    /// ... and may answer.
    answers: Notify,
    terminated: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Shared(Arc<Api>);

impl Shared {
    fn new(describes: Describes) -> Self {
        Self(Arc::new(Api { describes, asked: Notify::new(), answers: Notify::new(), terminated: Mutex::default() }))
    }

    async fn assert_terminated(&self) {
        let called = async {
            while self.0.terminated.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), called).await.expect("the session is ended");
        assert_eq!(*self.0.terminated.lock().unwrap(), ["granted"]);
    }
}

impl ExecApi for Shared {
    async fn identify(&self, _: &Target) -> Result<Container, ConnectError> {
        if self.0.describes != Describes::Never {
            // Not before a session is asked for: both are, at once.
            self.0.asked.notified().await;
        }
        match self.0.describes {
            Describes::Throttled => {
                Err(ConnectError { kind: ConnectErrorKind::Interrupted, message: "rate exceeded".into(), advice: String::new() })
            }
            Describes::Never => std::future::pending().await,
            Describes::Another => Ok(Container { identity: HostIdentity("another".into()), target: "ecs:x".into() }),
        }
    }

    async fn execute(&self, _: &Target, _: &str) -> Result<OpenedSession, ConnectError> {
        self.0.asked.notify_one();
        self.0.answers.notified().await;
        Ok(OpenedSession { id: "granted".into(), url: "ws://127.0.0.1:1/".into(), token: "secret".into() })
    }

    async fn sign(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }

    async fn data_key(&self, _: &str, _: &[(&str, &str)]) -> Result<DataKey, NoKey> {
        unreachable!("no session begins")
    }

    async fn terminate(&self, session: &str) {
        self.0.terminated.lock().unwrap().push(session.to_owned());
    }
}

/// A job's container, reached before.
fn again(place: &Path, attempt_timeout: Duration) -> Target {
    Target { key: place.join("job.key"), pinned: Some(HostIdentity("runtime".into())), attempt_timeout, ..target() }
}

/// The note of the session goes with it.
async fn assert_no_note(place: &Path) {
    let gone = async {
        while place.join("job.session").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.expect("no session is noted");
}

#[tokio::test]
async fn when_the_container_cannot_be_identified() {
    for (describes, kind) in
        [(Describes::Throttled, ConnectErrorKind::Interrupted), (Describes::Another, ConnectErrorKind::IdentityChanged)]
    {
        let place = tempfile::tempdir().unwrap();
        let api = Shared::new(describes);
        let transport = ExecTransport::new(api.clone());
        api.0.answers.notify_one();
        let refused = transport.connect(&again(place.path(), Duration::from_secs(30))).await.err().unwrap();
        assert_eq!(refused.kind, kind, "{refused:?}");
        api.assert_terminated().await;
        assert_no_note(place.path()).await;
    }
}

#[tokio::test]
async fn when_describing_outlasts_the_attempt() {
    let place = tempfile::tempdir().unwrap();
    let api = Shared::new(Describes::Never);
    let transport = ExecTransport::new(api.clone());
    api.0.answers.notify_one();
    let late = transport.connect(&again(place.path(), Duration::from_millis(100))).await.err().unwrap();
    assert_eq!(late.kind, ConnectErrorKind::TimedOut);
    api.assert_terminated().await;
    assert_no_note(place.path()).await;
}

/// The attempt is given up while ExecuteCommand is under way: what it grants then, nobody has asked for any more.
#[tokio::test]
async fn when_it_is_granted_after_the_attempt() {
    let place = tempfile::tempdir().unwrap();
    let api = Shared::new(Describes::Never);
    let transport = ExecTransport::new(api.clone());
    let late = transport.connect(&again(place.path(), Duration::from_millis(100))).await.err().unwrap();
    assert_eq!(late.kind, ConnectErrorKind::TimedOut);
    api.0.asked.notified().await;
    api.0.answers.notify_one();
    api.assert_terminated().await;
    assert_no_note(place.path()).await;
}
