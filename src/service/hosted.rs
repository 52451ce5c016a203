//! A stage in the service: its work, with a client instead of gitlab-runner.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use states::foreign_text;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tracing::Instrument as _;

use super::{
    connection::{Receiver, Sender},
    protocol::{Done, PIECE, Request, RequestedStage, ToClient, ToService},
};
use crate::{
    host::Host,
    runner::{Identity, StageEnvironment, Verdict},
    stages::{Attempt, JobLog, Pending, Session, StageIo, StageLog, StageWork},
};

/// Messages to a client that does not read them. Lines beyond that are dropped.
const WAITING: usize = 256;
/// How often the service shows that it lives. The client waits some times as long.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Does a stage for a client. Returns when it is over, when the client has gone, or when
/// `going_away` completes. In the latter cases the job is let go as it is: its snapshot has all that
/// the next process needs.
pub(super) async fn host(
    host: Arc<Host>,
    request: Request,
    script: Bytes,
    (mut receiver, sender): (Receiver, Sender),
    going_away: impl Future<Output = ()>,
) {
    let (outgoing, messages) = mpsc::channel(WAITING);
    let (acknowledged, acknowledgments) = watch::channel(0);
    let (heard, hears) = watch::channel(false);
    let cancel = Arc::new(Notify::new());
    let sending = tokio::spawn(send_all(sender, messages));
    let io = ClientIo {
        outgoing: outgoing.clone(),
        sent: 0,
        acknowledged: acknowledgments,
        heard: hears,
        cancel: Arc::clone(&cancel),
    };
    let answers = outgoing.clone();
    let listening = async {
        loop {
            match receiver.message().await {
                Ok(Some(ToService::Acknowledged(count))) => {
                    acknowledged.send_replace(count);
                }
                Ok(Some(ToService::Heard)) => {
                    heard.send_replace(true);
                }
                Ok(Some(ToService::Cancel)) => {
                    cancel.notify_one();
                    // The client waits only a moment for a sign that it was understood.
                    let _ = answers.try_send(ToClient::Alive);
                }
                // It ends the connection, or does not speak this protocol.
                _ => return,
            }
        }
    };
    // Those that lose are dropped here, before anything is said to the client: it may then take the
    // job's lease at once.
    let (last, session) = tokio::select! {
        biased;
        (done, session) = work(host, request, script, io) => (Some(ToClient::Done(done)), session),
        () = listening => (None, None),
        () = going_away => (Some(ToClient::GoingAway), None),
    };
    match last {
        Some(last) => {
            // A client that has stopped reading goes on by itself.
            let _ = timeout(ALIVE_EVERY, outgoing.send(last)).await;
        }
        None => tracing::info!("the stage's process has gone: its job is let go"),
    }
    drop((outgoing, answers));
    // The client may have stopped reading.
    let _ = timeout(ALIVE_EVERY, sending).await;
    if let Some(session) = session {
        session.settle().await;
    }
}

/// Sends messages until there is no sender, and between them shows that the service lives.
async fn send_all(mut sender: Sender, mut messages: mpsc::Receiver<ToClient>) {
    loop {
        let message = match timeout(ALIVE_EVERY, messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(_) => ToClient::Alive,
        };
        // An error: the client has gone, which its silence shows, too.
        if sender.send(&message).await.is_err() {
            return;
        }
    }
}

/// Does the stage's work. The session is to be settled, if there is one.
async fn work(
    host: Arc<Host>,
    request: Request,
    script: Bytes,
    io: ClientIo,
) -> (Done, Option<Session>) {
    let trust = request.trust();
    let environment = StageEnvironment::from(request.environment);
    let identity = match Identity::of(&environment, trust) {
        Ok(identity) => identity,
        Err(e) => {
            let verdict = Verdict::SystemFailure(format!("fargate: {e}"));
            return (Done { verdict, cancelled: false }, None);
        }
    };
    let work = match request.stage {
        RequestedStage::Prepare => StageWork::Prepare,
        RequestedStage::Run { name, .. } => {
            StageWork::Run { name: foreign_text::clipped(&name), script }
        }
        RequestedStage::Cleanup { wait } => StageWork::Cleanup { wait },
    };
    let logged = StageLog::new(&work.to_string(), &identity.about.job_id);
    let session = Session::new(host, request.flags, identity, Arc::new(environment), None);
    let mut log = JobLog::new(session.state_log().clone(), Box::new(io));
    async {
        let verdict = work.perform(&session, &mut log, &logged, true).await;
        (Done { verdict, cancelled: log.was_cancelled() }, Some(session))
    }
    .instrument(logged.span())
    .await
}

/// A stage's channel to gitlab-runner, through the client.
struct ClientIo {
    outgoing: mpsc::Sender<ToClient>,
    sent: u64,
    acknowledged: watch::Receiver<u64>,
    heard: watch::Receiver<bool>,
    cancel: Arc<Notify>,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the stage's process has gone")
}

impl StageIo for ClientIo {
    fn write(&mut self, bytes: Bytes) -> Pending<'_, io::Result<usize>> {
        Box::pin(async move {
            let piece = bytes.slice(..bytes.len().min(PIECE));
            let length = piece.len();
            self.sent += length as u64;
            self.outgoing.send(ToClient::Output(piece)).await.map_err(|_| gone())?;
            let sent = self.sent;
            self.acknowledged.wait_for(|count| *count >= sent).await.map_err(|_| gone())?;
            Ok(length)
        })
    }

    fn line(&mut self, line: &str) {
        if self.outgoing.try_send(ToClient::Line(line.to_owned())).is_err() {
            tracing::debug!("the stage's process takes no more lines");
        }
    }

    fn cancelled(&mut self) -> Pending<'_, ()> {
        Box::pin(self.cancel.notified())
    }

    fn begins(&mut self, attempt: Attempt) -> Pending<'_, ()> {
        Box::pin(async move {
            let is_sent = self.outgoing.send(ToClient::Begins(attempt)).await.is_ok();
            if !is_sent || self.heard.wait_for(|heard| *heard).await.is_err() {
                // Nothing may begin. This future is dropped as soon as the client is known to be
                // gone.
                std::future::pending::<()>().await;
            }
        })
    }
}
