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
        let why = match retire(host, &id, Retirement::Drained).await {
            Ok(Launched::Failed(..) | Launched::Refused(..)) => return Some(true),
            Ok(Launched::Gone(_)) => {
                host.engine.store().load(&id).await.ok().flatten()?;
                if Instant::now() <= give_up {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
                "another process works on it".to_owned()
            }
            Ok(Launched::Ready(_) | Launched::Unsettled(_)) => {
                "ECS does not stop it now".to_owned()
            }
            Err(e) => e.to_string(),
        };
        tracing::warn!(task = %id, "the warm task is not ended: {why}");
        return Some(false);
    }
}
