//! An agent's slots for the sessions of one container: workers, and a queue before them
//! (amazon-ssm-agent, `agent/task/pool.go`).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::sleep,
};

use super::rules::{AgentRules, Overflow};

/// How often a session without a slot is tried, and how far apart.
const TRIES: u32 = 5;
const APART: Duration = Duration::from_secs(1);

/// The slots of one container.
#[derive(Clone)]
pub(super) struct Slots {
    workers: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// The queue from which the agent accepts sessions one by one. `None`: those without a slot are
    /// refused.
    intake: Option<mpsc::UnboundedSender<oneshot::Sender<Slot>>>,
}

/// A session's slot: a worker, or a position in the queue.
pub(super) struct Slot {
    workers: Arc<Semaphore>,
    queued: Option<OwnedSemaphorePermit>,
    worker: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(rules: &AgentRules) -> Self {
        let mut slots = Self {
            workers: Arc::new(Semaphore::new(rules.workers)),
            queue: Arc::new(Semaphore::new(rules.queued)),
            intake: None,
        };
        if rules.overflow == Overflow::Blocks {
            let (intake, sessions) = mpsc::unbounded_channel();
            tokio::spawn(take_in(slots.clone(), sessions));
            slots.intake = Some(intake);
        }
        slots
    }

    /// Requests a slot for a new session, which may come late or never; `None` if it is refused.
    pub(super) fn ask(&self) -> Option<oneshot::Receiver<Slot>> {
        let (slot, asked) = oneshot::channel();
        match &self.intake {
            // The other end is never closed.
            Some(intake) => drop(intake.send(slot)),
            None => drop(slot.send(self.take()?)),
        }
        Some(asked)
    }

    fn take(&self) -> Option<Slot> {
        let workers = Arc::clone(&self.workers);
        if let Ok(worker) = Arc::clone(&self.workers).try_acquire_owned() {
            return Some(Slot { workers, queued: None, worker: Some(worker) });
        }
        let queued = Arc::clone(&self.queue).try_acquire_owned().ok()?;
        Some(Slot { workers, queued: Some(queued), worker: None })
    }
}

impl Slot {
    /// Waits for a worker. The position in the queue is free then.
    pub(super) async fn worker(&mut self) {
        if self.worker.is_none() {
            // Never closed.
            self.worker = Arc::clone(&self.workers).acquire_owned().await.ok();
            self.queued = None;
        }
    }
}

/// Accepts sessions until one finds no slot for too long.
async fn take_in(slots: Slots, mut sessions: mpsc::UnboundedReceiver<oneshot::Sender<Slot>>) {
    while let Some(session) = sessions.recv().await {
        let mut tries = 1;
        let slot = loop {
            if let Some(slot) = slots.take() {
                break slot;
            }
            if tries == TRIES {
                tracing::debug!("the exec agent blocks: there was no slot for a session");
                // The queue stays open: requests are not refused, but never get a slot.
                return std::future::pending().await;
            }
            tries += 1;
            sleep(APART).await;
        };
        // Without a receiver the slot is free again.
        drop(session.send(slot));
    }
}
