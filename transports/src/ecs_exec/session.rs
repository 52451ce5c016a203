//! A session's terminal: the data channel on a WebSocket, moved by one task.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use states::foreign_text;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

use super::{
    ExecApi,
    channel::{Closed, DataChannel, DataKey, Event, KeyWanted, NoKey, Opening, Transmit},
    granted::Granted,
    socket::Socket,
};
use crate::Terminal;

/// Pieces of output that wait for the terminal's reader.
const OUTPUT_PIECES: usize = 4;
/// Most output in a piece.
const PIECE: usize = 64 * 1024;
/// Messages that are handled before the answers to them are sent.
const BATCH: usize = 256;
/// How long the session may take to end when its terminal is closed: the agent waits 2 s for its
/// last acknowledgements. Without a client, an agent stops reading the terminal, so it does not
/// notice its command's end. The session would then hold its slot until ECS's idle time-out of
/// twenty minutes.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// How long KMS may take: the agent waits 15 s for the answer.
const KEY_WITHIN: Duration = Duration::from_secs(12);

/// The terminal of an ECS Exec session. To end the session in an orderly way, use
/// [`Terminal::close`].
pub struct ExecTerminal {
    input: mpsc::Sender<Input>,
    output: Mutex<mpsc::Receiver<Bytes>>,
    closed: Arc<OnceLock<Closed>>,
    first_word: Arc<OnceLock<()>>,
}

enum Input {
    Bytes(Bytes),
    Size(u32, u32),
    /// The session may take this long to end.
    Close(Duration, oneshot::Sender<()>),
}

impl ExecTerminal {
    /// Opens the session's data channel on a new connection. `target` is what Session Manager calls
    /// the container.
    pub(super) fn new<A: ExecApi>(
        socket: Socket,
        granted: Granted<A>,
        target: String,
        api: Arc<A>,
    ) -> Self {
        let (input, inputs) = mpsc::channel(4);
        let (outputs, output) = mpsc::channel(OUTPUT_PIECES);
        let (closed, first_word) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let opening = Opening {
            token: granted.session.token.clone(),
            unix_millis: states::Timestamp::now().as_millis(),
            seed: rand::random(),
        };
        let channel = DataChannel::new(opening, Instant::now());
        let names = Names { session: granted.session.id.clone(), target };
        let heard = Arc::clone(&first_word);
        let pump = Pump {
            socket,
            channel,
            names,
            api,
            granted,
            heard,
            inputs,
            outputs,
            waiting: BytesMut::new(),
            closing: None,
        };
        let end = Arc::clone(&closed);
        tokio::spawn(async move {
            let (why, granted, outputs, _closing) = pump.run().await;
            let may_still_run = !matches!(why, Closed::Ended(_));
            // The reader must find the reason when its channel ends.
            let _ = end.set(why);
            drop(outputs);
            if may_still_run {
                granted.end().await;
            } else {
                // This comes before the caller of `close` may end the process.
                granted.has_ended();
            }
        });
        Self { input, output: Mutex::new(output), closed, first_word }
    }

    /// As [`Terminal::close`]. After `within`, a session that has not ended by itself is
    /// terminated.
    pub(super) async fn leave(&self, within: Duration) {
        let (done, left) = oneshot::channel();
        if self.input.send(Input::Close(within, done)).await.is_ok() {
            // An error: the connection ended first.
            let _ = left.await;
        }
    }

    /// Returns the cell for the reason of the session's end.
    pub(super) fn end(&self) -> Arc<OnceLock<Closed>> {
        Arc::clone(&self.closed)
    }

    /// Set once the session's command has said something.
    pub(super) fn first_word(&self) -> Arc<OnceLock<()>> {
        Arc::clone(&self.first_word)
    }

    fn lost(&self) -> String {
        match self.closed.get() {
            Some(Closed::Ended(said)) if said.is_empty() => "the session ended".to_owned(),
            Some(Closed::Ended(why) | Closed::Lost(why) | Closed::Refused(why)) => why.clone(),
            None => "the session's connection is closed".to_owned(),
        }
    }
}

