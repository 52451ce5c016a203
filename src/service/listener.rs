//! The socket at which the service listens: its own, or systemd's.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use tokio::net::{UnixListener, UnixStream};

use super::{is_trusted, socket_path};

/// The variable that names the process for which sockets are passed (sd_listen_fds(3)).
const LISTEN_PID: &str = "LISTEN_PID";

/// Why the service does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket cannot be made.
    #[error(
        "the socket {} cannot be made: {source}. A socket's path may have 107 bytes: a shorter Directory may help.",
        path.display()
    )]
    Made {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What systemd has passed is no socket for stages.
    #[error(
        "the socket that systemd passed cannot be used: {why}. fargate.socket is to have ListenStream={}, SocketMode=0600, and as SocketUser the User of fargate.service.",
        path.display()
    )]
    Passed {
        /// The path that it should have.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A listener that systemd has passed to this process, if it has. It outlives the service, so that
/// nothing is refused while the service restarts.
#[derive(Debug, Default)]
pub struct Passed(Option<io::Result<StdListener>>);

impl Passed {
    /// Takes what systemd has passed. To be called before the process has threads: the variables
    /// are removed from its environment, so that no child takes them for its own.
    #[must_use]
    pub fn take() -> Self {
        if std::env::var_os(LISTEN_PID).is_none() {
            return Self(None);
        }
        let mut passed = ListenFd::from_env();
        match passed.len() {
            0 => Self(None),
            1 => Self(passed.take_unix_listener(0).transpose()),
            more => Self(Some(Err(io::Error::other(format!("there are {more}, expected one"))))),
        }
    }
}

/// A listener in the metadata directory.
pub(super) struct Listener {
    socket: UnixListener,
    /// The path to remove at the end; `None` if the socket is systemd's.
    own: Option<PathBuf>,
}

impl Listener {
    /// Listens in this directory. Only this user can connect. The caller holds the directory's lock.
    pub(super) fn new(passed: Passed, directory: &Path) -> Result<Self, ListenError> {
        let path = socket_path(directory);
        let Some(passed) = passed.0 else {
            return match listen(&path) {
                Ok(socket) => Ok(Self { socket, own: Some(path) }),
                Err(source) => Err(ListenError::Made { path, source }),
            };
        };
        let checked = passed.and_then(|socket| {
            check(&socket, &path)?;
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket)
        });
        match checked {
            Ok(socket) => Ok(Self { socket, own: None }),
            Err(e) => Err(ListenError::Passed { path, why: e.to_string() }),
        }
    }

    /// Returns the next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }

    /// Stops to listen. A client that comes now does its work itself without asking, unless the
    /// socket is systemd's: then it waits a moment for the next service.
    pub(super) fn close(self) {
        drop(self.socket);
        if let Some(path) = self.own {
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens at the path. A socket that a killed service left is replaced.
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

/// Checks that the socket is at the path, and that only this user can connect.
fn check(socket: &StdListener, path: &Path) -> io::Result<()> {
    let address = socket.local_addr()?;
    let real = |path: &Path| fs::canonicalize(path).ok();
    if address.as_pathname().and_then(real).is_none_or(|at| Some(at) != real(path)) {
        return Err(io::Error::other(format!("it is at {address:?}")));
    }
    let about = fs::symlink_metadata(path)?;
    if !is_trusted(about.uid()) {
        return Err(io::Error::other(format!("its file is user {}'s", about.uid())));
    }
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!("its file has mode {mode:04o}")));
    }
    Ok(())
}
