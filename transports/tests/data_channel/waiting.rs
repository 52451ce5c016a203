//! AWS's exec agent runs two sessions of a container and queues a third; a fourth blocks it for
//! good. So the transport waits for a silent session, and requests no other while the container may
//! be full.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use states::{ConnectError, ConnectErrorKind, HostIdentity, ShellFacts, Target, Timestamp};
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tokio_tungstenite::{accept_async, tungstenite::Message};
use transports::{
    Connector as _, Interactive as _, Screen,
    ecs_exec::{
        Container, ExecApi, ExecTransport, ListedSession, NotDone, NotOpened, OpenedSession,
        channel::{DataKey, NoKey},
        frame::{Kind, payload_type},
    },
};

use crate::service::{LONG, encoded, target};

/// AWS's calls for a container with these sessions.
#[derive(Default)]
struct State {
    /// The URL of a session's data channel; empty: no session is granted.
    url: String,
    /// The commands of ExecuteCommand.
    executed: Mutex<Vec<String>>,
    asked: Notify,
    listed: Mutex<Vec<ListedSession>>,
    looked: Mutex<u32>,
    terminated: Mutex<Vec<String>>,
    /// Neither DescribeSessions nor TerminateSession is allowed.
    denies: bool,
}

#[derive(Clone)]
struct Aws(Arc<State>);

impl Aws {
    fn new(state: State) -> Self {
        Self(Arc::new(state))
    }

    fn executed(&self) -> usize {
        self.0.executed.lock().unwrap().len()
    }

    /// Opens sessions of others.
    fn has_open(&self, count: usize) {
        let session = |n| ListedSession {
            id: format!("ecs-execute-command-terminal{n}"),
            began: Timestamp::from_millis(1_700_000_000_000),
        };
        *self.0.listed.lock().unwrap() = (0..count).map(session).collect();
    }
}

impl ExecApi for Aws {
    async fn identify(&self, _: &Target) -> Result<Container, ConnectError> {
        Ok(Container {
            identity: HostIdentity("runtime".to_owned()),
            target: "ecs:ci_1_runtime".to_owned(),
        })
    }

    async fn execute(&self, _: &Target, command: &str) -> Result<OpenedSession, NotOpened> {
        self.0.executed.lock().unwrap().push(command.to_owned());
        self.0.asked.notify_one();
        if self.0.url.is_empty() {
            let error = ConnectError {
                kind: ConnectErrorKind::Interrupted,
                message: "it was asked for".into(),
                cause: Default::default(),
            };
            return Err(NotOpened { error, perhaps: false });
        }
        Ok(OpenedSession {
            id: "ecs-execute-command-ours".into(),
            url: self.0.url.clone(),
            token: "secret".into(),
        })
    }

    async fn sign(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }

    async fn data_key(&self, _: &str, _: &[(&str, &str)]) -> Result<DataKey, NoKey> {
        unreachable!("no session is encrypted")
    }

    async fn terminate(&self, session: &str) -> Result<(), NotDone> {
        if self.0.denies {
            return Err(NotDone { why: "access denied".into(), transient: false });
        }
        self.0.terminated.lock().unwrap().push(session.to_owned());
        self.0.listed.lock().unwrap().retain(|listed| listed.id != session);
        Ok(())
    }

    async fn sessions(&self, _: &str) -> Result<Vec<ListedSession>, NotDone> {
        *self.0.looked.lock().unwrap() += 1;
        if self.0.denies {
            return Err(NotDone { why: "access denied".into(), transient: false });
        }
        Ok(self.0.listed.lock().unwrap().clone())
    }
}

fn facts() -> ShellFacts {
    ShellFacts {
        run_dir: "/tmp/run".to_owned(),
        follows_with_tail: true,
        has_setsid: true,
        job: None,
    }
}

/// The target of a job whose container was reached before.
fn job(place: &Path, attempt_timeout: Duration) -> Target {
    let pinned = Some(HostIdentity("runtime".into()));
    Target { key: place.join("job.key"), pinned, facts: Some(facts()), attempt_timeout, ..target() }
}

fn ledger(place: &Path, text: &str) {
    std::fs::write(place.join("job.session"), text).unwrap();
}

