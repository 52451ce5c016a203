//! Exports of jobs that no process will continue: `<job>.trace` and `<job>.otlp` without a snapshot.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use states::{DirectoryStore, JobId, StoreError};

use super::{SERVICE_SPOOL, stage};
use crate::runner::Identity;

/// Exports the remaining data of jobs without a snapshot that no process has touched for
/// `older_than`. That is a job's own span if no process ended it, and data that no collector
/// accepted, also the service's. If telemetry is off, removes the files.
///
/// # Errors
/// When the directory cannot be read.
pub fn adopt(store: &DirectoryStore, older_than: Duration) -> Result<(), StoreError> {
    let directory = store.directory();
    let listed = fs::read_dir(directory).map_err(|source| StoreError::Io {
        what: "list the directory",
        path: directory.to_owned(),
        source,
    })?;
    for path in listed.flatten().map(|entry| entry.path()) {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        // A service writes its own every half minute as long as it has unsent data.
        if !["trace", "otlp"].contains(&ending) || age(&path) < older_than {
            continue;
        }
        let job = path.file_stem().and_then(|stem| JobId::new(stem.to_str()?).ok());
        let job = job.filter(|job| Identity::could_name(job) && !store.snapshot_path(job).exists());
        // Without the lease, a process works on the job, or is about to.
        let lease = job.as_ref().and_then(|job| store.try_lease(job, "reap").ok());
        let is_pending = lease.is_some() || path.ends_with(SERVICE_SPOOL);
        if !is_pending || (ending == "otlp" && stage::take_over(&path)) {
            continue;
        }
        if let (Some(job), "trace") = (&job, ending) {
            stage::abandon(directory, job);
        }
        // A malformed process log was not taken over.
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {e}", path.display());
        }
    }
    Ok(())
}

fn age(path: &Path) -> Duration {
    let changed = fs::metadata(path).and_then(|about| about.modified()).ok();
    changed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}
