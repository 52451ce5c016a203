//! Tests the SSH transport against hostile servers.

#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

mod floods;
mod server;

use std::{
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use bytes::Bytes;
use russh::keys::{Algorithm, PrivateKey};
use server::{Attack, Identity, Seen, serve};
use states::{
    ConnectError, ConnectErrorKind, Destination, Greeting, HostProof, Login, Run, RunError,
    RunEvent, RunId, RunOrder, Session as _, Target, TaskArn, foreign_text,
};
use tempfile::TempDir;
use transports::{
    Connector as _,
    delivery::Session,
    ssh::{SshSettings, SshTransport, key, proof},
};

/// A job: its key, and the address of its container.
struct Job {
    place: TempDir,
}

impl Job {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("job.key"), key::generate().unwrap().private).unwrap();
        Self { place }
    }

    fn target(&self, port: u16, host_proof: Option<HostProof>) -> Target {
        let login = Some(Login { user: "root".to_owned(), port });
        Target {
            transport: "ssh".into(),
            destination: Destination::Address { host: "127.0.0.1".to_owned(), login },
            cluster: "test".to_owned(),
            task: TaskArn::new("arn:aws:ecs:eu-west-1:123456789012:task/test/1").unwrap(),
            container: "ci-coordinator".to_owned(),
            key: self.place.path().join("job.key"),
            pinned: None,
            host_proof,
            facts: None,
            shared: None,
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(30),
        }
    }

    /// Returns the identity of the server in this job's container, which has the secret.
    fn container(&self) -> Identity {
        let host_key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let secret = proof::secret(&self.place.path().join("job.key")).unwrap();
        let secret = hex::decode(secret).unwrap();
        let public = host_key.public_key().to_openssh().unwrap();
        let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let proof = hmac::sign(
            &hmac::Key::new(HMAC_SHA256, &secret),
            format!("fargate-host-proof=1 {public}").as_bytes(),
        );
        let proof = hex::encode(proof);
        Identity {
            host_key,
            says: format!("SSH-2.0-OpenSSH_9.6p1 Debian-5 fargate-host-proof=1:{proof}"),
        }
    }
}

async fn listen(identity: Identity, attack: Attack) -> (u16, Arc<Seen>) {
    let (address, seen) = serve((Ipv4Addr::LOCALHOST, 0), identity, attack).await;
    (address.port(), seen)
}

async fn connect(target: &Target) -> Result<(Session, Greeting), ConnectError> {
    SshTransport::new(SshSettings::default()).connect(target).await
}

/// Connects to a server that must be refused before anything is sent, even the job's key.
async fn refused(job: &Job, server: Identity, host_proof: HostProof) -> ConnectError {
    let (port, seen) = listen(server, Attack::None).await;
    let Err(refusal) = connect(&job.target(port, Some(host_proof))).await else {
        panic!("it was let in")
    };
    let sent = (
        seen.connections(),
        seen.keys_offered.load(Ordering::Relaxed),
        seen.commands.load(Ordering::Relaxed),
    );
    assert_eq!(sent, (1, 0, 0), "connections, keys, commands");
    assert_eq!(refusal.kind, ConnectErrorKind::IdentityUnproven, "{refusal:?}");
    assert!(
        !refusal.kind.is_transient()
            && refusal.message.contains("SHA256:")
            && refusal.message.contains("nothing was sent"),
        "{refusal:?}"
    );
    refusal
}

