//! Finished jobs: kept for a while, for whoever asks why.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{DirectoryStore, StoreError, durable, index};
use crate::{Header, JobId, Timestamp, private_file};

/// How long finished jobs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Snapshots older than this are removed.
    pub age: Duration,
    /// Of the others, only so many of the newest are kept.
    pub count: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(30 * 24 * 60 * 60), count: 20_000 }
    }
}

/// How often the archive is looked through: reading a large directory at every job's end would be
/// waste.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);

pub(super) fn keep(store: &DirectoryStore, header: &Header) -> Result<PathBuf, StoreError> {
    let archive = open(store)?;
    let from = store.snapshot_path(&header.id);
    // A retried job has the same id: the start tells its attempts apart.
    let to = archive.join(format!("{}.{}.ron", header.id, header.created.as_millis()));
    fs::rename(&from, &to).map_err(StoreError::io("archive", &from))?;
    durable::sync_directory(&to)?;
    durable::sync_directory(&from)?;
    Ok(to)
}

/// Moves a snapshot that cannot be read out of the way, for whoever wants to see what became of it.
pub(super) fn set_aside(store: &DirectoryStore, job: &JobId) -> Result<PathBuf, StoreError> {
    let from = store.snapshot_path(job);
    let to = open(store)?.join(format!("{job}.{}.damaged", Timestamp::now().as_millis()));
    fs::rename(&from, &to).map_err(StoreError::io("set aside", &from))?;
    durable::sync_directory(&to)?;
    durable::sync_directory(&from)?;
    Ok(to)
}

/// The archive's directory; made when it is missing.
fn open(store: &DirectoryStore) -> Result<PathBuf, StoreError> {
    let archive = store.archive_path();
    let made = match fs::DirBuilder::new().mode(0o700).create(&archive) {
        // Not through a link: what it leads to was not looked at.
        Err(e)
            if e.kind() == io::ErrorKind::AlreadyExists
                && fs::symlink_metadata(&archive).is_ok_and(|about| about.is_dir()) =>
        {
            Ok(())
        }
        made => made,
    };
    made.map_err(StoreError::io("create the directory", &archive))?;
    Ok(archive)
}

/// Removes what is too old or too much. Failures are logged, not returned: the job itself is done.
pub(super) fn prune(archive: &Path, retention: Retention) {
    let mark = archive.join(".pruned");
    let recently = fs::metadata(&mark)
        .and_then(|m| m.modified())
        .is_ok_and(|at| at.elapsed().unwrap_or_default() < PRUNE_EVERY);
    if recently {
        return;
    }
    let pruned = private_file::create_new(&mark)
        .map_err(StoreError::io("prune", archive))
        .and_then(|_| prune_now(archive, retention, false));
    if let Err(e) = pruned {
        tracing::warn!("the archive {} was not pruned: {e}", archive.display());
    }
}

/// What pruning did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Finished jobs that are kept.
    pub kept: usize,
    /// Finished jobs that are removed.
    pub removed: usize,
}

/// Removes what is too old or too much, and tells the index; with `dry_run`, only counts.
pub(super) fn prune_now(
    archive: &Path,
    retention: Retention,
    dry_run: bool,
) -> Result<Pruned, StoreError> {
    let mut jobs = list(archive).map_err(StoreError::io("list the directory", archive))?;
    jobs.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    let (mut kept, mut removed) = (HashSet::new(), 0);
    for (rank, (modified, path)) in jobs.iter().enumerate() {
        if rank < retention.count && modified.elapsed().unwrap_or_default() <= retention.age {
            kept.extend(path.file_name());
            continue;
        }
        if !dry_run {
            durable::remove(path)?;
        }
        removed += 1;
    }
    if !dry_run {
        index::compact(archive, &kept)?;
    }
    Ok(Pruned { kept: kept.len(), removed })
}

/// The finished jobs, and when they ended.
fn list(archive: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let entries = match fs::read_dir(archive) {
        Ok(entries) => entries,
        // No job has ended yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut jobs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "ron" && e != "damaged") {
            continue;
        }
        // Another process may prune too: a file that is gone is no error.
        if let Ok(modified) = fs::metadata(&path).and_then(|m| m.modified()) {
            jobs.push((modified, path));
        }
    }
    Ok(jobs)
}
