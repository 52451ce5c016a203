//! Leases: one process at a time works on a job.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{StoreError, file_work::CountedLease};
use crate::{JobId, private_file};

/// The right to work on a job. The operating system releases it when the process ends for any
/// reason.
#[derive(Debug)]
pub struct DirectoryLease {
    lock: Arc<Lock>,
    /// Serializes file work under this lease.
    order: Arc<Mutex<()>>,
    /// Opened with the first mark: `prepare` and `cleanup` have no output.
    pub(super) marks: OnceLock<File>,
}

/// Held by file work until it is done: its turn, and the job's lock.
pub(super) type Turn = (OwnedMutexGuard<()>, Arc<Lock>);

/// A job's lock.
#[derive(Debug)]
pub(super) struct Lock {
    _locked: File,
    path: PathBuf,
    _counted: CountedLease,
}

impl DirectoryLease {
    /// The file of marks: `<job>.offset`.
    pub(super) fn marks_path(&self) -> PathBuf {
        self.lock.path.with_extension("offset")
    }

    /// Waits for earlier file work under this lease.
    pub(super) async fn turn(&self) -> Turn {
        (Arc::clone(&self.order).lock_owned().await, Arc::clone(&self.lock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock without a snapshot would stay here for ever. It is still held while its file is
        // removed, and a process that waits for it notices that the file is not the current one any
        // more.
        if !self.path.with_extension("ron").exists() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock, if no process has it.
pub(super) fn try_take(
    path: &Path,
    job: &JobId,
    purpose: &str,
    counted: CountedLease,
) -> Result<DirectoryLease, StoreError> {
    loop {
        let mut file =
            private_file::open_or_create(path).map_err(StoreError::io("open the lock", path))?;
        match file.try_lock() {
            Ok(()) if is_current(&file, path) => {
                // Only for people: a process holds the lock even if it cannot write its name.
                let _ = sign(&mut file, purpose);
                let lock = Lock { _locked: file, path: path.to_owned(), _counted: counted };
                return Ok(DirectoryLease {
                    lock: Arc::new(lock),
                    order: Arc::default(),
                    marks: OnceLock::new(),
                });
            }
            // The file was removed meanwhile: this lock is on a file that no other process sees.
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&file).take(200).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() {
                    "another process".to_owned()
                } else {
                    holder.trim().to_owned()
                };
                return Err(StoreError::Busy { job: job.clone(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", path)(e)),
        }
    }
}

fn is_current(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

fn sign(file: &mut File, purpose: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {} ({purpose})", std::process::id())
}
