//! One connection attempt: TCP, key exchange, host key, authentication.

use std::sync::{Arc, OnceLock};

use russh::{
    client::{AuthResult, Config, DisconnectReason, Handler, connect_stream},
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate},
};
use states::{ConnectError, ConnectErrorKind, Destination, Login, Target};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{SshSettings, errors, key, socket};

/// The client's end of a connection.
pub(super) type Handle = russh::client::Handle<Watcher>;

/// Why a connection ended, once it has.
pub(super) type Obituary = Arc<OnceLock<String>>;

/// A connection that can be used.
pub(super) struct Connected {
    pub(super) handle: Handle,
    /// The host key, as `authorized_keys` would have it.
    pub(super) identity: String,
    pub(super) obituary: Obituary,
    /// Closed when the connection has ended, however it did.
    pub(super) alive: watch::Receiver<()>,
}

/// Whom to log in to, and as whom.
pub(super) struct Peer<'a> {
    pub(super) address: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
}

impl<'a> Peer<'a> {
    /// What the job's record says overrides the settings of today.
    pub(super) fn of(target: &'a Target, settings: &'a SshSettings) -> Result<Self, ConnectError> {
        match &target.destination {
            Destination::Address { host, login: Some(Login { user, port }) } => Ok(Self { address: host, port: *port, user }),
            Destination::Address { host, login: None } => Ok(Self { address: host, port: settings.port, user: &settings.username }),
            Destination::Ecs => Err(errors::error(
                ConnectErrorKind::Denied,
                format!("the container of task {} has no address to which SSH could connect", target.task),
                "The job was launched to be reached by ECS Exec.",
            )),
        }
    }
}

/// Connects and authenticates.
pub(super) async fn connect(settings: &SshSettings, config: Arc<Config>, target: &Target) -> Result<Connected, ConnectError> {
    let peer = Peer::of(target, settings)?;
    let Peer { address, port, .. } = peer;
    let key = key::read(&target.key)?;
    let socket = timeout(target.connect_timeout, TcpStream::connect((address, port)))
        .await
        .map_err(|_| errors::silent(address, port, target.connect_timeout))?
        .map_err(|e| errors::tcp(address, port, &e))?;
    timeout(target.attempt_timeout, handshake(settings, config, target, &peer, socket, key))
        .await
        .map_err(|_| errors::too_slow(address, port, "to complete the SSH handshake"))?
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
    let (told, seen) = tokio::sync::oneshot::channel();
    let obituary = Obituary::default();
    let (lives, alive) = watch::channel(());
    let watcher =
        Watcher { _lives: lives, pinned: target.pinned.as_ref().map(|p| p.0.clone()), told: Some(told), obituary: Arc::clone(&obituary) };
    let patience = u32::try_from(settings.keepalive_max).unwrap_or(u32::MAX).saturating_add(1);
    let socket = socket::prepare(socket, settings.keepalive_interval.saturating_mul(patience));
    let connected = connect_stream(config, socket, watcher).await;
    let mut handle = match connected {
        Ok(handle) => handle,
        Err(Refused::Identity { pinned, found }) => return Err(errors::identity_changed(address, port, &pinned, &found)),
        Err(Refused::Ssh(e)) => return Err(errors::handshake(address, port, &e)),
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let answer = handle.authenticate_publickey(user, key).await.map_err(|e| errors::handshake(address, port, &e))?;
    if !matches!(answer, AuthResult::Success) {
        return Err(errors::auth_refused(address, port, user));
    }
    let identity = seen.await.map_err(|_| {
        errors::error(
            ConnectErrorKind::NotOurProtocol,
            format!("{address} port {port} showed no host key"),
            "It is no SSH server as RFC 4253 has it.",
        )
    })?;
    Ok(Connected { handle, identity, obituary, alive })
}

/// Watches the connection. Accepts the pinned host key, or, at first contact, any: the container was made moments ago for
/// this job, and nobody could have told us its key.
pub(super) struct Watcher {
    /// Goes with the connection.
    _lives: watch::Sender<()>,
    pinned: Option<String>,
    told: Option<tokio::sync::oneshot::Sender<String>>,
    obituary: Obituary,
}

/// Why a connection was ended in the handshake.
#[derive(Debug)]
pub(super) enum Refused {
    Identity { pinned: String, found: String },
    Ssh(russh::Error),
}

impl From<russh::Error> for Refused {
    fn from(e: russh::Error) -> Self {
        Self::Ssh(e)
    }
}

impl Handler for Watcher {
    type Error = Refused;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Refused> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        // Without its comment: only the key itself identifies.
        let key = russh::keys::PublicKey::from(key.key_data().clone());
        let found = key.to_openssh().map_err(|e| Refused::Ssh(e.into()))?;
        if let Some(pinned) = &self.pinned
            && *pinned != found
        {
            return Err(Refused::Identity { pinned: fingerprint(pinned), found: key.fingerprint(HashAlg::Sha256).to_string() });
        }
        if let Some(told) = self.told.take() {
            // Nobody waits for it when the attempt was abandoned.
            let _ = told.send(found);
        }
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Refused>) -> Result<(), Refused> {
        let why = match reason {
            DisconnectReason::ReceivedDisconnect(told) => format!("the SSH server ended the connection: {}", told.message),
            DisconnectReason::Error(Refused::Ssh(e)) => errors::text(e),
            // The key is shown once more when new session keys are made.
            DisconnectReason::Error(Refused::Identity { .. }) => "the SSH server showed another host key".to_owned(),
        };
        // The channels are told after this, so whoever reads them finds it.
        let _ = self.obituary.set(why);
        Ok(())
    }
}

fn fingerprint(openssh: &str) -> String {
    russh::keys::PublicKey::from_openssh(openssh).map_or_else(|_| openssh.to_owned(), |key| key.fingerprint(HashAlg::Sha256).to_string())
}