#[async_trait]
impl Terminal for ExecTerminal {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        self.input.send(Input::Bytes(bytes)).await.map_err(|_| self.lost())
    }

    async fn read(&self) -> Result<Option<Bytes>, String> {
        match self.output.lock().await.recv().await {
            Some(bytes) => Ok(Some(bytes)),
            None => match self.closed.get() {
                Some(Closed::Ended(said)) if said.is_empty() => Ok(None),
                _ => Err(self.lost()),
            },
        }
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        self.input.send(Input::Size(columns, rows)).await.map_err(|_| self.lost())
    }

    async fn close(&self) {
        self.leave(ENDS_WITHIN).await;
    }
}

/// The deadline for written bytes to arrive, and the waiting caller.
type Closing = (Instant, oneshot::Sender<()>);

/// The names that an encrypted session's keys are bound to.
struct Names {
    session: String,
    target: String,
}

/// Moves bytes between the channel, its socket and its terminal.
struct Pump<A: ExecApi> {
    socket: Socket,
    channel: DataChannel,
    names: Names,
    api: Arc<A>,
    granted: Granted<A>,
    heard: Arc<OnceLock<()>>,
    inputs: mpsc::Receiver<Input>,
    outputs: mpsc::Sender<Bytes>,
    /// Output that has not been read yet.
    waiting: BytesMut,
    /// Set while the terminal is being closed.
    closing: Option<Closing>,
}

impl<A: ExecApi> Pump<A> {
    async fn run(mut self) -> (Closed, Granted<A>, mpsc::Sender<Bytes>, Option<Closing>) {
        let why = loop {
            if let Some(why) = self.events().await {
                break why;
            }
            if let Err(e) = self.transmit().await {
                break Closed::Lost(ended(&e));
            }
            let now = Instant::now();
            if let Some((until, _)) = &self.closing
                && now >= *until
            {
                let _ = timeout(Duration::from_millis(500), self.socket.close(None)).await;
                // It is unknown whether the session ends.
                break Closed::Lost("the session did not end when it was closed".to_owned());
            }
            let mut wake = self.channel.deadline();
            if let Some((until, _)) = &self.closing {
                wake = wake.min(*until);
            }
            let reads = self.waiting.len() < PIECE && self.channel.is_ready();
            // A clone, as this branch must not borrow what the others change.
            let outputs = self.outputs.clone();
            tokio::select! {
                permit = outputs.reserve(), if !self.waiting.is_empty() && self.closing.is_none() => match permit {
                    Ok(permit) => permit.send(self.waiting.split().freeze()),
                    Err(_) => break Closed::Lost("the session's terminal has no reader any more".to_owned()),
                },
                message = self.socket.next(), if reads => {
                    if let Err(why) = self.received(message) {
                        break why;
                    }
                }
                input = self.inputs.recv(), if self.channel.wants_input() && self.closing.is_none() => match input {
                    Some(Input::Bytes(bytes)) => self.channel.send(bytes),
                    Some(Input::Size(columns, rows)) => self.channel.resize(columns, rows),
                    Some(Input::Close(within, done)) => {
                        self.closing = Some((now + within, done));
                        self.waiting.clear();
                    }
                    None => break Closed::Lost("the session's terminal was abandoned".to_owned()),
                },
                // Also while input waits.
                () = outputs.closed(), if self.closing.is_none() => break Closed::Lost("the session's terminal was abandoned".to_owned()),
                () = sleep_until(wake.into()) => {
                    let now = Instant::now();
                    if !reads {
                        // The connection is not read now, so silence means nothing.
                        self.channel.on_sign_of_life(now);
                    }
                    self.channel.on_tick(now);
                }
            }
        };
        if self.closing.is_none() && !self.waiting.is_empty() {
            // The reader gets all that came. The send fails if there is none.
            let _ = self.outputs.send(self.waiting.split().freeze()).await;
        }
        (why, self.granted, self.outputs, self.closing)
    }

    /// Handles `first` and the messages that are buffered already, so that their answers go out
    /// together.
    fn received(&mut self, first: Option<tungstenite::Result<Message>>) -> Result<(), Closed> {
        let mut message = first;
        let mut taken = 1;
        loop {
            self.on_message(message)?;
            if taken == BATCH || !self.channel.is_ready() {
                return Ok(());
            }
            match self.socket.next().now_or_never() {
                Some(more) => message = more,
                None => return Ok(()),
            }
            taken += 1;
        }
    }

