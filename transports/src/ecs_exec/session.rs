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

/// Pieces of output that wait for whoever reads the terminal.
const OUTPUT_PIECES: usize = 4;
/// Most output in a piece.
const PIECE: usize = 64 * 1024;
/// Messages that are looked at before what they give rise to is sent.
const BATCH: usize = 256;
/// How long the session may take to end when its terminal is left: the agent waits 2 s for its last
/// acknowledgements. An agent whose client is gone does not read the terminal any more, and so does
/// not learn that its command has ended: the session would keep its slot until ECS's idle time-out
/// of twenty minutes.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// How long KMS may take: the agent waits 15 s for our answer.
const KEY_WITHIN: Duration = Duration::from_secs(12);

/// The terminal of an ECS Exec session. Dropping it leaves the session to itself: see
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
    /// The session may take so long to end.
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
            farewell: None,
        };
        let end = Arc::clone(&closed);
        tokio::spawn(async move {
            let (why, granted, outputs, _farewell) = pump.run().await;
            let goes_on_without_us = !matches!(why, Closed::Ended(_));
            // Before the reader learns that there is no more.
            let _ = end.set(why);
            drop(outputs);
            if goes_on_without_us {
                granted.end().await;
            } else {
                // Before whoever leaves the terminal may end the process.
                granted.has_ended();
            }
        });
        Self { input, output: Mutex::new(output), closed, first_word }
    }

    /// As [`Terminal::close`], with the time that the session has to end by itself. Then it is
    /// ended.
    pub(super) async fn leave(&self, within: Duration) {
        let (done, left) = oneshot::channel();
        if self.input.send(Input::Close(within, done)).await.is_ok() {
            // An error: the connection ended first.
            let _ = left.await;
        }
    }

    /// Where it stands why the session ended, once it has.
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

/// Until when what was written may still arrive, and who waits for that.
type Farewell = (Instant, oneshot::Sender<()>);

/// What an encrypted session's keys are bound to.
struct Names {
    session: String,
    target: String,
}

/// Moves what the channel has to say, and what is said to it.
struct Pump<A: ExecApi> {
    socket: Socket,
    channel: DataChannel,
    names: Names,
    api: Arc<A>,
    granted: Granted<A>,
    heard: Arc<OnceLock<()>>,
    inputs: mpsc::Receiver<Input>,
    outputs: mpsc::Sender<Bytes>,
    /// Output that nobody has taken yet.
    waiting: BytesMut,
    /// The terminal is being left.
    farewell: Option<Farewell>,
}

impl<A: ExecApi> Pump<A> {
    async fn run(mut self) -> (Closed, Granted<A>, mpsc::Sender<Bytes>, Option<Farewell>) {
        let why = loop {
            if let Some(why) = self.events().await {
                break why;
            }
            if let Err(e) = self.transmit().await {
                break Closed::Lost(ended(&e));
            }
            let now = Instant::now();
            if let Some((until, _)) = &self.farewell
                && now >= *until
            {
                let _ = timeout(Duration::from_millis(500), self.socket.close(None)).await;
                // Whether it ends after all is not known.
                break Closed::Lost("the session did not end when it was left".to_owned());
            }
            let mut wake = self.channel.deadline();
            if let Some((until, _)) = &self.farewell {
                wake = wake.min(*until);
            }
            let reads = self.waiting.len() < PIECE && self.channel.is_ready();
            // A sender of its own: what is waited for must not borrow what the other branches
            // change.
            let outputs = self.outputs.clone();
            tokio::select! {
                permit = outputs.reserve(), if !self.waiting.is_empty() && self.farewell.is_none() => match permit {
                    Ok(permit) => permit.send(self.waiting.split().freeze()),
                    Err(_) => break Closed::Lost("nobody reads the session's terminal any more".to_owned()),
                },
                message = self.socket.next(), if reads => {
                    if let Err(why) = self.received(message) {
                        break why;
                    }
                }
                input = self.inputs.recv(), if self.channel.wants_input() && self.farewell.is_none() => match input {
                    Some(Input::Bytes(bytes)) => self.channel.send(bytes),
                    Some(Input::Size(columns, rows)) => self.channel.resize(columns, rows),
                    Some(Input::Close(within, done)) => {
                        self.farewell = Some((now + within, done));
                        self.waiting.clear();
                    }
                    None => break Closed::Lost("the session's terminal was abandoned".to_owned()),
                },
                // Also while input waits that nobody takes.
                () = outputs.closed(), if self.farewell.is_none() => break Closed::Lost("the session's terminal was abandoned".to_owned()),
                () = sleep_until(wake.into()) => {
                    let now = Instant::now();
                    if !reads {
                        // We do not listen: that it is silent means nothing.
                        self.channel.on_sign_of_life(now);
                    }
                    self.channel.on_tick(now);
                }
            }
        };
        if self.farewell.is_none() && !self.waiting.is_empty() {
            // Whoever reads gets all that came; if nobody does, nobody wants it.
            let _ = self.outputs.send(self.waiting.split().freeze()).await;
        }
        (why, self.granted, self.outputs, self.farewell)
    }

    /// Takes what is there already as well, so that one answer goes out for many messages.
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
                return Err(self.closing(Closed::Lost(format!(
                    "the service closed the session's connection{said}"
                ))));
            }
            Some(Ok(_)) => self.channel.on_sign_of_life(now),
            Some(Err(e)) => return Err(self.closing(Closed::Lost(ended(&e)))),
            None => {
                return Err(self.closing(Closed::Lost("the session's connection ended".to_owned())));
            }
        }
        Ok(())
    }

    /// What the channel knows of its end says more than that the connection ended; and what it has
    /// is not thrown away.
    fn closing(&mut self, otherwise: Closed) -> Closed {
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
                // Nobody wants it any more.
                Event::Output(_) if self.farewell.is_some() => {}
                Event::Output(bytes) => self.waiting.extend_from_slice(&bytes),
                Event::KeyWanted(wanted) => {
                    let key = self.key(&wanted).await;
                    self.channel.key(&wanted, key, Instant::now());
                }
                Event::Closed(why) => {
                    // A refusal is told to the agent too.
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

/// In words for the job log. A peer that goes away without TLS's goodbye is an everyday event,
/// which rustls explains by a page of its manual.
fn ended(e: &tungstenite::Error) -> String {
    match e {
        tungstenite::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the session's connection ended without a goodbye: the service, or something on the way to it, dropped it".to_owned()
        }
        e => foreign_text::clipped(&format!("the session's connection ended: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_vanishes_is_one_plain_sentence() {
        // As rustls says it (`unexpected-eof` in its manual).
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
