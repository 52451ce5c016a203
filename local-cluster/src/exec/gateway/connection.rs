//! One connection of a client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{OpenDataChannel, TOKEN_PATIENCE, noise::Noise};
use crate::{
    cluster::Cluster,
    exec::{
        agent::TO_CLIENT,
        message::{Message, kind},
        session::{Attachment, Session, ToClient},
    },
    faults::CutKind,
};

/// Most messages of a client that the agent has not read yet. Then the client's connection is not
/// read.
const FROM_CLIENT: usize = 256;
/// Most messages that are delayed by a slow line.
const ON_THE_WAY: usize = 16 * 1024;
/// The interval between checks whether a connection is cut for its age.
const LOOK: Duration = Duration::from_millis(5);
/// How long a client may take to close its side.
const CLOSING: Duration = Duration::from_secs(2);
/// How long a silenced connection is kept open.
const SILENCE: Duration = Duration::from_secs(600);

type Socket = WebSocketStream<TcpStream>;

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// The client closed it, or broke the WebSocket protocol.
    Client,
    /// Its session has another connection, or is gone with its agent.
    Replaced,
    /// Its session is over, and the client has been notified.
    Over,
    /// A fault.
    Cut(CutKind),
}

pub(super) async fn serve(cluster: Arc<Cluster>, session: Arc<Session>, mut socket: Socket) {
    if let Err(why) = open(&session, &mut socket).await {
        tracing::debug!(session = session.id, "a data channel is closed: {why}");
        close(socket, CloseCode::Policy, "the token is not valid").await;
        return;
    }
    let latency = Duration::from_millis(cluster.faults().exec.latency_ms);
    let (to_client, frames) = mpsc::channel(TO_CLIENT);
    let (from_client, input) = mpsc::channel(FROM_CLIENT);
    let (frames, input) = (late(frames, latency), late(input, latency));
    if !session.attach(Attachment { frames: to_client.clone(), input }).await {
        let _ = to_client.try_send(session.closing(&session.ended().unwrap_or_default()));
    }
    drop(to_client);
    let (mut sink, mut stream) = socket.split();
    let line = Line {
        cluster,
        began: Instant::now(),
        sent: AtomicU64::new(0),
        paused: AtomicBool::new(false),
    };
    let end = tokio::select! {
        end = line.inbound(&mut stream, from_client) => end,
        end = line.outbound(&mut sink, frames) => end,
        end = line.aging() => end,
        () = line.cluster.cut.notified() => End::Cut(CutKind::Reset),
    };
    tracing::debug!(session = session.id, ?end, "a connection ended");
    #[expect(clippy::expect_used, reason = "both are halves of the same")]
    let socket = sink.reunite(stream).expect("two halves");
    match end {
        End::Client => {}
        End::Replaced | End::Over | End::Cut(CutKind::Bye) => {
            close(socket, CloseCode::Normal, "Bye").await
        }
        End::Cut(CutKind::Reset) => {
            // Dropping it resets it.
            let _ = socket.into_inner().set_zero_linger();
        }
        End::Cut(CutKind::Silence) => {
            let _ = timeout(SILENCE, silence(socket.into_inner())).await;
        }
    }
}

/// Delays each message by this time.
fn late<T: Send + 'static>(mut from: mpsc::Receiver<T>, by: Duration) -> mpsc::Receiver<T> {
    if by.is_zero() {
        return from;
    }
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, T)>(ON_THE_WAY);
    let (to, arrived) = mpsc::channel(FROM_CLIENT);
    tokio::spawn(async move {
        while let Some(message) = from.recv().await {
            if sender.send((Instant::now() + by, message)).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((at, message)) = on_the_way.recv().await {
            sleep_until(at.into()).await;
            if to.send(message).await.is_err() {
                return;
            }
        }
    });
    arrived
}

/// Reads the first message: text, with a token.
async fn open(session: &Session, socket: &mut Socket) -> Result<(), String> {
    loop {
        match timeout(TOKEN_PATIENCE, socket.next()).await {
            Err(_) => return Err("no token came".to_owned()),
            Ok(None) => return Err("it was closed before a token came".to_owned()),
            Ok(Some(Err(e))) => return Err(e.to_string()),
            Ok(Some(Ok(Frame::Ping(_) | Frame::Pong(_)))) => {}
            Ok(Some(Ok(Frame::Text(text)))) => {
                let open: OpenDataChannel = serde_json::from_str(&text)
                    .map_err(|e| format!("its first message is not as it should be: {e}"))?;
                if !session.admits(&open.token_value) {
                    return Err("the token is unknown or too old".to_owned());
                }
                if open.message_schema_version != "1.0" {
                    return Err(format!(
                        "the message schema is not 1.0 but {:.16}",
                        open.message_schema_version
                    ));
                }
                tracing::debug!(
                    session = session.id,
                    client = format_args!("{:.64}", open.client_id),
                    version = format_args!("{:.32}", open.client_version.unwrap_or_default()),
                    request = format_args!("{:.64}", open.request_id),
                    "a data channel is open"
                );
                return Ok(());
            }
            Ok(Some(Ok(_))) => return Err("its first message is not text".to_owned()),
        }
    }
}

