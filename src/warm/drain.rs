//! Ends all warm tasks of a metadata directory: before a manager is shut down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use states::{JobId, Retirement, SnapshotStore as _, StoreError};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Launched, retire};
use crate::host::Host;

/// Tasks that are ended at the same time: StopTask has a rate for the whole account.
const AT_ONCE: usize = 10;
/// How long a task may be worked on by others: a service lets go of its launches at once, and a job
/// that claims a task takes moments.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What became of the warm tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Those that ECS has accepted to stop.
    pub ended: usize,
    /// Those that could not be ended. The log says why, and `fargate reap` ends them later.
    pub left: usize,
}

/// Ends all warm tasks that no job has claimed, and ends the keeper of this process. Tasks that jobs
/// have claimed are theirs. A service of another process must not run: it would refill the pools.
///
/// # Errors
/// When the directory cannot be read.
pub async fn drain(host: &Arc<Host>) -> Result<Drained, StoreError> {
    host.drained.send_replace(true);
    let mut known = HashSet::new();
    let mut drained = Drained::default();
    // Again until there are no others: a launch that was given up may still have been saving.
    loop {
        let mut others = host.engine.store().warm_tasks().await?;
        others.retain(|id| known.insert(id.clone()));
        if others.is_empty() {
            return Ok(drained);
        }
        end_all(host, others, &mut drained).await;
    }
}

async fn end_all(host: &Arc<Host>, tasks: Vec<JobId>, drained: &mut Drained) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut ending = JoinSet::new();
    for id in tasks {
        let (host, turns) = (Arc::clone(host), Arc::clone(&turns));
        ending.spawn(async move {
            // An error: the semaphore was closed, which it never is.
            let _turn = turns.acquire().await;
            end(&host, id).await
        });
    }
    while let Some(ended) = ending.join_next().await {
        match ended {
            Ok(Some(true)) => drained.ended += 1,
            Ok(None) => {}
            Ok(Some(false)) | Err(_) => drained.left += 1,
        }
    }
}

/// Ends one task. `None` if a job has claimed it.
async fn end(host: &Host, id: JobId) -> Option<bool> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match retire(host, &id, Retirement::Drained).await {
            Ok(Launched::Failed(..) | Launched::Refused(..)) => return Some(true),
            Ok(Launched::Gone(_)) => {
                let is_there = host.engine.store().load(&id).await.is_ok_and(|it| it.is_some());
                if !is_there {
                    return None;
                }
                if Instant::now() > give_up {
                    tracing::warn!(task = %id, "another process works on the warm task");
                    return Some(false);
                }
                sleep(LOOK_AGAIN).await;
            }
            Ok(Launched::Ready(_) | Launched::Unsettled(_)) => {
                tracing::warn!(task = %id, "ECS does not stop the warm task now");
                return Some(false);
            }
            Err(e) => {
                tracing::warn!(task = %id, "the warm task is not ended: {e}");
                return Some(false);
            }
        }
    }
}
