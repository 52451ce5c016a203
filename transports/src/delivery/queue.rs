//! A command's outputs on their way from whoever reads the connection to whoever follows the command.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::Notify;

use crate::delivery::Chunk;

/// Bytes that are held before the connection is not read any more ...
const ENOUGH: usize = 256 * 1024;
/// ... and before it is not read even for an answer that somebody waits for.
const MOST: usize = 32 * 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    held: Mutex<Held>,
    filled: Notify,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Held {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn push(&self, chunk: Chunk) {
        {
            let mut held = self.lock();
            held.bytes += size(&chunk);
            held.chunks.push_back(chunk);
        }
        self.filled.notify_one();
    }

    /// The next chunk. Cancel-safe.
    pub(crate) async fn next(&self) -> Chunk {
        loop {
            if let Some(chunk) = self.take() {
                self.taken.notify_one();
                return chunk;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Chunk> {
        let mut held = self.lock();
        let chunk = held.chunks.pop_front()?;
        held.bytes -= size(&chunk);
        Some(chunk)
    }

    /// Whether no more should be read for now.
    pub(crate) fn is_full(&self, in_a_hurry: bool) -> bool {
        self.lock().bytes >= if in_a_hurry { MOST } else { ENOUGH }
    }

    /// Something was taken since the last call, or will be.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        // Nothing in here panics with the lock held.
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn size(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Out(bytes) | Chunk::Err(bytes) => bytes.len(),
        Chunk::Ended { .. } | Chunk::Lost(_) => 0,
    }
}
