//! The archive of finished jobs.

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
    /// How long a snapshot is kept.
    pub age: Duration,
    /// How many snapshots are kept at most: the newest ones.
    pub count: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(30 * 24 * 60 * 60), count: 20_000 }
    }
}

/// How often the archive is pruned. Reading a large directory at every job's end would be wasteful.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);

pub(super) fn keep(store: &DirectoryStore, header: &Header) -> Result<PathBuf, StoreError> {
    let archive = open(store)?;
    let from = store.snapshot_path(&header.id);
    // A retried job has the same id, so the name includes when the attempt began.
    let to = archive.join(format!("{}.{}.ron", header.id, header.created.as_millis()));
    fs::rename(&from, &to).map_err(StoreError::io("archive", &from))?;
    durable::sync_directory(&to)?;
    durable::sync_directory(&from)?;
    Ok(to)
}

/// Moves a snapshot that cannot be read to the archive, where people can look at it.
pub(super) fn set_aside(store: &DirectoryStore, job: &JobId) -> Result<PathBuf, StoreError> {
    let from = store.snapshot_path(job);
    let to = open(store)?.join(format!("{job}.{}.damaged", Timestamp::now().as_millis()));
    fs::rename(&from, &to).map_err(StoreError::io("set aside", &from))?;
    durable::sync_directory(&to)?;
    durable::sync_directory(&from)?;
    Ok(to)
}

/// Returns the archive's directory. Creates it if it is missing.
fn open(store: &DirectoryStore) -> Result<PathBuf, StoreError> {
    let archive = store.archive_path();
    let made = match fs::DirBuilder::new().mode(0o700).create(&archive) {
        // Do not follow a link: its target was not checked.
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

/// Removes snapshots that are too old or too many. Failures are only logged, as the job itself is
/// over.
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

/// How many jobs pruning keeps and removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Finished jobs that it keeps.
    pub kept: usize,
    /// Finished jobs that it removes.
    pub removed: usize,
}

/// Removes snapshots that are too old or too many, and their lines in the index. With `dry_run`,
/// only counts them.
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

/// Lists the finished jobs with the times at which they ended.
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
        // Another process may prune at the same time, so a missing file is no error.
        if let Ok(modified) = fs::metadata(&path).and_then(|m| m.modified()) {
            jobs.push((modified, path));
        }
    }
    Ok(jobs)
}
