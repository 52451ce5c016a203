//! Exports of jobs that no process will continue: `<job>.trace` and `<job>.otlp` without a snapshot.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use states::{DirectoryStore, JobId, StoreError};

use super::{SERVICE_SPOOL, recorder};
use crate::runner::Identity;

/// Exports the remaining data of jobs without a snapshot that no process has touched for
/// `older_than`. That is a job's own span if no process ended it, and data that no collector
/// accepted, also the service's. If telemetry is off, removes the files.
///
/// # Errors
/// When the directory cannot be read.
pub fn adopt(store: &DirectoryStore, older_than: Duration) -> Result<(), StoreError> {
    let directory = store.directory();
    // The service writes it every half minute as long as it has unsent data.
    let of_service = directory.join(SERVICE_SPOOL);
    if of_service.exists() && age(&of_service) >= older_than && !recorder::take_over(&of_service) {
        remove(&of_service);
    }
    let listed = fs::read_dir(directory).map_err(|source| StoreError::Io {
        what: "list the directory",
        path: directory.to_owned(),
        source,
    })?;
    for path in listed.flatten().map(|entry| entry.path()) {
        let Some(ending @ ("trace" | "otlp")) = path.extension().and_then(|ending| ending.to_str())
        else {
            continue;
        };
        let Some(job) =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|job| JobId::new(job).ok())
        else {
            continue;
        };
        if !Identity::could_name(&job)
            || store.snapshot_path(&job).exists()
            || age(&path) < older_than
        {
            continue;
        }
        // A process works on the job, or is about to.
        let Ok(_lease) = store.try_lease(&job, "reap") else { continue };
        if ending == "otlp" && recorder::take_over(&path) {
            continue;
        }
        if ending == "trace" {
            recorder::abandon(directory, &job);
        }
        // A malformed process log was not taken over.
        remove(&path);
    }
    Ok(())
}

fn age(path: &Path) -> Duration {
    let changed = fs::metadata(path).and_then(|about| about.modified()).ok();
    changed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{} cannot be removed: {e}", path.display());
    }
}
