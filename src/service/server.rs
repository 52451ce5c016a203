//! `fargate serve`: listens at the metadata directory's socket, and hosts the stages that come.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use states::{StoreError, foreign_text, private_file};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    admission::{Admission, Capacity, Place},
    connection::{self, Receiver, Sender},
    drain, hosted, is_trusted,
    listener::{ListenError, Listener, Passed},
    protocol::{MOST_SCRIPT, Request, RequestedStage, ToClient, ToService},
    reload::{Configured, Current, Shared},
    socket_path,
    supervisor::Supervisor,
    upkeep,
};
use crate::{config::Config, host::Host, telemetry, warm::Beginning};

/// The lock's name in the metadata directory. Jobs' locks have other extensions.
const LOCK: &str = "fargate.serving";
/// How long a client may take for its request.
const ASKS_WITHIN: Duration = Duration::from_secs(10);
/// How long the service waits at its end for stages to be let go, and then for connections to be
/// closed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// What systemd shows of a service that takes stages.
const HOSTING: &str = "hosting stages";

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
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] ListenError),
    /// Signals cannot be listened for.
    #[error("the service cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT, when the stages' processes go on by themselves, or until it is
/// drained. At SIGHUP, `reread` reads the configuration again; its error is a sentence. `taken` gets
/// each configuration that takes the place of another.
///
/// # Errors
/// When the service cannot begin.
pub async fn serve(
    configured: Configured,
    passed: Passed,
    reread: impl Fn() -> Result<Configured, String>,
    taken: impl Fn(&Config),
) -> Result<(), ServeError> {
    let signals = |kind| signal(kind).map_err(ServeError::Signals);
    let (mut term, mut interrupt, mut hangup) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
        signals(SignalKind::hangup())?,
    );
    let Configured { config, hello } = configured;
    let directory = config.metadata.directory.clone();
    let capacity = Capacity::of_process();
    let host = Host::new(config)?.keeping_connections(capacity.kept);
    let _lock = lock(&directory)?;
    let listener = Listener::new(passed, &directory)?;
    let mut supervisor = Supervisor::of_environment(directory.clone());
    let path = socket_path(&directory);
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
    supervisor.ready(HOSTING);
    tokio::spawn(telemetry::export_in_batches());
    let service = Service::new(Shared::new(host, hello), Admission::new(capacity));
    let mut upkeep = tokio::spawn(upkeep::keep_up(service.shared.host(), Beginning::Restart));
    let mut attended = JoinSet::new();
    // Connections of those who wait for the service's end.
    let mut waiting = Vec::new();
    let mut phases = service.phase.subscribe();
    let mut drained = Box::pin(service.clone().drained());
    loop {
        tokio::select! {
            biased;
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            () = &mut drained => break,
            _ = hangup.recv() => {
                supervisor.reloading();
                let reloaded = service.reload(&reread);
                supervisor.ready(&match &reloaded {
                    Ok(()) => service.activity().to_owned(),
                    Err(why) => format!("the reload failed, the earlier configuration is used: {why}"),
                });
                match reloaded {
                    Ok(()) => {
                        tracing::info!("the configuration was read again: new stages get it");
                        taken(&service.shared.host().config);
                        // Whatever it was doing is safe to repeat.
                        upkeep.abort();
                        let host = service.shared.host();
                        upkeep = tokio::spawn(upkeep::keep_up(host, Beginning::Reload));
                    }
                    Err(why) => tracing::error!(
                        "the configuration was read again and is not used: {why}. Stages with the new file do their work themselves."
                    ),
                }
            }
            Ok(()) = phases.changed() => supervisor.does(service.activity()),
            () = supervisor.give_sign() => {}
            Some(ended) = attended.join_next() => waiting.extend(ended.ok().flatten()),
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
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
    supervisor.stopping();
    tracing::info!(stages = *service.hosted.borrow(), "ending: the stages go on by themselves");
    listener.close();
    upkeep.abort();
    telemetry::end_service();
    service.phase.send_replace(Phase::Ending);
    let _ = timeout(ENDS_WITHIN, async {
        while let Some(ended) = attended.join_next().await {
            waiting.extend(ended.ok().flatten());
        }
    })
    .await;
    attended.shutdown().await;
    if let Some(connections) = service.shared.host().connections() {
        let _ = timeout(ENDS_WITHIN, connections.close_all()).await;
    }
    // Last: spans end with their stages.
    telemetry::flush().await;
    for Waiting(_, sender) in &mut waiting {
        let _ = timeout(ENDS_WITHIN, sender.send(&ToClient::GoingAway)).await;
    }
    // They end with the process, and not before.
    std::mem::forget(waiting);
    Ok(())
}

/// What the service does with stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It takes them.
    Hosting,
    /// It takes no more, and waits for the end of those that it has.
    Draining,
    /// It lets go of them.
    Ending,
}

