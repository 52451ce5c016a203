//! `fargate serve --drain`: the end of a service for good. Its stages end by themselves, and what
//! only waits for jobs is ended.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    connection::{self, Receiver, Sender},
    is_trusted,
    protocol::{Hello, ToClient, ToService},
    server::{ServeError, lock},
    socket_path,
};
use crate::{config::Config, host::Host, warm};

/// How long the service may take to answer. It may just be started by systemd.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long it is silent at most: it shows every few seconds that it lives.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it says how many stages are left.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long its process may take to end after its last message.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Why the drain failed, or how far it has come is not known.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The directory cannot be used, or another process serves it and cannot be reached.
    #[error(transparent)]
    Directory(#[from] ServeError),
    /// Another user's process listens.
    #[error("the socket {} is another user's: nothing was drained.", .0.display())]
    Foreign(PathBuf),
    /// The service is another version.
    #[error(
        "the service is fargate {version}, with another protocol: it cannot be drained by this one. SIGTERM ends it at once, and its stages go on by themselves."
    )]
    Other {
        /// The service's version.
        version: String,
    },
    /// The service ended, or does not answer.
    #[error("the service was not drained: {0}. If it still runs, try again.")]
    Lost(io::Error),
}

/// Drains the directory's service, and waits until it has ended. Without one, ends what waits for
/// jobs itself. `report` gets lines for people.
///
/// # Errors
/// [`DrainError`].
pub async fn drain(
    config: Config,
    hello: &Hello,
    mut report: impl FnMut(&str),
) -> Result<(), DrainError> {
    let directory = config.metadata.directory.clone();
    let path = socket_path(&directory);
    match UnixStream::connect(&path).await {
        Ok(stream) if stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) => {
            ask(stream, hello, report).await
        }
        Ok(_) => Err(DrainError::Foreign(path)),
        Err(_) => {
            let host = Arc::new(Host::new(config).map_err(ServeError::from)?);
            // No service begins meanwhile.
            let _lock = lock(&directory)?;
            end_idle(&host).await;
            report("no service runs here; nothing waits for jobs any more");
            Ok(())
        }
    }
}

/// Ends what only waits for jobs: warm tasks, and connections of jobs without a stage.
pub(super) async fn end_idle(host: &Arc<Host>) {
    match warm::drain(host).await {
        Ok(drained) if drained == warm::Drained::default() => {}
        Ok(warm::Drained { ended, left }) => tracing::info!(ended, left, "warm tasks were ended"),
        Err(e) => tracing::warn!("the warm tasks were not ended: {e}"),
    }
    if let Some(connections) = host.connections() {
        connections.close_all().await;
    }
}

/// Asks a service to drain, and waits for its end.
async fn ask(
    stream: UnixStream,
    hello: &Hello,
    mut report: impl FnMut(&str),
) -> Result<(), DrainError> {
    let (mut receiver, mut sender) = connection::split(stream);
    sender.send(&ToService::Hello(hello.clone())).await.map_err(DrainError::Lost)?;
    match next(&mut receiver, ANSWERS_WITHIN).await? {
        ToClient::Hello(theirs) if theirs.protocol == hello.protocol => {}
        ToClient::Hello(theirs) => return Err(DrainError::Other { version: theirs.driver }),
        other => return Err(DrainError::Lost(unexpected(&other))),
    }
    sender.send(&ToService::Drain).await.map_err(DrainError::Lost)?;
    loop {
        match next(&mut receiver, SILENCE).await? {
            ToClient::Accepted => report("the service takes no more stages"),
            ToClient::Line(line) => report(&line),
            ToClient::Alive => {}
            ToClient::GoingAway => break,
            other => return Err(DrainError::Lost(unexpected(&other))),
        }
    }
    // The connection ends with the process.
    let _ = timeout(ENDS_WITHIN, receiver.message::<ToClient>()).await;
    report("the service has ended");
    Ok(())
}

async fn next(receiver: &mut Receiver, within: Duration) -> Result<ToClient, DrainError> {
    match timeout(within, receiver.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(DrainError::Lost(io::Error::other("it ended the connection"))),
        Ok(Err(e)) => Err(DrainError::Lost(e)),
        Err(_) => Err(DrainError::Lost(io::Error::other("it does not answer"))),
    }
}

fn unexpected(message: &ToClient) -> io::Error {
    match message {
        ToClient::Refused(why) => io::Error::other(format!("it refuses: {why}")),
        _ => io::Error::other("it says something unexpected"),
    }
}

/// Says how many stages are left, until it is dropped or the client has gone.
pub(super) async fn keep_informed(sender: &mut Sender, left: impl Fn() -> usize) {
    let mut said = None;
    loop {
        let left = left();
        let message = if said.replace(left) == Some(left) {
            ToClient::Alive
        } else {
            ToClient::Line(format!(
                "{left} {} left",
                if left == 1 { "stage is" } else { "stages are" }
            ))
        };
        if sender.send(&message).await.is_err() {
            return std::future::pending().await;
        }
        sleep(SAY_EVERY).await;
    }
}