#[tokio::test]
async fn an_unproven_host_key_gets_nothing_if_a_proof_is_required() {
    let refusal = refused(&Job::new(), Identity::unproven(), HostProof::Required).await;
    assert!(
        refusal.message.contains("VerifyHost")
            && refusal.cause == states::ConnectCause::NoHostProof,
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_wrong_proof_is_refused_even_if_none_is_required() {
    for host_proof in [HostProof::Offered, HostProof::Required] {
        // The identity of another job's container.
        refused(&Job::new(), Job::new().container(), host_proof).await;
    }
}

#[tokio::test]
async fn a_relay_cannot_use_the_containers_proof() {
    let job = Job::new();
    for host_proof in [HostProof::Offered, HostProof::Required] {
        let replayed = Identity { says: job.container().says, ..Identity::unproven() };
        refused(&job, replayed, host_proof).await;
    }
}

#[tokio::test]
async fn a_proof_may_be_missing_if_it_is_only_offered() {
    let job = Job::new();
    for (server, host_proof) in [
        (job.container(), Some(HostProof::Required)),
        (job.container(), Some(HostProof::Offered)),
        (Identity::unproven(), Some(HostProof::Offered)),
        (Identity::unproven(), None),
    ] {
        let (port, _) = listen(server, Attack::None).await;
        let (_, greeting) = connect(&job.target(port, host_proof)).await.unwrap();
        assert!(greeting.identity.0.starts_with("ssh-ed25519 "), "{greeting:?}");
    }
}

#[tokio::test]
async fn a_pinned_host_key_needs_no_proof() {
    let job = Job::new();
    let (port, _) = listen(Identity::unproven(), Attack::None).await;
    let (_, greeting) = connect(&job.target(port, None)).await.unwrap();
    let later =
        Target { pinned: Some(greeting.identity), ..job.target(port, Some(HostProof::Required)) };
    assert!(connect(&later).await.is_ok());
    let (port, _) = listen(job.container(), Attack::None).await;
    let another = Target { pinned: later.pinned, ..job.target(port, Some(HostProof::Required)) };
    assert_eq!(connect(&another).await.err().unwrap().kind, ConnectErrorKind::IdentityChanged);
}

/// Starts a run and follows it to its end. Returns its output, and why it ended.
async fn follow(attack: Attack) -> (usize, Result<(i32, u64), RunError>, Arc<Seen>) {
    let job = Job::new();
    let (port, seen) = listen(Identity::unproven(), attack).await;
    let (session, _) = connect(&job.target(port, None)).await.unwrap();
    let order = RunOrder {
        run: RunId::new("0001-a").unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    };
    let mut run = match session.start(&order, Bytes::from_static(b"echo")).await {
        Ok(run) => run,
        Err(error) => return (0, Err(error), seen),
    };
    let mut output = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(60), run.next()).await.expect("the run ends")
        {
            Ok(RunEvent::Started | RunEvent::Measured(_)) => {}
            Ok(RunEvent::Output(bytes)) => output += bytes.len(),
            Ok(RunEvent::Exited { code, total }) => return (output, Ok((code, total)), seen),
            Err(error) => return (output, Err(error), seen),
        }
    }
}

#[tokio::test]
async fn disconnect_texts_are_clipped_and_made_harmless() {
    let (_, ended, _) = follow(Attack::ByteAndGoodbye(180_000)).await;
    let Err(RunError::ConnectionLost(why)) = ended else { panic!("{ended:?}") };
    assert!(
        why.starts_with("the SSH server ended the connection: ") && why.ends_with('…'),
        "{why}"
    );
    assert!(
        why.chars().count() < foreign_text::MAX_CHARS + 100 && !why.contains(char::is_control),
        "{why:?}"
    );
}

#[tokio::test]
async fn channels_that_a_server_opens_are_refused_and_the_connection_ends() {
    let (_, ended, seen) = follow(Attack::Channels(40_000)).await;
    let Err(RunError::ConnectionLost(why)) = ended else { panic!("{ended:?}") };
    assert!(why.contains("opens channels that nothing asked for"), "{why}");
    assert_eq!(seen.channels_accepted.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_few_channels_that_a_server_opens_are_only_refused() {
    let job = Job::new();
    let (port, seen) = listen(Identity::unproven(), Attack::Channels(40)).await;
    let (session, _) = connect(&job.target(port, None)).await.unwrap();
    let order = RunOrder {
        run: RunId::new("0001-a").unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    };
    let _run = session.start(&order, Bytes::from_static(b"echo")).await.unwrap();
    // Answered over the same connection, behind the refusals.
    let attached = session.attach(&order, 0).await;
    assert!(attached.is_ok(), "{:?}", attached.err());
    assert_eq!(seen.channels_accepted.load(Ordering::Relaxed), 0);
}
