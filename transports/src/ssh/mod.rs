//! SSH: a connection to the SSH server in the job's container, by russh.

mod channel;
mod client;
mod errors;
pub mod key;
pub mod proof;
mod socket;
mod terminal;
mod watcher;

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use russh::{
    Disconnect, Preferred, cipher, compression, kex,
    keys::{Algorithm, EcdsaCurve},
    mac,
};
use states::{ConnectError, Greeting, HostIdentity, Readiness, Target, TransportRecord};
use tokio::{sync::watch, time::timeout};

use self::{
    channel::{Answers, Awaited, Reading, SshChannel},
    client::{Connected, Peer},
    watcher::CloseReason,
};
use crate::{
    Connector, Declaration, Interactive,
    delivery::{self, Channel, Exec, Session},
};

/// SSH's declaration. A running container answers in milliseconds.
pub static DECLARATION: Declaration = Declaration {
    record: TransportRecord {
        name: Cow::Borrowed("ssh"),
        readiness: Readiness::Probed,
        attempt_timeout: Duration::from_secs(15),
    },
    about: "SSH: the container runs an SSH server",
    table: Some("SSH"),
    is_offered: true,
    needs_address: true,
    needs_login: true,
    needs_execute_command: false,
};

/// Settings of the SSH transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// The user to log in as.
    pub username: String,
    /// The port of the containers' SSH servers.
    pub port: u16,
    /// How long the connection may be silent before a keep-alive is sent.
    pub keepalive_interval: Duration,
    /// How many keep-alives in a row may stay unanswered.
    pub keepalive_max: usize,
}

impl Default for SshSettings {
    fn default() -> Self {
        Self {
            username: "root".to_owned(),
            port: 22,
            keepalive_interval: Duration::from_secs(15),
            keepalive_max: 3,
        }
    }
}

/// Reaches containers by SSH.
#[derive(Debug, Clone)]
pub struct SshTransport {
    settings: SshSettings,
    config: Arc<russh::client::Config>,
}

impl SshTransport {
    /// Returns a transport with these settings.
    #[must_use]
    pub fn new(settings: SshSettings) -> Self {
        let config = russh::client::Config {
            // At most eight packets of output are held here; the window bounds the bytes in flight.
            // Measured: a quarter of it costs a tenth of the speed, four times as much gains
            // nothing.
            window_size: 2 * 1024 * 1024,
            maximum_packet_size: 32 * 1024,
            channel_buffer_size: 8,
            keepalive_interval: Some(settings.keepalive_interval),
            keepalive_max: settings.keepalive_max,
            preferred: Preferred {
                // The fastest that every OpenSSH since 6.5 supports; AES-GCM runs in hardware.
                kex: vec![
                    kex::CURVE25519,
                    kex::CURVE25519_PRE_RFC_8731,
                    kex::ECDH_SHA2_NISTP256,
                    kex::EXTENSION_SUPPORT_AS_CLIENT,
                    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
                ]
                .into(),
                // No RSA: russh's implementation has a timing flaw (RUSTSEC-2023-0071), so it is
                // not built in. A server with other keys must not choose RSA.
                key: vec![
                    Algorithm::Ed25519,
                    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
                    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
                    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
                ]
                .into(),
                cipher: vec![
                    cipher::AES_128_GCM,
                    cipher::AES_256_GCM,
                    cipher::CHACHA20_POLY1305,
                    cipher::AES_256_CTR,
                ]
                .into(),
                mac: vec![
                    mac::HMAC_SHA256_ETM,
                    mac::HMAC_SHA512_ETM,
                    mac::HMAC_SHA256,
                    mac::HMAC_SHA512,
                ]
                .into(),
                compression: vec![compression::NONE].into(),
                ..Preferred::default()
            },
            ..russh::client::Config::default()
        };
        Self { settings, config: Arc::new(config) }
    }
}

impl SshTransport {
    /// Opens a connection. Returns it with the server's host key.
    async fn enter(&self, target: &Target) -> Result<(Shell, String), ConnectError> {
        let Connected { handle, identity, close_reason, alive } =
            client::connect(&self.settings, Arc::clone(&self.config), target).await?;
        Ok((Shell { handle, close_reason, alive, answers: Arc::default() }, identity))
    }
}

