//! A stage's process, as a client of the service. Whatever goes wrong here, the stage goes on by
//! itself.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use states::{DirectoryStore, JobId, OutputMark, RunId};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connection::{self, Receiver, Sender},
    is_trusted,
    protocol::{Done, Hello, MOST_SCRIPT, PIECE, Request, ToClient, ToService},
    socket_path,
};
use crate::stages::{Attempt, ProcessIo, StageIo};

/// How long the service may take to answer a greeting, and to accept a request.
const GREETS_WITHIN: Duration = Duration::from_secs(1);
const ACCEPTS_WITHIN: Duration = Duration::from_secs(5);
/// How long a service that lives is silent, at most: it shows every ten seconds that it does.
const SILENCE: Duration = Duration::from_secs(60);
/// The same after a cancel, which it answers at once.
const SILENCE_AFTER_CANCEL: Duration = Duration::from_secs(5);

/// What came of a request.
#[derive(Debug)]
pub enum Served {
    /// The service has done the stage.
    Done(Done),
    /// The stage's process does the work itself, or the rest of it.
    Undone(Undone),
}

/// What the service has begun of a stage that is to be gone on with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// What it has begun, and how much of the output was written; `None`: nothing.
    pub begun: Option<Attempt>,
    /// Whether the stage was cancelled meanwhile.
    pub cancelled: bool,
}

/// Why the service does not do the stage.
type Why = io::Error;

/// Lets the directory's service do a stage of `job`, if there is one that is like this process.
pub async fn serve_stage(
    directory: &Path,
    job: &JobId,
    hello: &Hello,
    request: Request,
    script: Bytes,
    io: &mut ProcessIo,
) -> Served {
    if script.len() > MOST_SCRIPT {
        return Served::Undone(Undone::default());
    }
    let (receiver, sender) = match begin(directory, hello, request, script).await {
        Ok(connection) => connection,
        Err(why) => {
            tracing::debug!("this process does the stage itself: {why}");
            return Served::Undone(Undone::default());
        }
    };
    let marks = DirectoryStore::look(directory);
    let mut stage =
        Stage { sender, io, marks, job, written: 0, undone: Undone::default(), mark: None };
    match stage.follow(receiver).await {
        Ok(done) => Served::Done(done),
        Err(why) => {
            let undone = stage.undone;
            tracing::warn!(
                begun = undone.begun.as_ref().map(|begun| begun.key.as_str()),
                "the service does not finish the stage ({why}): this process goes on"
            );
            Served::Undone(undone)
        }
    }
}

/// Connects, and hands the stage over.
async fn begin(
    directory: &Path,
    hello: &Hello,
    request: Request,
    script: Bytes,
) -> Result<(Receiver, Sender), Why> {
    let stream = within(GREETS_WITHIN, UnixStream::connect(socket_path(directory))).await?;
    if !is_trusted(stream.peer_cred()?.uid()) {
        return Err(io::Error::other("the socket is another user's"));
    }
    let (mut receiver, mut sender) = connection::split(stream);
    let greeted = async {
        sender.send(&ToService::Hello(hello.clone())).await?;
        receiver.message().await
    };
    match within(GREETS_WITHIN, greeted).await? {
        Some(ToClient::Hello(theirs)) if theirs == *hello => {}
        Some(ToClient::Hello(theirs)) => {
            let why = hello.difference(&theirs);
            tracing::warn!("{why}. This process does the stage itself.");
            return Err(io::Error::other(why));
        }
        other => return Err(unexpected(other)),
    }
    let accepted = async {
        sender.send(&ToService::Request(Box::new(request))).await?;
        let mut left = script;
        while !left.is_empty() {
            let piece = left.split_to(left.len().min(PIECE));
            sender.send(&ToService::Script(piece)).await?;
        }
        receiver.message().await
    };
    match within(ACCEPTS_WITHIN, accepted).await? {
        Some(ToClient::Accepted) => Ok((receiver, sender)),
        other => Err(unexpected(other)),
    }
}

/// A stage that the service does.
struct Stage<'a> {
    sender: Sender,
    io: &'a mut ProcessIo,
    marks: DirectoryStore,
    job: &'a JobId,
    /// Bytes of output that were written.
    written: u64,
    undone: Undone,
    /// The mark of the run whose output comes.
    mark: Option<(RunId, OutputMark)>,
}

impl Stage<'_> {
    /// Follows the stage to its end. Everything that the service has sent before it died is heard.
    async fn follow(&mut self, mut receiver: Receiver) -> Result<Done, Why> {
        let mut patience = Instant::now() + SILENCE;
        loop {
            let message = tokio::select! {
                biased;
                () = self.io.cancelled(), if !self.undone.cancelled => {
                    self.undone.cancelled = true;
                    patience = Instant::now() + SILENCE_AFTER_CANCEL;
                    self.send(&ToService::Cancel).await;
                    continue;
                }
                message = receiver.message() => message?,
                () = sleep_until(patience) => {
                    return Err(io::Error::other("it is silent"));
                }
            };
            match message {
                Some(ToClient::Begins(attempt)) => {
                    self.mark = RunId::new(attempt.key.as_str())
                        .ok()
                        .map(|run| (run, self.marks.output_mark(self.job)));
                    self.undone.begun = Some(attempt);
                    self.send(&ToService::Heard).await;
                }
                Some(ToClient::Output(bytes)) => self.output(bytes).await?,
                Some(ToClient::Line(line)) => self.io.line(&line),
                Some(ToClient::Alive) => {}
                Some(ToClient::Done(done)) => return Ok(done),
                other => return Err(unexpected(other)),
            }
            // Not before: gitlab-runner may have taken its time to read the output.
            patience = Instant::now() + SILENCE;
        }
    }

    /// Writes output, marks how far, and acknowledges it.
    async fn output(&mut self, mut left: Bytes) -> Result<(), Why> {
        while !left.is_empty() {
            let taken = self.io.write(left.clone()).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.slice(taken..);
            self.written += taken as u64;
            let Some(begun) = &mut self.undone.begun else { continue };
            begun.offset += taken as u64;
            // If this process is killed now, the next one must not repeat what was written.
            if let Some((run, mark)) = &mut self.mark
                && let Err(e) = mark.write(run, begun.offset)
            {
                tracing::debug!("{e}");
            }
        }
        self.send(&ToService::Acknowledged(self.written)).await;
        Ok(())
    }

    /// Sends a message. A service that has died has perhaps said more before, so an error is left to
    /// the one who receives.
    async fn send(&mut self, message: &ToService) {
        let _ = timeout(SILENCE_AFTER_CANCEL, self.sender.send(message)).await;
    }
}

async fn within<T>(time: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(time, future).await.unwrap_or_else(|_| Err(io::Error::other("it does not answer")))
}

fn unexpected(message: Option<ToClient>) -> Why {
    io::Error::other(match message {
        Some(ToClient::GoingAway) => "it ends".to_owned(),
        Some(ToClient::Refused(why)) => format!("it refuses: {why}"),
        Some(_) => "it says something unexpected".to_owned(),
        None => "the connection has ended".to_owned(),
    })
}
