//! A task's SSH server: one user's key, commands as processes.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{Shutdown, SocketAddr},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use bytes::BytesMut;
use russh::{
    Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, MethodKind, MethodSet, Pty,
    SshId,
    keys::{Algorithm, PrivateKey, PublicKey},
    server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    process::{Child, ChildStdin},
};

use super::line::Line;
use crate::{
    cluster::{Cluster, Status, Task},
    containers,
    exec::Surroundings,
};

/// Bytes that are read from a process at once: one SSH packet.
const CHUNK: usize = 32 * 1024;

/// Serves the task's address.
pub(super) async fn serve(
    surroundings: &Surroundings,
    cluster: &Arc<Cluster>,
    task: &Arc<Task>,
) -> io::Result<Infallible> {
    let (never, silent, late) = {
        let ssh = &cluster.faults().ssh;
        (ssh.never_listens, ssh.silent, Duration::from_millis(ssh.late_ms))
    };
    if never {
        std::future::pending::<()>().await;
    }
    if silent {
        let _held = swallow(cluster.ssh_address(task)).await?;
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(task.times.ssh_server + late).await;
    let key = host_key()?;
    let identification = identification(
        &key,
        surroundings.environment.get("FARGATE_HOST_PROOF_KEY").map(String::as_str),
    )?;
    // A relay sends the real server's identification, and has another key.
    let (honest, impostor) = (config(key, &identification), config(host_key()?, &identification));
    // An invalid key admits no client, as in a real image.
    let key = surroundings
        .environment
        .get("SSH_PUBLIC_KEY")
        .and_then(|line| PublicKey::from_openssh(line.trim()).ok());
    let listener = TcpListener::bind(cluster.ssh_address(task)).await?;
    task.mark_ready();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let stream = stream.into_std()?;
        cluster.remember_connection(stream.try_clone()?);
        let connection = Connection {
            key: key.clone(),
            cluster: Arc::clone(cluster),
            task: Arc::clone(task),
            waiting: HashMap::new(),
        };
        let other = cluster.faults().ssh.other_host_key;
        let config = Arc::clone(if other { &impostor } else { &honest });
        let (task, socket) = (Arc::clone(task), stream.try_clone()?);
        let line = Line::new(stream, Arc::clone(cluster))?;
        let serve = async move {
            if let Ok(session) = server::run_stream(config, line, connection).await {
                // The client has disconnected; its processes continue.
                let _ = session.await;
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = serve => {}
                // The server ends with its container. The client may have gone before.
                () = task.containers_ended() => drop(socket.shutdown(Shutdown::Both)),
            }
        });
    }
}

fn host_key() -> io::Result<PrivateKey> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(io::Error::other)
}

/// Returns the server's identification string, with the host key's proof as by
/// deploy/ssh-entrypoint.sh.
fn identification(host_key: &PrivateKey, secret: Option<&str>) -> io::Result<String> {
    const NAME: &str = "SSH-2.0-local_cluster";
    // Without a valid secret there is no proof, as with the entry point.
    let mut key = [0; 32];
    if secret.is_none_or(|secret| hex::decode_to_slice(secret, &mut key).is_err()) {
        return Ok(NAME.to_owned());
    }
    let public = PublicKey::from(host_key.public_key().key_data().clone())
        .to_openssh()
        .map_err(io::Error::other)?;
    let proof = hmac::sign(
        &hmac::Key::new(HMAC_SHA256, &key),
        format!("fargate-host-proof=1 {public}").as_bytes(),
    );
    Ok(format!("{NAME} fargate-host-proof=1:{}", hex::encode(proof)))
}

/// Returns the configuration of a server with this host key.
fn config(host_key: PrivateKey, identification: &str) -> Arc<server::Config> {
    Arc::new(server::Config {
        server_id: SshId::Standard(identification.to_owned().into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![host_key],
        auth_rejection_time: Duration::from_millis(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: None,
        maximum_packet_size: CHUNK as u32,
        window_size: 2 * 1024 * 1024,
        nodelay: true,
        ..server::Config::default()
    })
}

/// Makes the address silent by a listener whose queue is full, so that the kernel drops new
/// connections (Linux, listen(2)). It stays silent until the result is dropped.
async fn swallow(address: SocketAddr) -> io::Result<(TcpListener, Vec<TcpStream>)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(1)?;
    let mut queued = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(stream?);
    }
    Ok((listener, queued))
}

struct Connection {
    key: Option<PublicKey>,
    cluster: Arc<Cluster>,
    task: Arc<Task>,
    /// Channels without a request to run a command yet.
    waiting: HashMap<ChannelId, Channel<Msg>>,
}

impl Connection {
    fn admits(&self, key: &PublicKey) -> bool {
        !self.cluster.faults().ssh.refuses_keys
            && self.key.as_ref().is_some_and(|known| known.key_data() == key.key_data())
    }

    fn run(
        &mut self,
        id: ChannelId,
        command: Option<&str>,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(channel) = self.waiting.remove(&id) else { return session.channel_failure(id) };
        if self.task.state().status >= Status::Deprovisioning {
            return session.channel_failure(id);
        }
        let coordinator = &containers::coordinator(&self.task.launch.definition).name;
        let started = self.task.runtime.surroundings.get();
        let Some(surroundings) = started.and_then(|containers| containers.get(coordinator)) else {
            return session.channel_failure(id);
        };
        let mut shell = surroundings.command("/bin/sh");
        if let Some(command) = command {
            shell.arg("-c").arg(command);
        }
        let child = shell
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => {
                session.channel_success(id)?;
                tokio::spawn(attend(channel, child));
                Ok(())
            }
            Err(e) => {
                tracing::warn!("a process could not be started: {e}");
                session.channel_failure(id)
            }
        }
    }
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(if self.admits(offer.public_key) { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(if self.admits(key.public_key) { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.waiting.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // There are no terminals here, so the request is refused at once, as by sshd with
        // `PermitTTY no`.
        session.channel_failure(id)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(command).into_owned();
        self.run(id, Some(&command), session)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.run(id, None, session)
    }
}

/// Connects a process and its channel until both are done.
async fn attend(channel: Channel<Msg>, mut child: Child) {
    let (read, write) = channel.split();
    let input = tokio::spawn(feed(read, child.stdin.take()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (_, _, status) =
        tokio::join!(drain(stdout, &write, None), drain(stderr, &write, Some(1)), child.wait());
    let status = status.map_or(255, exit_code);
    // The client may be gone.
    let _ = write.eof().await;
    let _ = write.exit_status(status).await;
    let _ = write.close().await;
    input.abort();
}

async fn feed(mut read: ChannelReadHalf, mut stdin: Option<ChildStdin>) {
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            ChannelMsg::Eof => stdin = None,
            ChannelMsg::Close => break,
            _ => {}
        }
    }
}

/// Forwards a process's output. When the client is gone, the pipe is closed, as by OpenSSH.
async fn drain(
    from: Option<impl AsyncRead + Unpin>,
    to: &ChannelWriteHalf<Msg>,
    stream: Option<u32>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::with_capacity(8 * CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = buffer.split().freeze();
        let sent = match stream {
            None => to.data_bytes(data).await,
            Some(stream) => to.extended_data_bytes(stream, data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn exit_code(status: ExitStatus) -> u32 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u32::try_from(code).unwrap_or(255)
}
