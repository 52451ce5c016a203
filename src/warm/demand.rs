//! Whether jobs wait for ECS to accept their launches, which come before those of pools.

use std::{collections::HashMap, fs, time::Duration};

use states::{AnyJob, DirectoryStore, FileStamp, JobId, Snapshot, StoreError};

/// A job whose snapshot has not changed for so long does not wait for its launch: its process is
/// gone.
const ABANDONED: Duration = Duration::from_secs(2 * 60);

/// The jobs of a directory whose snapshots have changed lately, and whether they wait.
#[derive(Debug, Default)]
pub(super) struct LaunchingJobs(HashMap<JobId, (FileStamp, bool)>);

impl LaunchingJobs {
    /// Whether any job waits. Reads the snapshots that have changed since the last call.
    pub(super) async fn is_any(&mut self, store: &DirectoryStore) -> Result<bool, StoreError> {
        let (known, store) = (std::mem::take(&mut self.0), store.clone());
        self.0 = on_file_thread(move || {
            let look = |id: JobId| look(&store, id, &known);
            Ok(store.jobs()?.into_iter().filter(|id| !id.is_warm()).filter_map(look).collect())
        })
        .await?;
        Ok(self.0.values().any(|(_, waits)| *waits))
    }
}

fn look(
    store: &DirectoryStore,
    id: JobId,
    known: &HashMap<JobId, (FileStamp, bool)>,
) -> Option<(JobId, (FileStamp, bool))> {
    let metadata = fs::metadata(store.snapshot_path(&id)).ok()?;
    let age = metadata.modified().ok()?.elapsed().unwrap_or_default();
    if age > ABANDONED {
        return None;
    }
    let stamp = FileStamp::of(&metadata);
    let waits = match known.get(&id) {
        Some((same, waits)) if *same == stamp => *waits,
        _ => {
            let snapshot = store.read(&id);
            matches!(snapshot, Ok(Some(Snapshot { job: AnyJob::Provisioning(_), .. })))
        }
    };
    Some((id, (stamp, waits)))
}

/// Does work on files on a thread for that.
pub(super) async fn on_file_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    // It is never cancelled.
    done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}
