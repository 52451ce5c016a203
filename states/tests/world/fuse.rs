//! A process's death at a chosen point: between any two of its effects on the world.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

/// Counts the process's steps and stops it for ever at one of them.
#[derive(Debug, Default)]
pub struct Fuse {
    /// Steps until the end; 0: no end.
    left: AtomicU32,
    dead: AtomicBool,
    died: Notify,
}

impl Fuse {
    /// The next process lives so long.
    pub fn set(&self, steps: u32) {
        self.dead.store(false, Ordering::SeqCst);
        self.left.store(steps, Ordering::SeqCst);
    }

    /// A step. Does not return once the process is dead.
    pub async fn step(&self) {
        if self.dies() {
            std::future::pending::<()>().await;
        }
    }

    /// A step of something that cannot wait; true when the process dies here.
    pub fn dies(&self) -> bool {
        let before = self.left.load(Ordering::SeqCst);
        if before == 0 {
            return false;
        }
        if before == 1 {
            // Left at 1: whatever the dead process still seems to do is dead too.
            self.dead.store(true, Ordering::SeqCst);
            self.died.notify_waiters();
            return true;
        }
        self.left.store(before - 1, Ordering::SeqCst);
        false
    }

    pub fn is_blown(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Completes when the process dies.
    pub async fn blown(&self) {
        let died = self.died.notified();
        if !self.dead.load(Ordering::SeqCst) {
            died.await;
        }
    }
}
