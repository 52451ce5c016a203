//! Reads and writes a command's terminal at the agent's pace.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pty_process::{OwnedReadPty, OwnedWritePty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::sleep_until,
};

use super::{filter::Filter, message::Message, rules::AgentRules, session::ToClient};

/// Most bytes of a terminal in one message.
const READ: usize = 1024;
/// Bytes that are read of a terminal at once: four messages.
const READ_AHEAD: usize = 4 * READ;

/// Input that is being written to the terminal; meanwhile nothing else is read from the client.
pub(super) struct Writing {
    pub(super) message: Message,
    pub(super) bytes: Bytes,
    pub(super) written: usize,
}

pub(super) enum Written {
    All,
    Some(usize),
    Failed,
}

pub(super) async fn write(writer: &mut OwnedWritePty, writing: &mut Option<Writing>) -> Written {
    let Some(writing) = writing else { return std::future::pending().await };
    let rest = &writing.bytes[writing.written..];
    match writer.write(rest).await {
        Ok(count) if count == rest.len() => Written::All,
        Ok(count) => Written::Some(count),
        Err(e) => {
            tracing::debug!("input cannot be written: {e}");
            Written::Failed
        }
    }
}

/// A terminal's output, at the agent's pace.
pub(super) struct Output {
    reader: OwnedReadPty,
    filter: Filter,
    read: BytesMut,
    rest: Duration,
    catch_up: Duration,
    next: Instant,
}

impl Output {
    pub(super) fn new(reader: OwnedReadPty, rules: &AgentRules) -> Self {
        Self {
            reader,
            filter: Filter::default(),
            read: BytesMut::new(),
            rest: rules.rest,
            catch_up: rules.catch_up,
            next: Instant::now() + rules.first_output,
        }
    }

    /// Waits for the next payload, at the agent's pace and until the client has room. It may be
    /// empty; `None` at the end.
    pub(super) async fn next(
        &mut self,
        client: Option<&mpsc::Sender<ToClient>>,
    ) -> Option<Vec<u8>> {
        if Instant::now() < self.next {
            sleep_until(self.next.into()).await;
        }
        if let Some(client) = client {
            // Only this agent sends there, so free room stays free. A lost client is detected
            // elsewhere.
            let _ = client.reserve_many(2).await;
        }
        if self.read.is_empty() {
            self.read.reserve(READ_AHEAD);
            let mut window = (&mut self.reader).take(READ_AHEAD as u64);
            // The end of a terminal is an error (EIO).
            if !matches!(window.read_buf(&mut self.read).await, Ok(1..)) {
                return None;
            }
        }
        if !self.rest.is_zero() {
            let now = Instant::now();
            self.next = self.next.max(now.checked_sub(self.catch_up).unwrap_or(now)) + self.rest;
        }
        let bytes = self.read.split_to(self.read.len().min(READ));
        Some(self.filter.pass(&bytes))
    }
}
