//! What a host tells the keeper of its pools.

use tokio::sync::{Notify, watch};

/// What wakes and ends the keeper of a process.
#[derive(Debug)]
pub(crate) struct Signals {
    changed: Notify,
    ends: watch::Sender<bool>,
}

impl Default for Signals {
    fn default() -> Self {
        Self { changed: Notify::new(), ends: watch::Sender::new(false) }
    }
}

impl Signals {
    /// Says that a job has claimed a warm task.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for [`Signals::wake`].
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the keeper for good: nothing refills the pools any more.
    pub(super) fn end(&self) {
        self.ends.send_replace(true);
    }

    /// Waits for [`Signals::end`].
    pub(super) async fn ended(&self) {
        // An error: the host is gone.
        let _ = self.ends.subscribe().wait_for(|ends| *ends).await;
    }
}