fn now() -> u64 {
    Timestamp::now().as_millis()
}

/// While the agent is silent, three attempts wait for one session.
#[tokio::test]
async fn the_next_attempt_waits_for_a_silent_session() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url =
        format!("ws://{}/v1/data-channel/x?role=publish_subscribe", listener.local_addr().unwrap());
    let aws = Aws::new(State { url, ..State::default() });
    let transport = ExecTransport::new(aws.clone());
    let place = tempfile::tempdir().unwrap();
    let short = job(place.path(), Duration::from_millis(300));
    let accepted =
        tokio::spawn(
            async move { accept_async(listener.accept().await.unwrap().0).await.unwrap() },
        );
    for _ in 0..3 {
        let late = transport.connect(&short).await.err().unwrap();
        assert_eq!(late.kind, ConnectErrorKind::TimedOut, "{late:?}");
    }
    let mut socket = timeout(LONG, accepted).await.unwrap().unwrap();
    let command = aws.0.executed.lock().unwrap()[0].clone();
    let nonce = command.split("BOOT").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let service = tokio::spawn(async move {
        socket.next().await.unwrap().unwrap();
        for (sequence, said) in
            [format!("BOOT{nonce}\n"), format!("~{nonce} ready\n")].iter().enumerate()
        {
            let message = encoded(
                Kind::Output,
                i64::try_from(sequence).unwrap(),
                payload_type::OUTPUT,
                said.as_bytes(),
            );
            socket.send(Message::Binary(message)).await.unwrap();
        }
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    let (session, _) = transport
        .connect(&job(place.path(), LONG))
        .await
        .expect("it is the session of the first attempt");
    assert_eq!((aws.executed(), aws.0.terminated.lock().unwrap().len()), (1, 0));
    let noted = std::fs::read_to_string(place.path().join("job.session")).unwrap();
    assert!(noted.contains("answered "), "{noted}");
    drop(session);
    timeout(LONG, service).await.expect("it is left").unwrap();
}

/// A killed process's silent session may wait in the agent's queue, and stays there after its
/// termination.
#[tokio::test(start_paused = true)]
async fn a_job_waits_for_a_full_container_and_reports_it() {
    let aws = Aws::new(State::default());
    aws.has_open(2);
    let place = tempfile::tempdir().unwrap();
    ledger(place.path(), &format!("asked a {}\nopen a ecs-execute-command-killed\n", now()));
    let transport = Arc::new(ExecTransport::new(aws.clone()));
    let target = job(place.path(), Duration::from_secs(60));
    let connecting = tokio::spawn({
        let (transport, target) = (Arc::clone(&transport), target.clone());
        async move { transport.connect(&target).await.err().unwrap() }
    });
    let notice = loop {
        let notice = timeout(LONG, transport.waits_for(&target.task))
            .await
            .expect("it is said what is waited for");
        if notice.contains("terminal") {
            break notice;
        }
    };
    assert!(
        notice.contains("2 sessions are open") && notice.contains("ecs-execute-command-terminal1"),
        "{notice}"
    );
    assert_eq!(
        (aws.executed(), aws.0.terminated.lock().unwrap().clone()),
        (0, vec!["ecs-execute-command-killed".to_owned()])
    );
    assert!(
        timeout(Duration::from_secs(20), transport.waits_for(&target.task)).await.is_err(),
        "the same is said once"
    );
    let late = connecting.await.unwrap();
    assert!(
        late.kind == ConnectErrorKind::TimedOut && late.message.contains("2 sessions are open"),
        "{late:?}"
    );
    assert_eq!(aws.executed(), 0, "in a whole attempt");
    aws.has_open(1);
    assert_eq!(transport.connect(&target).await.err().unwrap().message, "it was asked for");
    assert!(
        !place.path().join("job.session").exists(),
        "the killed process's session is not listed any more"
    );
}

/// A session with a worker frees it; there is another worker.
#[tokio::test(start_paused = true)]
async fn after_a_used_session_the_next_starts_at_once() {
    let aws = Aws::new(State::default());
    let place = tempfile::tempdir().unwrap();
    ledger(
        place.path(),
        &format!("asked a {}\nopen a ecs-execute-command-killed\nanswered a\n", now()),
    );
    let began = tokio::time::Instant::now();
    let asked =
        ExecTransport::new(aws.clone()).connect(&job(place.path(), LONG)).await.err().unwrap();
    assert!(
        asked.message == "it was asked for" && began.elapsed() < Duration::from_secs(1),
        "{asked:?} after {:?}",
        began.elapsed()
    );
    assert_eq!((aws.0.terminated.lock().unwrap().len(), *aws.0.looked.lock().unwrap()), (1, 1));

    // Nothing went wrong before, so sessions are not listed.
    assert_eq!(
        ExecTransport::new(aws.clone())
            .connect(&job(place.path(), LONG))
            .await
            .err()
            .unwrap()
            .message,
        "it was asked for"
    );
    assert_eq!(*aws.0.looked.lock().unwrap(), 1);
}

/// Its slot in the queue is taken until a worker has handled it.
#[tokio::test(start_paused = true)]
async fn the_slot_of_an_unanswered_session_gets_time_to_free() {
    let aws = Aws::new(State::default());
    let place = tempfile::tempdir().unwrap();
    ledger(place.path(), &format!("asked a {}\nopen a ecs-execute-command-killed\n", now()));
    let began = tokio::time::Instant::now();
    let asked =
        ExecTransport::new(aws.clone()).connect(&job(place.path(), LONG)).await.err().unwrap();
    assert!(
        asked.message == "it was asked for" && began.elapsed() > Duration::from_secs(2),
        "{asked:?} after {:?}",
        began.elapsed()
    );
}

/// With neither permission, a job's own sessions count: never a third, until AWS's idle time-out.
#[tokio::test(start_paused = true)]
async fn without_permissions_there_is_never_a_third_session_of_the_job() {
    let aws = Aws::new(State { denies: true, ..State::default() });
    let place = tempfile::tempdir().unwrap();
    let entry = |mark: &str, ago: u64| {
        format!(
            "asked {mark} {}\nopen {mark} ecs-execute-command-{mark}\nanswered {mark}\n",
            now() - ago
        )
    };
    let transport = ExecTransport::new(aws.clone());
    let target = job(place.path(), Duration::from_secs(60));
    ledger(place.path(), &entry("a", 1000));
    assert_eq!(transport.connect(&target).await.err().unwrap().message, "it was asked for");
    ledger(place.path(), &(entry("a", 1000) + &entry("b", 2000)));
    for _ in 0..5 {
        let late = transport.connect(&target).await.err().unwrap();
        assert!(
            late.kind == ConnectErrorKind::TimedOut
                && late.message.contains("ssm:DescribeSessions"),
            "{late:?}"
        );
    }
    assert_eq!(aws.executed(), 1);
    ledger(place.path(), &(entry("a", 1000) + &entry("b", 21 * 60 * 1000)));
    assert_eq!(transport.connect(&target).await.err().unwrap().message, "it was asked for");
    let left = std::fs::read_to_string(place.path().join("job.session")).unwrap();
    // Whole lines: a session's own mark is random, and may begin with an `a`.
    let is_over = |mark: &str| left.lines().any(|line| line == format!("over {mark}"));
    assert!(is_over("b") && !is_over("a"), "{left}");
}

/// An interactive terminal is never the third session.
#[tokio::test(start_paused = true)]
async fn an_interactive_terminal_lists_sessions_first() {
    let aws = Aws::new(State::default());
    let transport = ExecTransport::new(aws.clone());
    let place = tempfile::tempdir().unwrap();
    let target = job(place.path(), Duration::from_secs(15));
    let screen = Screen { term: "xterm".to_owned(), columns: 80, rows: 24 };
    aws.has_open(2);
    for refused in [
        transport.terminal(&target, &screen).await.err(),
        transport.command(&target, "true").await.err(),
    ] {
        let refused = refused.unwrap();
        assert!(
            refused.message.contains("2 sessions are open")
                && refused.kind == ConnectErrorKind::TimedOut,
            "{refused:?}"
        );
    }
    assert_eq!(aws.executed(), 0);
    aws.has_open(1);
    assert_eq!(
        transport.terminal(&target, &screen).await.err().unwrap().message,
        "it was asked for"
    );
}
