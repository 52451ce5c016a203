//! The queue between a connection's reader and a command's follower.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::delivery::Chunk;

/// Bytes in the queue from which on the connection is not read ...
const ENOUGH: usize = 256 * 1024;
/// ... even while a caller waits for an answer that comes behind them.
const MOST: usize = 32 * 1024 * 1024;

/// Overhead of an item in bytes: its slot in the queue, and an allocation. Without it, empty items
/// would be free.
const ITEM: usize = 128;

/// An item of a queue.
pub(crate) trait Held {
    /// Its size in bytes.
    fn size(&self) -> usize;
}

impl Held for Chunk {
    fn size(&self) -> usize {
        match self {
            Self::Out(bytes) | Self::Err(bytes) => bytes.len(),
            Self::Ended { .. } | Self::Lost(_) => 0,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue<T> {
    held: Mutex<(VecDeque<T>, usize)>,
    filled: Notify,
    taken: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { held: Mutex::default(), filled: Notify::new(), taken: Notify::new() }
    }
}

impl<T: Held> Queue<T> {
    pub(crate) fn push(&self, item: T) {
        {
            let (items, bytes) = &mut *self.lock();
            *bytes += ITEM + item.size();
            items.push_back(item);
        }
        self.filled.notify_one();
    }

    /// The next item. Cancel-safe.
    pub(crate) async fn next(&self) -> T {
        loop {
            if let Some(item) = self.take() {
                self.taken.notify_one();
                return item;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<T> {
        let (items, bytes) = &mut *self.lock();
        let item = items.pop_front()?;
        *bytes -= ITEM + item.size();
        Some(item)
    }

    /// Whether the connection should not be read for now.
    pub(crate) fn is_full(&self, is_answer_awaited: bool) -> bool {
        self.lock().1 >= if is_answer_awaited { MOST } else { ENOUGH }
    }

    /// Waits until an item has been taken since the last call.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<T>, usize)> {
        // Nothing in here panics with the lock held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn empty_items_count_against_the_limit() {
        let queue = Queue::default();
        let mut held = 0;
        while !queue.is_full(false) {
            queue.push(Chunk::Out(Bytes::new()));
            held += 1;
        }
        assert_eq!(held, ENOUGH / ITEM);
        for _ in 0..held {
            queue.next().await;
        }
        assert_eq!(queue.lock().1, 0, "all is taken");
    }
}
