//! Tests the SSH transport against OpenSSH's server.

#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

mod entrypoint;
mod memory;
mod sshd;

use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sshd::Sshd;
use states::{
    ConnectErrorKind, Greeting, Run, RunError, RunEvent, RunId, RunOrder, Session as _, Signal,
    Target, TaskArn,
};
use transports::{
    Connector as _,
    delivery::Session,
    ssh::{SshSettings, SshTransport},
};

fn transport(sshd: &Sshd) -> SshTransport {
    SshTransport::new(SshSettings {
        username: Sshd::user(),
        port: sshd.port(),
        ..SshSettings::default()
    })
}

fn target(sshd: &Sshd) -> Target {
    Target {
        transport: "ssh".into(),
        destination: states::Destination::at("127.0.0.1"),
        cluster: "test".to_owned(),
        task: TaskArn::new("arn:aws:ecs:eu-west-1:123456789012:task/test/1").unwrap(),
        container: "ci-coordinator".to_owned(),
        key: sshd.key(),
        pinned: None,
        host_proof: None,
        facts: None,
        shared: None,
        connect_timeout: Duration::from_secs(10),
        attempt_timeout: Duration::from_secs(30),
    }
}

async fn connect(sshd: &Sshd) -> (Session, Greeting) {
    transport(sshd).connect(&target(sshd)).await.unwrap_or_else(|e| panic!("{e}: {:?}", e.cause))
}

async fn refused(sshd: &Sshd, target: &Target) -> states::ConnectError {
    match transport(sshd).connect(target).await {
        Ok(_) => panic!("it was let in"),
        Err(e) => e,
    }
}

fn order(run: &str) -> RunOrder {
    RunOrder {
        run: RunId::new(run).unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    }
}

/// The result of a run that is followed to its end.
struct Followed {
    output: Vec<u8>,
    ended: Result<(i32, u64), RunError>,
}

async fn follow(run: &mut impl Run) -> Followed {
    let mut output = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(60), run.next())
            .await
            .expect("the run goes on")
        {
            Ok(RunEvent::Started | RunEvent::Measured(_)) => {}
            Ok(RunEvent::Output(bytes)) => output.extend_from_slice(&bytes),
            Ok(RunEvent::Exited { code, total }) => {
                return Followed { output, ended: Ok((code, total)) };
            }
            Err(e) => return Followed { output, ended: Err(e) },
        }
    }
}

