//! A standby: a command that stays, and starts one run after another. Opening a channel takes a
//! server far longer than that.
//!
//! It is a shortcut, never a promise. A run that it cannot start is started over a channel of its
//! own, and a run whose standby dies is attached to over another connection. Nothing runs twice, as
//! the container starts a run only once.
//!
//! The standby marks the gaps between runs on both of its outputs. So output of one run, which
//! background processes may still write, never counts as the next one's.

use std::{
    array,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use states::{RunId, RunOrder, ShellFacts};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinHandle,
    time::timeout,
};
use tracing::Span;

use super::{Channel, Chunk, Exec, Followed, command, nonce};

/// How long a standby may take to be ready for an order. Opening a channel takes less, except on a
/// very busy machine, which delays both.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// The line that starts a run whose script was sent.
const GO: Bytes = Bytes::from_static(b"go\n");
/// The line that ends the interest in a run. Any line does.
const ENOUGH: Bytes = Bytes::from_static(b"enough\n");
/// Most bytes that are kept of an output while a mark is sought.
const KEPT: usize = 64 * 1024;

/// A standby over one connection.
pub(super) struct Standby {
    nonce: String,
    /// Locked while a run is started and followed, and until the container has said that this is
    /// over. `None` once it cannot be used any more.
    channel: Arc<Mutex<Option<Box<dyn Channel>>>>,
    /// Whether it has taken an order.
    has_served: AtomicBool,
    /// The order that was sent ahead of its start.
    ahead: std::sync::Mutex<Option<(RunId, JoinHandle<Option<Taken>>)>>,
}

/// An order that the container has, with the channel.
struct Taken {
    guard: OwnedMutexGuard<Option<Box<dyn Channel>>>,
    channel: Box<dyn Channel>,
    /// The mark of the run's replies.
    mark: String,
    /// What came with the standby's answer.
    first: [Chunk; 2],
}

impl Standby {
    /// Opens a standby. It gets ready while the driver does something else. `None` if no command can
    /// be run.
    pub(super) async fn open(exec: &dyn Exec, facts: &ShellFacts) -> Option<Self> {
        let nonce = nonce();
        let channel = exec.exec(command::standby(&nonce, facts), Bytes::new()).await.ok()?;
        let free = Arc::new(Mutex::new(None));
        let mut guard = Arc::clone(&free).try_lock_owned().ok()?;
        *guard = Some(channel);
        tokio::spawn(get_ready(guard, nonce.clone()));
        let ahead = std::sync::Mutex::default();
        Some(Self { nonce, channel: free, has_served: AtomicBool::new(false), ahead })
    }

    /// Whether another one is to take its place: it has ended, and not because the container cannot
    /// have one. Ends it if it holds an order that was never started.
    pub(super) fn is_to_be_replaced(&mut self) -> bool {
        if self.take_ahead().is_some() {
            return true;
        }
        let has_ended = self.channel.try_lock().is_ok_and(|channel| channel.is_none());
        has_ended && self.has_served.load(Ordering::Relaxed)
    }

