//! Errors of connections to containers: their kind, their cause, and the peer's own words.

use std::{io, time::Duration};

use states::{ConnectCause, ConnectError, ConnectErrorKind, foreign_text::clipped};

pub(super) fn error(kind: ConnectErrorKind, cause: ConnectCause, message: String) -> ConnectError {
    ConnectError { kind, message, cause }
}

/// Nothing came back at all.
pub(super) fn silent(address: &str, port: u16, waited: Duration) -> ConnectError {
    error(
        ConnectErrorKind::TimedOut,
        ConnectCause::General,
        format!("{address} port {port} did not answer within {}", humantime(waited)),
    )
}

pub(super) fn too_slow(address: &str, port: u16, what: &str) -> ConnectError {
    error(
        ConnectErrorKind::Interrupted,
        ConnectCause::ServerSlow,
        format!("{address} port {port} accepted the connection but took too long {what}"),
    )
}

pub(super) fn tcp(address: &str, port: u16, e: &io::Error) -> ConnectError {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => error(
            ConnectErrorKind::Refused,
            ConnectCause::General,
            format!("nothing listens on {address} port {port}"),
        ),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => error(
            ConnectErrorKind::Interrupted,
            ConnectCause::ServerClosed,
            format!("{address} port {port} ended the connection: {e}"),
        ),
        io::ErrorKind::TimedOut => silent(address, port, Duration::ZERO),
        _ => error(
            ConnectErrorKind::Unreachable,
            ConnectCause::General,
            format!("{address} port {port} cannot be reached: {e}"),
        ),
    }
}

pub(super) fn handshake(address: &str, port: u16, e: &russh::Error) -> ConnectError {
    match e {
        e if ended(e) => error(
            ConnectErrorKind::Interrupted,
            ConnectCause::HandshakeClosed,
            format!("{address} port {port} ended the connection during the SSH handshake"),
        ),
        russh::Error::IO(e) if e.kind() != io::ErrorKind::InvalidData => tcp(address, port, e),
        russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. } => error(
            ConnectErrorKind::NotOurProtocol,
            ConnectCause::HostKeyKind,
            format!(
                "the SSH server at {address} port {port} has no host key of a kind that this driver checks: {}",
                clipped(&e.to_string())
            ),
        ),
        russh::Error::NoCommonAlgo { .. } => error(
            ConnectErrorKind::NotOurProtocol,
            ConnectCause::Algorithms,
            format!(
                "the SSH server at {address} port {port} has no algorithm in common with this driver: {}",
                clipped(&e.to_string())
            ),
        ),
        _ => error(
            ConnectErrorKind::NotOurProtocol,
            ConnectCause::NotSsh,
            format!(
                "{address} port {port} does not complete an SSH handshake: {}",
                clipped(&e.to_string())
            ),
        ),
    }
}

pub(super) fn auth_refused(address: &str, port: u16, user: &str) -> ConnectError {
    error(
        ConnectErrorKind::AuthRefused,
        ConnectCause::General,
        format!("the SSH server at {address} port {port} refuses the job's key for user {user}"),
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
        ConnectCause::General,
        format!(
            "another SSH server answers at {address} port {port}: its host key is {found}, this job's container had {pinned}"
        ),
    )
}

/// At first contact the server did not prove that its host key is the container's.
pub(super) fn unproven(address: &str, port: u16, is_missing: bool, found: &str) -> ConnectError {
    let (what, cause) = if is_missing {
        ("does not prove it, which [SSH] VerifyHost requires", ConnectCause::NoHostProof)
    } else {
        ("proves another one", ConnectCause::OtherHostProof)
    };
    error(
        ConnectErrorKind::IdentityUnproven,
        cause,
        format!(
            "the SSH server at {address} port {port} has the host key {found} and {what}: nothing was sent to it"
        ),
    )
}

/// The server behaved as no honest one does.
pub(super) fn abused(address: &str, port: u16, what: &str) -> ConnectError {
    error(
        ConnectErrorKind::NotOurProtocol,
        ConnectCause::Abuse,
        format!(
            "the driver ended the connection to the SSH server at {address} port {port}: {what}"
        ),
    )
}

/// Describes the failure of an established connection.
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

/// Whether the other side has closed the connection.
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
