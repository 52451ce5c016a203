//! What can go wrong on the way to a container, in words for whoever reads the job log.

use std::{io, time::Duration};

use states::{ConnectError, ConnectErrorKind, foreign_text::clipped};

pub(super) fn error(kind: ConnectErrorKind, message: String, advice: &str) -> ConnectError {
    ConnectError { kind, message, advice: advice.to_owned() }
}

/// Nothing came back at all.
pub(super) fn silent(address: &str, port: u16, waited: Duration) -> ConnectError {
    error(
        ConnectErrorKind::TimedOut,
        format!("{address} port {port} did not answer within {}", humantime(waited)),
        "Check that the task's security group lets the runner manager in on that port, and that there is a route between them (UsePublicIP decides which address is used).",
    )
}

pub(super) fn too_slow(address: &str, port: u16, what: &str) -> ConnectError {
    error(
        ConnectErrorKind::Interrupted,
        format!("{address} port {port} accepted the connection but took too long {what}"),
        "The container may be starved of CPU, or its SSH server overloaded.",
    )
}

pub(super) fn tcp(address: &str, port: u16, e: &io::Error) -> ConnectError {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => error(
            ConnectErrorKind::Refused,
            format!("nothing listens on {address} port {port}"),
            "Check that the image starts an SSH server, and on that port ([SSH] Port in fargate.toml).",
        ),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => error(
            ConnectErrorKind::Interrupted,
            format!("{address} port {port} ended the connection: {e}"),
            "If it stays so: what does the container's SSH server log?",
        ),
        io::ErrorKind::TimedOut => silent(address, port, Duration::ZERO),
        _ => error(
            ConnectErrorKind::Unreachable,
            format!("{address} port {port} cannot be reached: {e}"),
            "Check the route from the runner manager to the task's subnet.",
        ),
    }
}

pub(super) fn handshake(address: &str, port: u16, e: &russh::Error) -> ConnectError {
    match e {
        e if ended(e) => error(
            ConnectErrorKind::Interrupted,
            format!("{address} port {port} ended the connection during the SSH handshake"),
            "A server that is just starting does that; if it stays so, look at the SSH server's log in the container.",
        ),
        russh::Error::IO(e) if e.kind() != io::ErrorKind::InvalidData => tcp(address, port, e),
        russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. } => error(
            ConnectErrorKind::NotOurProtocol,
            format!(
                "the SSH server at {address} port {port} has no host key of a kind that this driver checks: {}",
                clipped(&e.to_string())
            ),
            "RSA host keys are not supported: let the image make an Ed25519 or ECDSA host key as well (`ssh-keygen -A` makes every kind).",
        ),
        russh::Error::NoCommonAlgo { .. } => error(
            ConnectErrorKind::NotOurProtocol,
            format!(
                "the SSH server at {address} port {port} has no algorithm in common with this driver: {}",
                clipped(&e.to_string())
            ),
            "It must know curve25519 or ECDH P-256 and AES; every OpenSSH since 6.5 does unless its configuration forbids it.",
        ),
        _ => error(
            ConnectErrorKind::NotOurProtocol,
            format!(
                "{address} port {port} does not complete an SSH handshake: {}",
                clipped(&e.to_string())
            ),
            "Check that it is an SSH server that listens there ([SSH] Port in fargate.toml).",
        ),
    }
}

pub(super) fn auth_refused(address: &str, port: u16, user: &str) -> ConnectError {
    error(
        ConnectErrorKind::AuthRefused,
        format!("the SSH server at {address} port {port} refuses the job's key for user {user}"),
        "The image's entry point must put $SSH_PUBLIC_KEY into that user's authorized_keys before it starts sshd; check [SSH] Username, the permissions of ~/.ssh, and that the container is named as ContainerName says (ci-coordinator).",
    )
}

pub(super) fn identity_changed(
    address: &str,
    port: u16,
    pinned: &str,
    found: &str,
) -> ConnectError {
    error(
        ConnectErrorKind::IdentityChanged,
        format!(
            "another SSH server answers at {address} port {port}: its host key is {found}, this job's container had {pinned}"
        ),
        "It is not the same container, so nothing was sent to it. The task was replaced, or somebody is in between.",
    )
}

/// At first contact the server did not prove that its host key is the container's.
pub(super) fn unproven(address: &str, port: u16, is_missing: bool, found: &str) -> ConnectError {
    let (what, advice) = if is_missing {
        (
            "does not prove it, which [SSH] VerifyHost requires",
            "Use deploy/ssh-entrypoint.sh of this version as the image's entry point: it proves the host key with $FARGATE_HOST_PROOF_KEY. If the image has it, another server answers in the container's place.",
        )
    } else {
        (
            "proves another one",
            "Another server answers in the container's place, or its entry point is not the one of this version (deploy/ssh-entrypoint.sh).",
        )
    };
    error(
        ConnectErrorKind::IdentityUnproven,
        format!(
            "the SSH server at {address} port {port} has the host key {found} and {what}: nothing was sent to it"
        ),
        advice,
    )
}

/// The server did what no honest one does.
pub(super) fn abused(address: &str, port: u16, what: &str) -> ConnectError {
    error(
        ConnectErrorKind::NotOurProtocol,
        format!(
            "the driver ended the connection to the SSH server at {address} port {port}: {what}"
        ),
        "Look at what listens there in the container.",
    )
}

/// A connection that failed later, in words.
pub(super) fn text(e: russh::Error) -> String {
    match e {
        e if ended(&e) => "the SSH connection ended".to_owned(),
        russh::Error::KeepaliveTimeout => "the container does not answer any more".to_owned(),
        russh::Error::IO(e) if e.kind() == io::ErrorKind::TimedOut => {
            "the container does not answer any more".to_owned()
        }
        // The server's algorithms may be in it.
        e => clipped(&e.to_string()),
    }
}

/// Whether the other side has hung up, at whatever moment.
fn ended(e: &russh::Error) -> bool {
    match e {
        russh::Error::Disconnect
        | russh::Error::HUP
        | russh::Error::SendError
        | russh::Error::RecvError => true,
        russh::Error::IO(e) => e.kind() == io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}

fn humantime(span: Duration) -> String {
    if span.is_zero() { "the system's time".to_owned() } else { format!("{span:?}") }
}
