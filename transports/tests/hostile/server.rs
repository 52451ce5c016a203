//! A hostile SSH server that speaks the part of the delivery protocol that it needs.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use russh::{
    Channel, ChannelId, Disconnect, Limits, MethodKind, MethodSet, SshId,
    keys::{Algorithm, PrivateKey},
    server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use tokio::net::TcpListener;

/// Its attack when a script is started or followed.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "each test program uses some")]
pub(crate) enum Attack {
    /// Sends a byte of output, and disconnects with a text of this size, another one each time.
    ByteAndGoodbye(usize),
    /// Opens this many channels to the client.
    Channels(usize),
    /// Sends this many pieces of output of no byte, and of one byte.
    Crumbs(usize),
    /// Sends output without end, and renews session keys every 64 bytes.
    KeyExchanges,
    /// Reports that the script has begun, and nothing more.
    Silence,
    /// Reports at once that it succeeded.
    None,
}

/// The server's record of clients.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    /// Keys that clients offered, which are the first data of the job.
    pub(crate) keys_offered: AtomicUsize,
    pub(crate) commands: AtomicUsize,
    /// Channels of the server that clients accepted.
    pub(crate) channels_accepted: AtomicUsize,
}

impl Seen {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// How a server presents itself.
pub(crate) struct Identity {
    pub(crate) host_key: PrivateKey,
    /// Its identification line.
    pub(crate) says: String,
}

impl Identity {
    /// Returns a host key without a proof.
    pub(crate) fn unproven() -> Self {
        Self {
            host_key: PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap(),
            says: "SSH-2.0-hostile".to_owned(),
        }
    }
}

/// Serves the address until the runtime ends. Returns its port.
pub(crate) async fn serve(
    address: (Ipv4Addr, u16),
    identity: Identity,
    attack: Attack,
) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let config = Arc::new(server::Config {
        server_id: SshId::Standard(identity.says.into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![identity.host_key],
        auth_rejection_time: Duration::ZERO,
        limits: match attack {
            Attack::KeyExchanges => Limits::new(64, 1 << 30, Duration::from_secs(3600)),
            _ => Limits::default(),
        },
        ..server::Config::default()
    });
    let seen = Arc::<Seen>::default();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            let connection = Connection { seen: Arc::clone(&shared), attack, open: HashMap::new() };
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, stream, connection).await {
                    let _ = session.await;
                }
            });
        }
    });
    (address, seen)
}

struct Connection {
    seen: Arc<Seen>,
    attack: Attack,
    /// Keeps channels open.
    open: HashMap<ChannelId, Channel<Msg>>,
}

/// Parses the verb and the nonce of a command of the delivery protocol.
fn command(line: &str) -> Option<(&'static str, &str)> {
    ["probe", "start", "attach", "signal"].into_iter().find_map(|verb| {
        let (_, rest) = line.split_once(&format!("' '{verb}' '"))?;
        Some((verb, rest.split('\'').next()?))
    })
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _: &str,
        _: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.seen.keys_offered.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        self.seen.keys_offered.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        _: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.seen.channels_accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let number = self.seen.commands.fetch_add(1, Ordering::Relaxed);
        let line = String::from_utf8_lossy(line).into_owned();
        let Some((verb, nonce)) = command(&line) else {
            return session.disconnect(Disconnect::ByApplication, "what?", "");
        };
        if verb == "probe" {
            session.extended_data(id, 1, format!("{nonce} ready 1 1 /tmp/run\n").into_bytes())?;
            session.exit_status_request(id, 0)?;
            session.eof(id)?;
            return session.close(id);
        }
        session.extended_data(id, 1, format!("{nonce} started\n").into_bytes())?;
        session.data(id, format!("{nonce} begin\n").into_bytes())?;
        match self.attack {
            Attack::ByteAndGoodbye(size) => {
                session.data(id, &b"x"[..])?;
                let text = format!("{number}\x1b[2J\n")
                    .repeat(size)
                    .chars()
                    .take(size)
                    .collect::<String>();
                session.disconnect(Disconnect::ByApplication, &text, "")
            }
            Attack::Channels(count) => {
                for number in 0..count {
                    match number % 6 {
                        0 => session.channel_open_session()?,
                        1 => session.channel_open_forwarded_tcpip(
                            "localhost",
                            80,
                            "localhost",
                            80,
                        )?,
                        2 => session.channel_open_forwarded_streamlocal("/run/x")?,
                        3 => session.channel_open_agent()?,
                        4 => session.channel_open_x11("localhost", 80)?,
                        _ => session.channel_open_direct_tcpip("localhost", 80, "localhost", 80)?,
                    };
                }
                Ok(())
            }
            Attack::Crumbs(count) => {
                for _ in 0..count {
                    session.data(id, &b""[..])?;
                    session.data(id, &b"x"[..])?;
                }
                Ok(())
            }
            Attack::KeyExchanges => {
                let handle = session.handle();
                tokio::spawn(async move { while handle.data(id, vec![b'x'; 64]).await.is_ok() {} });
                Ok(())
            }
            Attack::Silence => Ok(()),
            Attack::None => {
                session.extended_data(id, 1, format!("{nonce} exit 0 0\n").into_bytes())?;
                Ok(())
            }
        }
    }
}
