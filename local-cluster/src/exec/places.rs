//! The places that an agent has for the sessions of one container: workers, and a queue before them
//! (amazon-ssm-agent, `agent/task/pool.go`).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::sleep,
};

use super::rules::{AgentRules, Overflow};

/// How often a session for which there is no place is tried, and how far apart.
const TRIES: u32 = 5;
const APART: Duration = Duration::from_secs(1);

/// The places of one container.
#[derive(Clone)]
pub(super) struct Places {
    workers: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Where the agent takes sessions in, one after the other. `None`: those without a place are
    /// refused.
    intake: Option<mpsc::UnboundedSender<oneshot::Sender<Place>>>,
}

/// A session's place: a worker, or one in the queue before the workers.
pub(super) struct Place {
    workers: Arc<Semaphore>,
    queued: Option<OwnedSemaphorePermit>,
    worker: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(rules: &AgentRules) -> Self {
        let mut places = Self {
            workers: Arc::new(Semaphore::new(rules.workers)),
            queue: Arc::new(Semaphore::new(rules.queued)),
            intake: None,
        };
        if rules.overflow == Overflow::Blocks {
            let (intake, sessions) = mpsc::unbounded_channel();
            tokio::spawn(take_in(places.clone(), sessions));
            places.intake = Some(intake);
        }
        places
    }

    /// A place for a new session, which may come late or never; `None` if it is refused.
    pub(super) fn ask(&self) -> Option<oneshot::Receiver<Place>> {
        let (place, asked) = oneshot::channel();
        match &self.intake {
            // The other end is never closed.
            Some(intake) => drop(intake.send(place)),
            None => drop(place.send(self.take()?)),
        }
        Some(asked)
    }

    fn take(&self) -> Option<Place> {
        let workers = Arc::clone(&self.workers);
        if let Ok(worker) = Arc::clone(&self.workers).try_acquire_owned() {
            return Some(Place { workers, queued: None, worker: Some(worker) });
        }
        let queued = Arc::clone(&self.queue).try_acquire_owned().ok()?;
        Some(Place { workers, queued: Some(queued), worker: None })
    }
}

impl Place {
    /// Waits for a worker. The place in the queue is free then.
    pub(super) async fn worker(&mut self) {
        if self.worker.is_none() {
            // Never closed.
            self.worker = Arc::clone(&self.workers).acquire_owned().await.ok();
            self.queued = None;
        }
    }
}

/// Takes sessions in until there is one that finds no place for too long.
async fn take_in(places: Places, mut sessions: mpsc::UnboundedReceiver<oneshot::Sender<Place>>) {
    while let Some(session) = sessions.recv().await {
        let mut tries = 1;
        let place = loop {
            if let Some(place) = places.take() {
                break place;
            }
            if tries == TRIES {
                tracing::debug!("the exec agent blocks: there was no place for a session");
                // The queue stays open: what is asked for is not refused, it never comes.
                return std::future::pending().await;
            }
            tries += 1;
            sleep(APART).await;
        };
        // Without a receiver the place is free again.
        drop(session.send(place));
    }
}
