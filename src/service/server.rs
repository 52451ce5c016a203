//! `fargate serve`: listens at the metadata directory's socket, and hosts the stages that come.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use states::{StoreError, private_file};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    admission::{Admission, Capacity},
    connection::{self, Receiver, Sender},
    hosted, is_trusted,
    protocol::{Hello, MOST_SCRIPT, Request, RequestedStage, ToClient, ToService},
    socket_path, upkeep,
};
use crate::{config::Config, stages::Host, telemetry};

/// The lock's name in the metadata directory. Jobs' locks have other extensions.
const LOCK: &str = "fargate.serving";
/// How long a client may take for its request.
const ASKS_WITHIN: Duration = Duration::from_secs(10);
/// How long the service waits at its end for stages to be let go, and then for connections to be
/// closed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Why the service cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The metadata directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another one serves the same directory.
    #[error(
        "{} is served already, by {holder}. One service per metadata directory is enough: stop that one first.",
        directory.display()
    )]
    Served {
        /// The directory.
        directory: PathBuf,
        /// Who serves it.
        holder: String,
    },
    /// The lock cannot be taken.
    #[error("the lock {} cannot be taken: {source}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error(
        "the socket {} cannot be made: {source}. A socket's path may have 107 bytes: a shorter Directory may help.",
        path.display()
    )]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be listened for.
    #[error("the service cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT. Then the stages' processes go on by themselves.