/// A connection with its faults.
struct Line {
    cluster: Arc<Cluster>,
    began: Instant,
    /// Bytes to the client.
    sent: AtomicU64,
    /// Whether the service passes nothing on.
    paused: AtomicBool,
}

impl Line {
    /// Passes the client's messages on.
    async fn inbound(
        &self,
        stream: &mut SplitStream<Socket>,
        to_agent: mpsc::Sender<Message>,
    ) -> End {
        let mut noise = Noise::default();
        loop {
            let frame = match stream.next().await {
                // AWS's peers treat text as binary.
                Some(Ok(Frame::Binary(frame))) => frame,
                Some(Ok(Frame::Text(text))) => text.into(),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => continue,
                Some(Ok(Frame::Close(_) | Frame::Frame(_)) | Err(_)) | None => return End::Client,
            };
            if self.paused.load(Ordering::Relaxed) {
                continue;
            }
            let frames = noise.pass(frame, &self.cluster.faults().exec);
            for frame in frames {
                match Message::decode(&frame) {
                    Ok(message) => {
                        if to_agent.send(message).await.is_err() {
                            // The outbound side sees it, too, and closes the connection.
                            std::future::pending::<()>().await;
                        }
                    }
                    Err(e) => tracing::debug!("a message is dropped: {e}"),
                }
            }
        }
    }

    /// Passes the agent's messages on.
    async fn outbound(
        &self,
        sink: &mut SplitSink<Socket, Frame>,
        mut frames: mpsc::Receiver<ToClient>,
    ) -> End {
        let mut noise = Noise::default();
        let mut batch = Vec::new();
        loop {
            if frames.recv_many(&mut batch, 64).await == 0 {
                return End::Replaced;
            }
            for frame in batch.drain(..) {
                let frame = match frame {
                    ToClient::Frame(frame) => frame,
                    ToClient::Closed(frame) => {
                        return if sink.send(Frame::Binary(frame)).await.is_ok() {
                            End::Over
                        } else {
                            End::Client
                        };
                    }
                };
                if let Some(end) = self.faults(sink).await {
                    return end;
                }
                let frames = noise.pass(frame, &self.cluster.faults().exec);
                for frame in frames {
                    self.sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    if sink.feed(Frame::Binary(frame)).await.is_err() {
                        return End::Client;
                    }
                }
            }
            if sink.flush().await.is_err() {
                return End::Client;
            }
        }
    }

    /// Returns the fault that comes before the next message.
    async fn faults(&self, sink: &mut SplitSink<Socket, Frame>) -> Option<End> {
        let sent = self.sent.load(Ordering::Relaxed);
        let (cut, pause) = {
            let exec = &mut self.cluster.faults().exec;
            (exec.cuts(sent, self.began.elapsed()), exec.pauses(sent))
        };
        if let Some(cut) = cut {
            // Earlier messages have to arrive.
            let _ = sink.flush().await;
            return Some(End::Cut(cut));
        }
        let pause = pause?;
        if sink.send(Frame::Binary(Message::publication(kind::PAUSE).encode())).await.is_err() {
            return Some(End::Client);
        }
        self.paused.store(true, Ordering::Relaxed);
        sleep(Duration::from_millis(pause.for_ms)).await;
        self.paused.store(false, Ordering::Relaxed);
        if pause.announced
            && sink.send(Frame::Binary(Message::publication(kind::START).encode())).await.is_err()
        {
            return Some(End::Client);
        }
        None
    }

    /// Completes when the connection is cut for its age.
    async fn aging(&self) -> End {
        loop {
            sleep(LOOK).await;
            let cut = self
                .cluster
                .faults()
                .exec
                .cuts(self.sent.load(Ordering::Relaxed), self.began.elapsed());
            if let Some(cut) = cut {
                return End::Cut(cut);
            }
        }
    }
}

/// Closes the connection from the service's side.
async fn close(mut socket: Socket, code: CloseCode, reason: &'static str) {
    let closing = async {
        socket.close(Some(CloseFrame { code, reason: reason.into() })).await?;
        while let Some(frame) = socket.next().await {
            frame?;
        }
        Ok::<(), tokio_tungstenite::tungstenite::Error>(())
    };
    // The client may be gone already.
    let _ = timeout(CLOSING, closing).await;
}

/// Reads everything and answers nothing.
async fn silence(mut stream: TcpStream) {
    let mut sink = [0; 4096];
    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
}
