//! Callbacks of a connection: they check the host key, limit what the server may do unasked, and
//! record why the connection ended.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use russh::{
    Channel, Names,
    client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session},
    keys::{HashAlg, PublicKeyOrCertificate},
};
use states::foreign_text;
use tokio::sync::{oneshot, watch};

use super::{
    errors,
    proof::{Proof, Secret},
};

/// Channels that a server may try to open before the driver ends the connection. Each is refused.
/// An honest server opens none, as nothing is forwarded.
const MOST_CHANNELS: u32 = 100;
/// Key exchanges within [`KEX_WINDOW`] before the driver ends the connection. OpenSSH makes one per
/// gigabyte at most.
const MOST_KEX: u32 = 200;
const KEX_WINDOW: Duration = Duration::from_secs(60);

/// Why a connection ended, once it has.
pub(super) type CloseReason = Arc<OnceLock<String>>;

/// The rule for a server's host key.
pub(super) enum Expected {
    /// Any key: the container is unknown, and has no secret for a proof.
    Any,
    /// The key of the first contact.
    Pinned(String),
    /// A key that the container proves to be its own.
    Proven { secret: Secret, is_required: bool },
}

/// Handles a connection's callbacks.
pub(super) struct Watcher {
    expected: Expected,
    /// The server's host key.
    found: Option<Found>,
    /// Receives the accepted host key.
    shown: Option<oneshot::Sender<String>>,
    close_reason: CloseReason,
    /// Dropped with the connection.
    _lives: watch::Sender<()>,
    channels: u32,
    kex: u32,
    kex_since: Instant,
}

struct Found {
    /// As `authorized_keys` has it, without a comment.
    openssh: String,
    fingerprint: String,
}

/// Why the driver ended a connection.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another host key than the pinned one. Both as fingerprints.
    Identity { pinned: String, found: String },
    /// The host key, by its fingerprint, is not proven.
    Proof { proof: Proof, found: String },
    /// The server behaves as no honest one does.
    Abuse(&'static str),
    /// The protocol failed.
    Ssh(russh::Error),
}

impl From<russh::Error> for Refused {
    fn from(e: russh::Error) -> Self {
        Self::Ssh(e)
    }
}

impl Watcher {
    pub(super) fn new(
        expected: Expected,
        shown: oneshot::Sender<String>,
        close_reason: CloseReason,
        lives: watch::Sender<()>,
    ) -> Self {
        Self {
            expected,
            found: None,
            shown: Some(shown),
            close_reason,
            _lives: lives,
            channels: 0,
            kex: 0,
            kex_since: Instant::now(),
        }
    }

    /// Refuses a channel that the server wants to open, by dropping `reply`.
    fn refuse(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle) -> Result<(), Refused> {
        drop((channel, reply));
        self.channels += 1;
        if self.channels > MOST_CHANNELS {
            Err(Refused::Abuse("it opens channels that nothing asked for"))
        } else {
            Ok(())
        }
    }

    /// Checks the proof at the end of the first key exchange, which shows that the server has the
    /// host key.
    fn check_proof(&self, identification: &[u8]) -> Result<(), Refused> {
        let (Expected::Proven { secret, is_required }, Some(found)) = (&self.expected, &self.found)
        else {
            return Ok(());
        };
        match secret.check(identification, &found.openssh) {
            Proof::Right => {
                tracing::debug!(
                    host_key = found.fingerprint,
                    "the container has proven its host key"
                );
                Ok(())
            }
            Proof::Missing if !is_required => {
                tracing::debug!(
                    host_key = found.fingerprint,
                    "the container has not proven its host key, which is not required"
                );
                Ok(())
            }
            proof => Err(Refused::Proof { proof, found: found.fingerprint.clone() }),
        }
    }
}

/// Refuses channels of each of these kinds. The types are those of a kind's own arguments.
macro_rules! refuse_channels {
    ($($open:ident($($argument:ty),*);)*) => {$(
        async fn $open(
            &mut self,
            channel: Channel<Msg>,
            $(_: $argument,)*
            reply: ChannelOpenHandle,
            _: &mut Session,
        ) -> Result<(), Refused> {
            self.refuse(channel, reply)
        }
    )*};
}

impl Handler for Watcher {
    type Error = Refused;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Refused> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        // Without its comment: only the key itself identifies.
        let key = russh::keys::PublicKey::from(key.key_data().clone());
        let openssh = key.to_openssh().map_err(|e| Refused::Ssh(e.into()))?;
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        if let Expected::Pinned(pinned) = &self.expected
            && *pinned != openssh
        {
            return Err(Refused::Identity { pinned: fingerprint_of(pinned), found: fingerprint });
        }
        self.found = Some(Found { openssh, fingerprint });
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        _: &Names,
        session: &mut Session,
    ) -> Result<(), Refused> {
        if let Some(shown) = self.shown.take() {
            self.check_proof(session.remote_sshid())?;
            if let Some(found) = &self.found {
                // The attempt may have been abandoned.
                let _ = shown.send(found.openssh.clone());
            }
        }
        if self.kex_since.elapsed() >= KEX_WINDOW {
            (self.kex, self.kex_since) = (0, Instant::now());
        }
        self.kex += 1;
        if self.kex > MOST_KEX {
            Err(Refused::Abuse("it makes new session keys again and again"))
        } else {
            Ok(())
        }
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Refused>) -> Result<(), Refused> {
        let why = match reason {
            DisconnectReason::ReceivedDisconnect(said) if said.message.is_empty() => {
                "the SSH server ended the connection".to_owned()
            }
            DisconnectReason::ReceivedDisconnect(said) => {
                format!(
                    "the SSH server ended the connection: {}",
                    foreign_text::clipped(&said.message)
                )
            }
            DisconnectReason::Error(Refused::Ssh(e)) => errors::text(e),
            DisconnectReason::Error(Refused::Abuse(what)) => {
                format!("the driver ended the connection to the SSH server: {what}")
            }
            DisconnectReason::Error(Refused::Identity { .. } | Refused::Proof { .. }) => {
                "the SSH server showed another host key".to_owned()
            }
        };
        // The channels end after this, so their readers find the reason.
        let _ = self.close_reason.set(why);
        Ok(())
    }

    refuse_channels! {
        server_channel_open_session();
        server_channel_open_agent_forward();
        server_channel_open_x11(&str, u32);
        server_channel_open_forwarded_tcpip(&str, u32, &str, u32);
        server_channel_open_forwarded_streamlocal(&str);
        server_channel_open_direct_tcpip(&str, u32, &str, u32);
        server_channel_open_direct_streamlocal(&str);
    }
}

fn fingerprint_of(openssh: &str) -> String {
    russh::keys::PublicKey::from_openssh(openssh)
        .map_or_else(|_| openssh.to_owned(), |key| key.fingerprint(HashAlg::Sha256).to_string())
}