///
/// # Errors
/// When the service cannot begin.
pub async fn serve(config: Config, hello: Hello) -> Result<(), ServeError> {
    let signals = |kind| signal(kind).map_err(ServeError::Signals);
    let (mut term, mut interrupt) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let directory = config.metadata.directory.clone();
    let capacity = Capacity::of_process();
    let host = Arc::new(Host::new(config)?.keeping_connections(capacity.kept));
    let _lock = lock(&directory)?;
    let path = socket_path(&directory);
    let listener =
        listen(&path).map_err(|source| ServeError::Socket { path: path.clone(), source })?;
    if telemetry::is_on() {
        tracing::warn!(
            "[Telemetry] is on: stages do their work themselves, and the service only watches stopping tasks and reaps"
        );
    }
    tracing::info!(
        files = capacity.files,
        "serving {}: up to {} stages at once",
        path.display(),
        capacity.stages
    );
    if capacity.stages == 0 {
        tracing::warn!(
            "the limit of open files is too low to host stages: they do their work themselves. Raise it (LimitNOFILE of systemd, `ulimit -n`)."
        );
    }
    println!("fargate serve: ready: {}", path.display());
    let (ends, is_ending) = watch::channel(false);
    let service = Service { host, hello, admission: Admission::new(capacity), is_ending };
    let upkeep = tokio::spawn(upkeep::keep_up(Arc::clone(&service.host)));
    let mut attended = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = attended.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    attended.spawn(service.clone().attend(stream));
                }
                Err(e) => {
                    // Of files, for example, there may be enough again soon.
                    tracing::warn!("a stage could not be taken: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    tracing::info!(stages = attended.len(), "ending: the stages go on by themselves");
    drop(listener);
    // A client that comes now does its work itself, without asking.
    let _ = fs::remove_file(&path);
    upkeep.abort();
    ends.send_replace(true);
    let _ = timeout(ENDS_WITHIN, async { while attended.join_next().await.is_some() {} }).await;
    attended.shutdown().await;
    if let Some(connections) = service.host.connections() {
        let _ = timeout(ENDS_WITHIN, connections.close_all()).await;
    }
    Ok(())
}

#[derive(Clone)]
struct Service {
    host: Arc<Host>,
    hello: Hello,
    admission: Admission,
    is_ending: watch::Receiver<bool>,
}

impl Service {
    /// Attends to one connection.
    async fn attend(self, stream: UnixStream) {
        // The directory keeps others away. This is the second line of defence.
        if !stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) {
            return tracing::warn!("a process of another user has connected: it gets no answer");
        }
        let (mut receiver, mut sender) = connection::split(stream);
        let Some(asking) = self.admission.asking() else {
            return refuse(&mut sender, "too many connections ask nothing").await;
        };
        let request = timeout(ASKS_WITHIN, self.request(&mut receiver, &mut sender)).await;
        drop(asking);
        let (request, script) = match request {
            Ok(Ok(request)) => request,
            Ok(Err(why)) => return tracing::debug!("a stage does its work itself: {why}"),
            Err(_) => return tracing::debug!("a process has connected and asks nothing"),
        };
        let Some(_place) = self.admission.stage() else {
            return refuse(&mut sender, "it hosts as many stages as it can").await;
        };
        if sender.send(&ToClient::Accepted).await.is_err() {
            return;
        }
        let mut is_ending = self.is_ending.clone();
        let going_away = async move {
            // An error: the service is gone, and this with it.
            let _ = is_ending.wait_for(|ending| *ending).await;
        };
        hosted::host(Arc::clone(&self.host), request, script, (receiver, sender), going_away).await;
    }

    /// Agrees on the protocol, and reads a request with its script.
    async fn request(
        &self,
        receiver: &mut Receiver,
        sender: &mut Sender,
    ) -> io::Result<(Request, Bytes)> {
        match receiver.message().await? {
            Some(ToService::Hello(hello)) => {
                sender.send(&ToClient::Hello(self.hello.clone())).await?;
                if hello != self.hello {
                    return Err(io::Error::other(format!("it is {hello:?}, not {:?}", self.hello)));
                }
            }
            other => return Err(unexpected("Hello", other.is_none())),
        }
        if let Err(e) = self.host.engine().store().refuse_exposed() {
            sender.send(&ToClient::Refused(e.to_string())).await?;
            return Err(io::Error::other(e));
        }
        if telemetry::is_on() {
            sender.send(&ToClient::Refused("[Telemetry] is on".to_owned())).await?;
            return Err(io::Error::other("[Telemetry] is on"));
        }
        let request = match receiver.message().await? {
            Some(ToService::Request(request)) => *request,
            other => return Err(unexpected("Request", other.is_none())),
        };
        let mut script = BytesMut::new();
        if let RequestedStage::Run { length, .. } = request.stage {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MOST_SCRIPT {
                return Err(io::Error::other("its script is too long"));
            }
            while script.len() < length {
                match receiver.message().await? {
                    Some(ToService::Script(piece)) if !piece.is_empty() => {
                        script.extend_from_slice(&piece);
                    }
                    other => return Err(unexpected("Script", other.is_none())),
                }
            }
            if script.len() > length {
                return Err(io::Error::other("its script is longer than it said"));
            }
        }
        Ok((request, script.freeze()))
    }
}

/// Refuses a client, which then does its work itself. A message of this size fits into the socket's
/// buffer, so the service does not wait for the client.
async fn refuse(sender: &mut Sender, why: &str) {
    tracing::debug!("a stage does its work itself: {why}");
    let _ = sender.send(&ToClient::Refused(why.to_owned())).await;
}

fn unexpected(expected: &str, has_ended: bool) -> io::Error {
    let what = if has_ended { "it ended the connection" } else { "it sent something else" };
    io::Error::other(format!("{what} instead of {expected}"))
}

/// Listens at the path. Only this user can connect. A socket that a killed service left is
/// replaced; the caller holds the lock.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Takes the lock: one service per directory.
fn lock(directory: &Path) -> Result<File, ServeError> {
    let path = directory.join(LOCK);
    let fail = |source| ServeError::Lock { path: path.clone(), source };
    let mut file = private_file::open_or_create(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {
            // Only for people.
            let _ = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "process {}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(200).read_to_string(&mut holder);
            let holder = states::foreign_text::clipped(&holder);
            Err(ServeError::Served { directory: directory.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}