/// The connection of a process that waits for the service's end.
struct Waiting(#[allow(dead_code, reason = "it keeps the connection open")] Receiver, Sender);

#[derive(Clone)]
struct Service {
    shared: Shared,
    admission: Admission,
    /// How many stages are hosted.
    hosted: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
}

/// One of the stages that are hosted.
struct Turn {
    _place: Place,
    hosted: watch::Sender<usize>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.hosted.send_modify(|hosted| *hosted -= 1);
    }
}

impl Service {
    fn new(shared: Shared, admission: Admission) -> Self {
        Self {
            shared,
            admission,
            hosted: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Hosting),
        }
    }

    /// Counts a stage until the turn is dropped; `None` if there are as many as there can be.
    fn turn(&self) -> Option<Turn> {
        let place = self.admission.stage()?;
        self.hosted.send_modify(|hosted| *hosted += 1);
        Some(Turn { _place: place, hosted: self.hosted.clone() })
    }

    /// Reads the configuration again, and takes it.
    fn reload(&self, reread: impl Fn() -> Result<Configured, String>) -> Result<(), String> {
        // What is drained must not be begun anew.
        if *self.phase.borrow() != Phase::Hosting {
            return Err("the service takes no more stages".to_owned());
        }
        self.shared.replace(reread()?)
    }

    /// Says what the service does.
    fn activity(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Hosting => HOSTING,
            Phase::Draining => "draining: no more stages are taken",
            Phase::Ending => "ending",
        }
    }

    /// Completes when the service was drained: a process has asked for it, and all stages have ended.
    async fn drained(self) {
        // No errors here: this service has the senders.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Draining).await;
        tracing::info!(stages = *self.hosted.borrow(), "draining: no more stages are taken");
        drain::end_idle(&self.shared.host()).await;
        let _ = self.hosted.subscribe().wait_for(|hosted| *hosted == 0).await;
    }

    /// Attends to one connection. Returns that of a process that waits for the service's end.
    async fn attend(self, stream: UnixStream) -> Option<Waiting> {
        // The directory keeps others away. This is the second line of defence.
        if !stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) {
            tracing::warn!("a process of another user has connected: it gets no answer");
            return None;
        }
        let (mut receiver, mut sender) = connection::split(stream);
        let Some(asking) = self.admission.asking() else {
            refuse(&mut sender, "too many connections ask nothing").await;
            return None;
        };
        let asked = timeout(ASKS_WITHIN, self.asked(&mut receiver, &mut sender)).await;
        drop(asking);
        match asked {
            Ok(Ok(Asked::Stage { current, request, script })) => {
                self.host(current, *request, script, (receiver, sender)).await;
                None
            }
            Ok(Ok(Asked::Drain)) => self.drain(receiver, sender).await,
            Ok(Err(why)) => {
                tracing::debug!("a stage does its work itself: {why}");
                None
            }
            Err(_) => {
                tracing::debug!("a process has connected and asks nothing");
                None
            }
        }
    }

    /// Hosts a stage to its end.
    async fn host(
        self,
        current: Current,
        request: Request,
        script: Bytes,
        (receiver, mut sender): (Receiver, Sender),
    ) {
        let turn = self.turn();
        // With the turn: a drain that is not seen here waits for it.
        let refusal = match (&turn, *self.phase.borrow()) {
            (Some(_), Phase::Hosting) => None,
            (None, Phase::Hosting) => Some("it hosts as many stages as it can"),
            (_, Phase::Draining | Phase::Ending) => Some("it ends"),
        };
        if let Some(why) = refusal {
            return refuse(&mut sender, why).await;
        }
        if sender.send(&ToClient::Accepted).await.is_err() {
            return;
        }
        hosted::host(current.host, request, script, (receiver, sender), self.is_ending()).await;
    }

    /// Drains, and keeps a process informed that waits for that.
    async fn drain(self, receiver: Receiver, mut sender: Sender) -> Option<Waiting> {
        self.phase.send_if_modified(|phase| {
            let is_hosting = *phase == Phase::Hosting;
            if is_hosting {
                *phase = Phase::Draining;
            }
            is_hosting
        });
        sender.send(&ToClient::Accepted).await.ok()?;
        tokio::select! {
            () = self.is_ending() => {}
            () = drain::keep_informed(&mut sender, || *self.hosted.borrow()) => {}
        }
        Some(Waiting(receiver, sender))
    }

    /// Completes when the service ends.
    fn is_ending(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phases = self.phase.subscribe();
        async move {
            // An error: the service is gone, and this with it.
            let _ = phases.wait_for(|phase| *phase == Phase::Ending).await;
        }
    }

    /// Agrees on the protocol, and reads what is asked.
    async fn asked(&self, receiver: &mut Receiver, sender: &mut Sender) -> io::Result<Asked> {
        let current = self.shared.current();
        let hello = match receiver.message().await? {
            Some(ToService::Hello(hello)) => hello,
            other => return Err(unexpected("Hello", other.is_none())),
        };
        sender.send(&ToClient::Hello(current.hello.clone())).await?;
        let is_like_this = hello == current.hello;
        if is_like_this && let Err(e) = current.host.engine.store().refuse_exposed() {
            sender.send(&ToClient::Refused(e.to_string())).await?;
            return Err(io::Error::other(e));
        }
        match receiver.message().await? {
            Some(ToService::Drain) if hello.protocol == current.hello.protocol => Ok(Asked::Drain),
            Some(ToService::Request(request)) if is_like_this => {
                let script = script(&request, receiver).await?;
                Ok(Asked::Stage { current, request, script })
            }
            None if !is_like_this => {
                Err(io::Error::other(format!("it is {hello:?}, not {:?}", current.hello)))
            }
            other => Err(unexpected("Request", other.is_none())),
        }
    }
}

/// What a client asks for.
enum Asked {
    Stage {
        current: Current,
        request: Box<Request>,
        script: Bytes,
    },
    /// The service's end.
    Drain,
}

/// Refuses a client, which then does its work itself. A message of this size fits into the socket's
/// buffer, so the service does not wait for the client.
async fn refuse(sender: &mut Sender, why: &str) {
    tracing::debug!("a stage does its work itself: {why}");
    let _ = sender.send(&ToClient::Refused(why.to_owned())).await;
}

/// Reads a request's script.
async fn script(request: &Request, receiver: &mut Receiver) -> io::Result<Bytes> {
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
    Ok(script.freeze())
}

fn unexpected(expected: &str, has_ended: bool) -> io::Error {
    let what = if has_ended { "it ended the connection" } else { "it sent something else" };
    io::Error::other(format!("{what} instead of {expected}"))
}

/// Takes the lock: one service per directory.
pub(super) fn lock(directory: &Path) -> Result<File, ServeError> {
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
            let holder = foreign_text::clipped(&holder);
            Err(ServeError::Served { directory: directory.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}
