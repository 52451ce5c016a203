//! Crashes a process at a chosen point, between any two of its effects on the world.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

/// Counts the process's steps, and stops it for ever at one of them.
#[derive(Debug, Default)]
pub struct CrashPoint {
    /// Steps until the crash; 0: no crash.
    left: AtomicU32,
    crashed: AtomicBool,
    notify: Notify,
}

impl CrashPoint {
    /// The next process crashes at this step; at 0, never.
    pub fn set(&self, steps: u32) {
        self.crashed.store(false, Ordering::SeqCst);
        self.left.store(steps, Ordering::SeqCst);
    }

    /// Takes a step. Does not return once the process has crashed.
    pub async fn step(&self) {
        let before = self.left.load(Ordering::SeqCst);
        if before > 1 {
            self.left.store(before - 1, Ordering::SeqCst);
        } else if before == 1 {
            // Stays at 1, so that no later step of the dead process succeeds.
            self.crashed.store(true, Ordering::SeqCst);
            self.notify.notify_waiters();
            std::future::pending::<()>().await;
        }
    }

    pub fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// Completes when the process crashes.
    pub async fn crash(&self) {
        let notified = self.notify.notified();
        if !self.has_crashed() {
            notified.await;
        }
    }
}
