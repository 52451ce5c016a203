//! Server-sent events: the page's content, whenever it has changed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use super::Server;

/// How often the content may change.
const INTERVAL: Duration = Duration::from_secs(2);
/// How soon a browser connects again, in milliseconds.
const RETRY: &str = "retry: 2000\n\n";
/// A line that says nothing: the connection lives.
const ALIVE: &str = ":\n\n";
/// How often something is sent, at least, so that a browser that is gone is noticed.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The body of `/events`.
pub(super) struct Events {
    frames: mpsc::Receiver<Bytes>,
}

impl Events {
    /// Sends the content for as long as the browser reads it, and at most for `life`. Gives
    /// `permit` back then.
    pub(super) fn follow(
        server: Arc<Server>,
        permit: OwnedSemaphorePermit,
        life: Duration,
    ) -> Self {
        // One frame is made ahead: a browser that reads slowly gets fewer of them.
        let (sender, frames) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = send(&server, &sender) => {}
                () = sender.closed() => {}
                () = tokio::time::sleep(life) => {}
            }
            drop(permit);
        });
        Self { frames }
    }
}

async fn send(server: &Server, sender: &mpsc::Sender<Bytes>) {
    let mut next = Bytes::from_static(RETRY.as_bytes());
    let mut sent: Arc<str> = "".into();
    let mut sent_at = Instant::now();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if !next.is_empty() {
            if sender.send(next).await.is_err() {
                return;
            }
            sent_at = Instant::now();
        }
        ticks.tick().await;
        let content = server.content().await;
        next = if content.text != sent {
            sent = content.text;
            event(&sent)
        } else if sent_at.elapsed() >= ALIVE_INTERVAL {
            Bytes::from_static(ALIVE.as_bytes())
        } else {
            Bytes::new()
        };
    }
}

/// Formats an event. Each line of its data is a line of its own, whichever way it ends.
fn event(data: &str) -> Bytes {
    let mut event = String::with_capacity(data.len() + 64);
    for line in data.split(['\n', '\r']) {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event.into()
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(context).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_data_is_a_field_of_its_own() {
        let event = event("one\ntwo\r\nevent: three\rid: 4");
        assert_eq!(
            event,
            "data: one\ndata: two\ndata: \ndata: event: three\ndata: id: 4\n\n".as_bytes()
        );
    }
}
