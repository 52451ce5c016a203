//! One connection attempt: TCP, key exchange, host key, authentication.

use std::sync::Arc;

use russh::{
    client::{AuthResult, Config, connect_stream},
    keys::{PrivateKey, PrivateKeyWithHashAlg},
};
use states::{
    ConnectCause, ConnectError, ConnectErrorKind, Destination, HostProof, Login, Target,
    trace::SPANS,
};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    SshSettings, errors, key,
    proof::{Proof, Secret},
    socket::{self, CloseOnDrop},
    watcher::{CloseReason, Expected, Refused, Watcher},
};

/// The client's end of a connection.
pub(super) type Handle = russh::client::Handle<Watcher>;

/// A connection that can be used.
pub(super) struct Connected {
    pub(super) handle: Handle,
    /// The host key, as `authorized_keys` would have it.
    pub(super) identity: String,
    pub(super) close_reason: CloseReason,
    /// Closed when the connection has ended, however it did.
    pub(super) alive: watch::Receiver<()>,
}

/// The server and the user of a login.
pub(super) struct Peer<'a> {
    pub(super) address: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
}

impl<'a> Peer<'a> {
    /// Returns the job's recorded login, or that of the current settings.
    pub(super) fn of(target: &'a Target, settings: &'a SshSettings) -> Result<Self, ConnectError> {
        match &target.destination {
            Destination::Address { host, login: Some(Login { user, port }) } => {
                Ok(Self { address: host, port: *port, user })
            }
            Destination::Address { host, login: None } => {
                Ok(Self { address: host, port: settings.port, user: &settings.username })
            }
            Destination::Task => Err(errors::error(
                ConnectErrorKind::Denied,
                ConnectCause::OtherTransport,
                format!(
                    "the container of task {} has no address to which SSH could connect",
                    target.task
                ),
            )),
        }
    }
}

/// Connects and authenticates.
pub(super) async fn connect(
    settings: &SshSettings,
    config: Arc<Config>,
    target: &Target,
) -> Result<Connected, ConnectError> {
    let peer = Peer::of(target, settings)?;
    let Peer { address, port, .. } = peer;
    let key = key::read(&target.key)?;
    let socket = timeout(target.connect_timeout, TcpStream::connect((address, port)))
        .await
        .map_err(|_| errors::silent(address, port, target.connect_timeout))?
        .map_err(|e| errors::tcp(address, port, &e))?;
    tracing::info!(target: SPANS, "tcp.connected");
    let unless_connected = CloseOnDrop::of(&socket).map_err(|e| errors::tcp(address, port, &e))?;
    let connected =
        timeout(target.attempt_timeout, handshake(settings, config, target, &peer, socket, key))
            .await
            .map_err(|_| errors::too_slow(address, port, "to complete the SSH handshake"))??;
    unless_connected.disarm();
    Ok(connected)
}

async fn handshake(
    settings: &SshSettings,
    config: Arc<Config>,
    target: &Target,
    peer: &Peer<'_>,
    socket: TcpStream,
    key: PrivateKey,
) -> Result<Connected, ConnectError> {
    let Peer { address, port, user } = *peer;
    let (shown, seen) = tokio::sync::oneshot::channel();
    let close_reason = CloseReason::default();
    let (lives, alive) = watch::channel(());
    let watcher = Watcher::new(expected(target, &key)?, shown, Arc::clone(&close_reason), lives);
    let patience = u32::try_from(settings.keepalive_max).unwrap_or(u32::MAX).saturating_add(1);
    let socket = socket::prepare(socket, settings.keepalive_interval.saturating_mul(patience));
    let connected = connect_stream(config, socket, watcher).await;
    let mut handle = match connected {
        Ok(handle) => handle,
        Err(Refused::Identity { pinned, found }) => {
            return Err(errors::identity_changed(address, port, &pinned, &found));
        }
        Err(Refused::Proof { proof, found }) => {
            return Err(errors::unproven(address, port, proof == Proof::Missing, &found));
        }
        Err(Refused::Abuse(what)) => return Err(errors::abused(address, port, what)),
        Err(Refused::Ssh(e)) => return Err(errors::handshake(address, port, &e)),
    };
    tracing::info!(target: SPANS, "ssh.keys_exchanged");
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let answer = handle
        .authenticate_publickey(user, key)
        .await
        .map_err(|e| errors::handshake(address, port, &e))?;
    if !matches!(answer, AuthResult::Success) {
        return Err(errors::auth_refused(address, port, user));
    }
    tracing::info!(target: SPANS, "ssh.authenticated");
    let identity = seen.await.map_err(|_| {
        errors::error(
            ConnectErrorKind::NotOurProtocol,
            ConnectCause::NotSsh,
            format!("{address} port {port} showed no host key"),
        )
    })?;
    Ok(Connected { handle, identity, close_reason, alive })
}

/// Returns the rule for the server's host key. It is pinned after first contact; before, it may
/// have to be proven.
fn expected(target: &Target, key: &PrivateKey) -> Result<Expected, ConnectError> {
    Ok(match (&target.pinned, target.host_proof) {
        (Some(pinned), _) => Expected::Pinned(pinned.0.clone()),
        (None, Some(proof)) => {
            Expected::Proven { secret: Secret::of(key)?, is_required: proof == HostProof::Required }
        }
        (None, None) => Expected::Any,
    })
}