    fn on_message(&mut self, message: Option<tungstenite::Result<Message>>) -> Result<(), Closed> {
        let now = Instant::now();
        match message {
            Some(Ok(Message::Binary(bytes))) => self.channel.on_frame(&bytes, now),
            Some(Ok(Message::Text(text))) => self.channel.on_frame(&Bytes::from(text), now),
            Some(Ok(Message::Close(frame))) => {
                let said = |frame: CloseFrame| {
                    format!(
                        " (code {}, {:?})",
                        frame.code,
                        foreign_text::clipped(frame.reason.as_str())
                    )
                };
                let said = frame.map(said).unwrap_or_default();
                return Err(self.close_reason(Closed::Lost(format!(
                    "the service closed the session's connection{said}"
                ))));
            }
            Some(Ok(_)) => self.channel.on_sign_of_life(now),
            Some(Err(e)) => return Err(self.close_reason(Closed::Lost(ended(&e)))),
            None => {
                return Err(
                    self.close_reason(Closed::Lost("the session's connection ended".to_owned()))
                );
            }
        }
        Ok(())
    }

    /// Drains the channel's events, and prefers its own close reason to `otherwise`.
    fn close_reason(&mut self, otherwise: Closed) -> Closed {
        while let Some(event) = self.channel.poll_event() {
            match event {
                Event::Output(bytes) => self.waiting.extend_from_slice(&bytes),
                Event::Closed(why) => return why,
                Event::KeyWanted(_) => {}
            }
        }
        otherwise
    }

    async fn events(&mut self) -> Option<Closed> {
        while self.waiting.len() < PIECE {
            let event = self.channel.poll_event()?;
            if matches!(event, Event::Output(_)) && self.heard.set(()).is_ok() {
                self.granted.has_answered();
            }
            match event {
                // A closing terminal has no reader.
                Event::Output(_) if self.closing.is_some() => {}
                Event::Output(bytes) => self.waiting.extend_from_slice(&bytes),
                Event::KeyWanted(wanted) => {
                    let key = self.key(&wanted).await;
                    self.channel.key(&wanted, key, Instant::now());
                }
                Event::Closed(why) => {
                    // The agent gets a refusal, too.
                    let _ = timeout(Duration::from_millis(500), self.transmit()).await;
                    return Some(why);
                }
            }
        }
        None
    }

    async fn key(&self, wanted: &KeyWanted) -> Result<DataKey, NoKey> {
        let mut context = vec![
            ("aws:ssm:SessionId", self.names.session.as_str()),
            ("aws:ssm:TargetId", self.names.target.as_str()),
        ];
        if let Some(challenge) = &wanted.challenge {
            context.push(("aws:ssm:RandomChallenge", challenge));
        }
        let late = || NoKey { why: "KMS did not answer in time".to_owned(), transient: true };
        timeout(KEY_WITHIN, self.api.data_key(&wanted.key, &context))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn transmit(&mut self) -> Result<(), tungstenite::Error> {
        let mut any = false;
        while let Some(transmit) = self.channel.poll_transmit(Instant::now()) {
            any = true;
            self.socket
                .feed(match transmit {
                    Transmit::Text(text) => Message::text(text),
                    Transmit::Binary(bytes) => Message::Binary(bytes),
                    Transmit::Ping => Message::Ping(Bytes::from_static(b"keepalive")),
                })
                .await?;
        }
        if any { self.socket.flush().await } else { Ok(()) }
    }
}

/// Describes the error for the job log. A peer that ends without TLS's close_notify is common, and
/// rustls' text for it is long.
fn ended(e: &tungstenite::Error) -> String {
    match e {
        tungstenite::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the session's connection ended without a close: the service, or a proxy in between, dropped it".to_owned()
        }
        e => foreign_text::clipped(&format!("the session's connection ended: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_vanishes_is_one_plain_sentence() {
        // rustls' own text (`unexpected-eof` in its manual).
        let text = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        let said =
            ended(&tungstenite::Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        assert!(
            said.contains("dropped it") && !said.contains("http") && !said.contains("rustls"),
            "{said}"
        );
        let other = ended(&tungstenite::Error::Io(io::Error::other("reset\nby peer")));
        assert_eq!(other, "the session's connection ended: IO error: reset by peer");
    }
}
