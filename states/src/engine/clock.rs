//! Wall-clock time that follows tokio's clock, so that simulations on paused time work.

use tokio::time::Instant;

use crate::Timestamp;

/// A clock: the wall-clock time at its start plus what has passed on tokio's clock since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall: Timestamp,
}

impl Clock {
    /// A clock that shows the system's time now.
    #[must_use]
    pub fn start() -> Self {
        Self::showing(Timestamp::now())
    }

    /// A clock that shows this time now and continues from there.
    #[must_use]
    pub fn showing(wall: Timestamp) -> Self {
        Self { start: Instant::now(), wall }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + self.start.elapsed()
    }

    /// Waits until this time. Returns at once if it has passed.
    pub async fn until(&self, at: Timestamp) {
        let wait = at.since(self.now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}