async fn run(session: &Session, name: &str, script: impl Into<Bytes>) -> Followed {
    follow(&mut session.start(&order(name), script.into()).await.unwrap()).await
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn runs_a_script() {
    let sshd = Sshd::start();
    let (session, greeting) = connect(&sshd).await;
    assert!(greeting.identity.0.starts_with("ssh-ed25519 AAAA"), "{}", greeting.identity);
    assert!(greeting.facts.run_dir.contains("/.fargate-"), "{greeting:?}");
    let hello = run(&session, "hello", "echo hello; echo error >&2; exit 42").await;
    assert_eq!((hello.output.as_slice(), hello.ended), (&b"hello\nerror\n"[..], Ok((42, 12))));
    // A second run over the same connection.
    assert_eq!(run(&session, "second", "exit 0").await.ended, Ok((0, 0)));
    session.close().await;
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_standby_starts_runs_of_any_size() {
    let sshd = Sshd::start();
    let (mut session, _) = connect(&sshd).await;
    session.stand_by().await;
    // The wrapper is the script's parent, and the standby is the wrapper's.
    let ask = "read -r pid name state parent rest </proc/$PPID/stat; echo $parent";
    let first = run(&session, "first", ask).await;
    assert_eq!(first.ended, Ok((0, first.output.len() as u64)));
    // More than the server's window.
    let padding = "# a comment of a long script\n".repeat(200_000);
    let long = run(&session, "long", format!("{padding}{ask}; exit 4")).await;
    assert_eq!(long.output, first.output, "one standby starts both");
    assert_eq!(long.ended, Ok((4, first.output.len() as u64)));
    session.close().await;
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn connects_again_with_what_it_learned() {
    let sshd = Sshd::start();
    let (_, greeting) = connect(&sshd).await;
    let known = Target {
        pinned: Some(greeting.identity.clone()),
        facts: Some(greeting.facts.clone()),
        ..target(&sshd)
    };
    let (session, again) = transport(&sshd).connect(&known).await.unwrap();
    assert_eq!(again, greeting);
    assert_eq!(run(&session, "run", "exit 3").await.ended, Ok((3, 0)));
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn large_scripts_are_delivered() {
    let sshd = Sshd::start();
    let (session, _) = connect(&sshd).await;
    let script = format!(": {}\n", "y".repeat(1021)).repeat(5 * 1024) + "cat \"$0\"; exit 5";
    let large = run(&session, "large", script.clone()).await;
    assert!(
        large.output == script.as_bytes(),
        "{} bytes came back of {}",
        large.output.len(),
        script.len()
    );
    assert_eq!(large.ended, Ok((5, script.len() as u64)));
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn streams_300_megabytes() {
    let sshd = Sshd::start();
    let (session, _) = connect(&sshd).await;
    let mut piece = Vec::with_capacity(3_000_000);
    for i in 0u32..93_750 {
        piece.extend_from_slice(&Sha256::digest(i.to_le_bytes()));
    }
    let file = sshd.file("piece");
    std::fs::write(&file, &piece).unwrap();
    let mut expected = Sha256::new();
    for _ in 0..100 {
        expected.update(&piece);
    }
    drop(piece);

    let script =
        format!("i=0; while [ $i -lt 100 ]; do cat '{}'; i=$((i+1)); done", file.display());
    let mut run = session.start(&order("stream"), script.into()).await.unwrap();
    let (mut hash, mut size) = (Sha256::new(), 0u64);
    loop {
        match run.next().await.unwrap() {
            RunEvent::Started | RunEvent::Measured(_) => {}
            RunEvent::Output(bytes) => {
                size += bytes.len() as u64;
                hash.update(&bytes);
            }
            RunEvent::Exited { code, total } => {
                assert_eq!((code, total, size), (0, 300_000_000, 300_000_000));
                break;
            }
        }
    }
    assert_eq!(hash.finalize(), expected.finalize());
    memory::is_small_if_alone();
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_dead_peer_is_noticed() {
    let sshd = Sshd::start();
    let settings = SshSettings {
        username: Sshd::user(),
        port: sshd.port(),
        keepalive_interval: Duration::from_secs(1),
        keepalive_max: 3,
    };
    let (session, _) = SshTransport::new(settings).connect(&target(&sshd)).await.unwrap();
    let mut run = session
        .start(&order("run"), Bytes::from_static(b"echo one; sleep 30 & echo $! >pid; wait"))
        .await
        .unwrap();
    while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
    sshd.signal_sessions("STOP");
    let start = Instant::now();
    let lost = follow(&mut run).await.ended;
    assert!(
        matches!(&lost, Err(RunError::ConnectionLost(why)) if why.contains("does not answer")),
        "{lost:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    sshd.signal_sessions("KILL");
    let (session, _) = connect(&sshd).await;
    drop(session);
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn keepalives_keep_a_quiet_connection() {
    let sshd = Sshd::start();
    let settings = SshSettings {
        username: Sshd::user(),
        port: sshd.port(),
        keepalive_interval: Duration::from_millis(50),
        keepalive_max: 60,
    };
    let (session, _) = SshTransport::new(settings).connect(&target(&sshd)).await.unwrap();
    // Quiet for longer than three seconds without an answer end a connection.
    assert_eq!(run(&session, "quiet", "sleep 4; exit 6").await.ended, Ok((6, 0)));
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_server_that_is_still_starting_is_a_transient_refusal() {
    let mut sshd = Sshd::prepare();
    let early = refused(&sshd, &target(&sshd)).await;
    assert_eq!(early.kind, ConnectErrorKind::Refused);
    assert!(
        early.kind.is_transient() && early.message.contains(&sshd.port().to_string()),
        "{early:?}"
    );
    sshd.serve();
    connect(&sshd).await;
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn an_unauthorized_key_is_refused() {
    let sshd = Sshd::start();
    let key = sshd.file("other");
    std::fs::write(&key, transports::ssh::key::generate().unwrap().private).unwrap();
    let refusal = refused(&sshd, &Target { key, ..target(&sshd) }).await;
    assert_eq!(refusal.kind, ConnectErrorKind::AuthRefused);
    assert!(
        refusal.message.contains(&Sshd::user()) && refusal.kind == ConnectErrorKind::AuthRefused,
        "{refusal:?}"
    );
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn another_host_key_is_refused() {
    let mut sshd = Sshd::start();
    let (session, greeting) = connect(&sshd).await;
    drop(session);
    let pinned = Target { pinned: Some(greeting.identity), ..target(&sshd) };
    sshd.stop();
    sshd.new_host_key("ecdsa");
    sshd.serve();
    let refusal = refused(&sshd, &pinned).await;
    assert_eq!(refusal.kind, ConnectErrorKind::IdentityChanged);
    assert_eq!(refusal.message.matches("SHA256:").count(), 2, "{refusal}");
    // At first contact, an ECDSA key is accepted, too.
    let (_, greeting) = connect(&sshd).await;
    assert!(greeting.identity.0.starts_with("ecdsa-sha2-nistp256 "), "{}", greeting.identity);
}

/// russh's `rsa` feature is left out.
#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_server_with_nothing_but_an_rsa_key_is_explained() {
    let mut sshd = Sshd::prepare();
    sshd.new_host_key("rsa");
    sshd.serve();
    let refusal = refused(&sshd, &target(&sshd)).await;
    assert_eq!(refusal.kind, ConnectErrorKind::NotOurProtocol);
    assert!(refusal.cause == states::ConnectCause::HostKeyKind, "{refusal:?}");
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_cut_connection_resumes_at_the_next_byte() {
    let sshd = Sshd::start();
    let (session, greeting) = connect(&sshd).await;
    let go = sshd.file("go");
    let numbers = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let script = format!(
        "{numbers}; until [ -e '{}' ]; do sleep 0.01; done; {numbers}; exit 9",
        go.display()
    );
    let mut run = session.start(&order("cut"), script.into()).await.unwrap();
    let mut output = Vec::new();
    while output.len() < 1000 {
        if let RunEvent::Output(bytes) = run.next().await.unwrap() {
            output.extend_from_slice(&bytes);
        }
    }
    sshd.signal_sessions("KILL");
    let lost = follow(&mut run).await;
    assert!(matches!(lost.ended, Err(RunError::ConnectionLost(_))), "{:?}", lost.ended);
    output.extend_from_slice(&lost.output);
    std::fs::write(go, "").unwrap();

    let known =
        Target { pinned: Some(greeting.identity), facts: Some(greeting.facts), ..target(&sshd) };
    let (session, _) = transport(&sshd).connect(&known).await.unwrap();
    let mut run = session.attach(&order("cut"), output.len() as u64).await.unwrap();
    let rest = follow(&mut run).await;
    output.extend_from_slice(&rest.output);
    let expected = (0..20_000).map(|i| format!("line {i}\n")).collect::<String>().repeat(2);
    assert!(output == expected.as_bytes(), "{} bytes of {}", output.len(), expected.len());
    assert_eq!(rest.ended, Ok((9, expected.len() as u64)));
}

/// The script is silent, so no write fails.
#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_run_that_is_dropped_leaves_no_supervisor() {
    let sshd = Sshd::start();
    let (session, greeting) = connect(&sshd).await;
    let go = sshd.file("go");
    let script =
        format!("echo ready; until [ -e '{}' ]; do sleep 0.05; done; exit 3", go.display());
    let mut run = session.start(&order("run"), script.into()).await.unwrap();
    while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let field = |stat: &str, index: usize| {
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(index).unwrap().to_owned()
    };
    let pid = std::fs::read_to_string(format!("{}/run/pid", greeting.facts.run_dir)).unwrap();
    let wrapper = stat(pid.split(' ').nth(1).unwrap()).unwrap();
    let supervisor = field(&wrapper, 1);
    drop(run);
    let gone = async {
        while stat(&supervisor).is_some_and(|stat| field(&stat, 0) != "Z") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("the supervisor ends with its channel");
    // Over the same connection, which stays open.
    let mut run = session.attach(&order("run"), 0).await.unwrap();
    while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
    std::fs::write(go, "").unwrap();
    assert_eq!(follow(&mut run).await.ended, Ok((3, 6)));
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn signals_reach_the_script() {
    let sshd = Sshd::start();
    let (session, _) = connect(&sshd).await;
    let mut run = session
        .start(
            &order("run"),
            Bytes::from_static(b"trap 'echo bye; exit 7' TERM; echo ready; sleep 1000 & wait"),
        )
        .await
        .unwrap();
    while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
    session.signal(&order("run"), Signal::Term).await.unwrap();
    let ended = follow(&mut run).await;
    assert_eq!((ended.output.as_slice(), ended.ended), (&b"bye\n"[..], Ok((7, 10))));
}

/// As in the engine, a run's output is not read while a signal is sent.
#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_signal_to_a_script_that_floods_is_answered() {
    let sshd = Sshd::start();
    let (session, _) = connect(&sshd).await;
    // More than the usual limit of the queue, and less than its limit during an awaited answer.
    let script = Bytes::from_static(
        b"trap '' TERM; yes abcdefghijklmnopqrstuvwxyz | head -c 30000000; sleep 60",
    );
    let mut run = session.start(&order("run"), script).await.unwrap();
    let mut size = 0;
    while size < 2_000_000 {
        if let RunEvent::Output(bytes) = run.next().await.unwrap() {
            size += bytes.len();
        }
    }
    for signal in [Signal::Term, Signal::Kill] {
        let sent =
            tokio::time::timeout(Duration::from_secs(20), session.signal(&order("run"), signal))
                .await;
        assert_eq!(sent, Ok(Ok(())), "{signal:?}");
    }
    // Nothing is lost: the verdict comes after all output.
    let ended = follow(&mut run).await;
    assert!(
        matches!(ended.ended, Ok((137, total)) if total == (size + ended.output.len()) as u64),
        "{:?}",
        ended.ended
    );
}

#[tokio::test]
#[ignore = "needs OpenSSH's sshd (scripts/test runs it)"]
async fn a_large_script_gets_past_a_verbose_login_shell() {
    let mut sshd = Sshd::prepare();
    // A megabyte on standard error, more than any buffer, before the command runs.
    sshd.configure(
        "ForceCommand head -c 1000000 /dev/zero | tr '\\0' x >&2; eval \"$SSH_ORIGINAL_COMMAND\"",
    );
    sshd.serve();
    let (session, _) = connect(&sshd).await;
    let script = format!(": {}\n", "y".repeat(1021)).repeat(5 * 1024) + "exit 5";
    let large = tokio::time::timeout(Duration::from_secs(60), run(&session, "large", script))
        .await
        .expect("it gets through");
    assert_eq!(large.ended, Ok((5, 0)));
}

#[tokio::test]
async fn a_server_of_another_protocol_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(
                &mut socket,
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
            )
            .await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let refusal = attempt(&directory, port, Duration::from_secs(5)).await;
    assert!(
        matches!(refusal.kind, ConnectErrorKind::NotOurProtocol | ConnectErrorKind::Interrupted),
        "{refusal:?}"
    );
    assert!(refusal.message.contains(&port.to_string()), "{refusal:?}");
}

#[tokio::test]
async fn a_silent_listener_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let refusal =
        attempt(&directory, listener.local_addr().unwrap().port(), Duration::from_millis(200))
            .await;
    assert_eq!(refusal.kind, ConnectErrorKind::Interrupted);
    assert!(
        refusal.kind.is_transient() && refusal.message.contains("took too long"),
        "{refusal:?}"
    );
}

/// Makes one attempt with a key of its own.
async fn attempt(
    directory: &tempfile::TempDir,
    port: u16,
    timeout: Duration,
) -> states::ConnectError {
    let key = directory.path().join("key");
    std::fs::write(&key, transports::ssh::key::generate().unwrap().private).unwrap();
    let target = Target {
        transport: "ssh".into(),
        destination: states::Destination::at("127.0.0.1"),
        cluster: "test".to_owned(),
        task: TaskArn::new("arn:aws:ecs:eu-west-1:123456789012:task/test/1").unwrap(),
        container: "ci-coordinator".to_owned(),
        key,
        pinned: None,
        host_proof: None,
        facts: None,
        shared: None,
        connect_timeout: timeout,
        attempt_timeout: timeout,
    };
    match SshTransport::new(SshSettings { port, ..SshSettings::default() }).connect(&target).await {
        Ok(_) => panic!("it was let in"),
        Err(e) => e,
    }
}