#[async_trait]
impl Connector for SshTransport {
    async fn connect(&self, target: &Target) -> Result<(Session, Greeting), ConnectError> {
        let peer = Peer::of(target, &self.settings)?;
        let (shell, identity) = self.enter(target).await?;
        let opened = Session::open(shell, HostIdentity(identity), target);
        timeout(target.attempt_timeout, opened).await.unwrap_or_else(|_| {
            Err(errors::too_slow(peer.address, peer.port, "to run a first command"))
        })
    }

    fn interactive(&self) -> Option<&dyn Interactive> {
        Some(self)
    }
}

/// Commands over one connection, each in a channel of its own.
struct Shell {
    handle: client::Handle,
    close_reason: CloseReason,
    alive: watch::Receiver<()>,
    answers: Arc<Answers>,
}

impl Shell {
    /// Completes when the connection has ended.
    async fn ended(&self) {
        // Nothing is ever sent: the channel changes when its sender is dropped.
        let _ = self.alive.clone().changed().await;
    }

    /// Describes a failed request: by the connection's close reason if there is one, else by the
    /// error.
    fn text(&self, e: russh::Error) -> String {
        self.close_reason.get().cloned().unwrap_or_else(|| errors::text(e))
    }
}

/// When a command's input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputEnd {
    /// Behind the input.
    AtOnce,
    /// When the channel is closed.
    WithChannel,
}

#[async_trait]
impl Exec for Shell {
    async fn exec(
        &self,
        command: delivery::Command,
        input: Bytes,
    ) -> Result<Box<dyn Channel>, String> {
        // A command that follows no run is awaited.
        let (is_awaited, input_end) = if command.follows() {
            (false, InputEnd::WithChannel)
        } else {
            (true, InputEnd::AtOnce)
        };
        let channel = self.run(command.line(), input, input_end, is_awaited).await?;
        Ok(Box::new(channel))
    }

    fn is_open(&self) -> bool {
        !self.handle.is_closed() && self.alive.has_changed().is_ok()
    }

    async fn answers(&self) -> bool {
        tokio::select! {
            biased;
            () = self.ended() => false,
            // A ping also returns when the connection ends.
            asked = self.handle.send_ping() => asked.is_ok() && self.is_open(),
        }
    }

    fn sends_later(&self) -> bool {
        true
    }

    async fn close(self: Box<Self>) {
        // The server notices the closed socket anyway.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
    }
}

impl Shell {
    /// Runs a line in the user's login shell. `is_awaited` is set if a caller waits for its output.
    async fn run(
        &self,
        line: String,
        input: Bytes,
        input_end: InputEnd,
        is_awaited: bool,
    ) -> Result<SshChannel, String> {
        tokio::select! {
            biased;
            channel = self.send(line, input, input_end, is_awaited) => channel,
            // Input waits for the server's window, and russh does not end that wait when the
            // connection ends.
            () = self.ended() => Err(self.text(russh::Error::Disconnect)),
        }
    }

    async fn send(
        &self,
        line: String,
        input: Bytes,
        input_end: InputEnd,
        is_awaited: bool,
    ) -> Result<SshChannel, String> {
        // The server's window for the input comes over the connection, too.
        let awaited = Awaited::new(&self.answers);
        let channel = self.handle.channel_open_session().await.map_err(|e| self.text(e))?;
        let (read, write) = channel.split();
        let reading = Reading::begin(read, &self.answers, Arc::clone(&self.close_reason));
        // Everything is sent at once, without waiting for replies in between.
        write.exec(false, line).await.map_err(|e| self.text(e))?;
        if !input.is_empty() {
            write.data_bytes(input).await.map_err(|e| self.text(e))?;
        }
        if input_end == InputEnd::AtOnce {
            write.eof().await.map_err(|e| self.text(e))?;
        }
        let awaited = is_awaited.then_some(awaited);
        Ok(SshChannel::new(reading, write, &self.answers, self.alive.clone(), awaited))
    }
}