    fn take_ahead(&self) -> Option<(RunId, JoinHandle<Option<Taken>>)> {
        // It is consistent after every step.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Begins to send a run's order and script. The container does not start it before
    /// [`Self::start`].
    pub(super) fn send_ahead(&self, order: &RunOrder, script: &Bytes) {
        let sending = tokio::spawn(self.send(order, script));
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((order.run.clone(), sending));
    }

    /// Sends an order and its script, once the standby is ready for them, and waits until it has
    /// them.
    fn send(
        &self,
        order: &RunOrder,
        script: &Bytes,
    ) -> impl Future<Output = Option<Taken>> + use<> {
        let mark = nonce();
        let line = command::standby_order(&self.nonce, &mark, order, script);
        let (channel, script) = (Arc::clone(&self.channel), script.clone());
        async move {
            let mut guard = timeout(READY_WITHIN, channel.lock_owned()).await.ok()?;
            // Unless the order is taken, the channel is closed: an order may be half sent.
            let mut channel = guard.take()?;
            let mut input = BytesMut::with_capacity(line.len() + script.len());
            input.extend_from_slice(line.as_bytes());
            input.extend_from_slice(&script);
            channel.send(input.freeze()).await.ok()?;
            let begin = format!("{mark} begin\n");
            let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
            let at = loop {
                match channel.next().await {
                    Chunk::Out(bytes) => out.extend_from_slice(&bytes),
                    // It is written later. But the order of the two outputs is lost on the way.
                    Chunk::Err(bytes) => err.extend_from_slice(&bytes),
                    Chunk::Ended { .. } | Chunk::Lost(_) => return None,
                }
                if let Some(at) = memmem::find(&out, begin.as_bytes()) {
                    break at;
                }
                if out.len() + err.len() > KEPT {
                    return None;
                }
            };
            let first = [Chunk::Out(out.split_off(at).freeze()), Chunk::Err(err.freeze())];
            Some(Taken { guard, channel, mark, first })
        }
    }

    /// Starts a run, whose start is recorded by `span`. `None` if the standby has not started it, and
    /// never will.
    pub(super) async fn start(
        &self,
        order: &RunOrder,
        script: &Bytes,
        span: &Span,
    ) -> Option<Followed> {
        let taken = match self.take_ahead() {
            Some((run, sending)) if run == order.run => sending.await.ok()?,
            _ => self.send(order, script).await,
        };
        let Taken { guard, mut channel, mark, first } = taken?;
        channel.send(GO).await.ok()?;
        self.has_served.store(true, Ordering::Relaxed);
        let channel = Served {
            guard: Some(guard),
            channel: Some(channel),
            first: first.into_iter(),
            nonce: self.nonce.clone(),
        };
        Some(Followed::new(Box::new(channel), &mark, 0, span.clone()))
    }
}

/// A run that a standby serves.
struct Served {
    guard: Option<OwnedMutexGuard<Option<Box<dyn Channel>>>>,
    channel: Option<Box<dyn Channel>>,
    /// What came with the standby's answer.
    first: array::IntoIter<Chunk, 2>,
    nonce: String,
}

#[async_trait]
impl Channel for Served {
    async fn next(&mut self) -> Chunk {
        if let Some(first) = self.first.next() {
            return first;
        }
        let Some(channel) = &mut self.channel else {
            return Chunk::Lost("the standby in the container has ended".to_owned());
        };
        let chunk = channel.next().await;
        if matches!(chunk, Chunk::Ended { .. } | Chunk::Lost(_)) {
            self.channel = None;
        }
        chunk
    }
}

impl Drop for Served {
    /// Makes the standby ready for its next order.
    fn drop(&mut self) {
        // Without a runtime there is no connection either.
        if let (Some(mut channel), Some(mut guard)) = (self.channel.take(), self.guard.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let nonce = std::mem::take(&mut self.nonce);
            runtime.spawn(async move {
                if let Ok(Ok(())) = timeout(READY_WITHIN, channel.send(ENOUGH)).await {
                    *guard = Some(channel);
                    get_ready(guard, nonce).await;
                }
            });
        }
    }
}

/// Waits until the standby is ready for an order. Drops what comes before: it is of an earlier run.
async fn get_ready(mut guard: OwnedMutexGuard<Option<Box<dyn Channel>>>, nonce: String) {
    let Some(channel) = guard.as_mut() else { return };
    let mark = format!("{nonce} idle\n");
    let ready = async {
        let (mut out, mut err) = (Sought::default(), Sought::default());
        while !(out.is_found && err.is_found) {
            match channel.next().await {
                Chunk::Out(bytes) => out.push(&bytes, mark.as_bytes()),
                Chunk::Err(bytes) => err.push(&bytes, mark.as_bytes()),
                Chunk::Ended { .. } | Chunk::Lost(_) => return false,
            }
        }
        true
    };
    if timeout(READY_WITHIN, ready).await != Ok(true) {
        tracing::debug!(
            "the standby in the container has ended: runs start over channels of their own"
        );
        *guard = None;
    }
}

/// An output in which a mark is sought.
#[derive(Default)]
struct Sought {
    is_found: bool,
    /// The end of what came, which may have the beginning of a mark.
    end: BytesMut,
}

impl Sought {
    fn push(&mut self, bytes: &[u8], mark: &[u8]) {
        self.end.extend_from_slice(bytes);
        self.is_found |= memmem::find(&self.end, mark).is_some();
        let keeps = self.end.len().min(mark.len());
        self.end = self.end.split_off(self.end.len() - keeps);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use states::{Run as _, RunContainer, RunEvent, RunId};

    use super::*;

    /// A container whose stderr arrives before what it wrote to stdout earlier.
    #[derive(Default)]
    struct Crossed {
        mark: String,
        chunks: VecDeque<Chunk>,
    }

    #[async_trait]
    impl Channel for Crossed {
        async fn next(&mut self) -> Chunk {
            self.chunks.pop_front().unwrap_or_else(|| Chunk::Lost("nothing is left".to_owned()))
        }

        async fn send(&mut self, input: Bytes) -> Result<(), String> {
            let input = String::from_utf8(input.to_vec()).unwrap();
            if let Some(run) = input.split(' ').nth(5) {
                self.mark = run.trim_matches('\'').to_owned();
            }
            let run = &self.mark;
            if input == "go\n" {
                self.chunks
                    .push_back(Chunk::Err(format!("{run} started\n{run} exit 12 3\n").into()));
                self.chunks.push_back(Chunk::Out(Bytes::from_static(b"12\n")));
            } else {
                self.chunks.push_back(Chunk::Out(format!("{run} begin\n").into()));
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_verdict_may_arrive_before_the_output() {
        let channel: Box<dyn Channel> = Box::<Crossed>::default();
        let standby = Standby {
            nonce: nonce(),
            channel: Arc::new(Mutex::new(Some(channel))),
            has_served: AtomicBool::new(false),
            ahead: std::sync::Mutex::default(),
        };
        let order = RunOrder {
            run: RunId::new("0001-a").unwrap(),
            stage: "a".into(),
            forget: None,
            container: RunContainer::Coordinator,
        };
        let script = Bytes::from_static(b"echo 12; exit 12");
        let mut run = standby.start(&order, &script, &Span::none()).await.unwrap();
        assert_eq!(run.next().await, Ok(RunEvent::Started));
        assert_eq!(run.next().await, Ok(RunEvent::Output(Bytes::from_static(b"12\n"))));
        assert_eq!(run.next().await, Ok(RunEvent::Exited { code: 12, total: 3 }));
    }

    #[test]
    fn a_mark_is_found_however_it_is_cut() {
        let text = b"the end of a run\nn0nce idle\n";
        for size in 1..=text.len() {
            let mut sought = Sought::default();
            for piece in text.chunks(size) {
                assert!(!sought.is_found);
                sought.push(piece, b"n0nce idle\n");
            }
            assert!(sought.is_found, "{size}");
        }
    }
}
