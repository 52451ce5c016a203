//! The process that works on a job, and what else the snapshot cannot say.
//!
//! The job's lock decides. The operating system holds it for the process that took it, and releases
//! it when that process ends, however it ends. A process id alone would not do: another process may
//! have it by now, and it says nothing on another host. So ids are only shown.

use std::{fs::TryLockError, io::Read as _, path::Path};

use diagnosis::{Holder, Surroundings};
use states::{Snapshot, private_file, task_tags::MANAGER_TAG};

/// The surroundings of a snapshot that does not lie where its driver works: a copy, or an archived
/// one.
#[must_use]
pub fn elsewhere(snapshot: &Snapshot) -> Surroundings {
    Surroundings {
        holder: Holder::Elsewhere(manager(snapshot).unwrap_or("its runner manager").to_owned()),
        free: None,
        handed_on: None,
    }
}

/// Examines the lock and the disk beside a snapshot's file. `here` is this runner manager's name.
#[must_use]
pub fn examine(path: &Path, snapshot: &Snapshot, here: &str) -> Surroundings {
    let lock = path.with_extension("lock");
    let is_here = manager(snapshot).is_none_or(|manager| manager == here);
    let Ok(mut file) = private_file::open(&lock) else { return elsewhere(snapshot) };
    let mut description = String::new();
    // It is for people: without it, the lock still says whether a process works on the job.
    let _ = (&mut file).take(200).read_to_string(&mut description);
    let description = description.trim().to_owned();
    // Shared, and released at once: a driver that wants the lock at this moment tries again.
    let holder = match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Holder::Working(if description.is_empty() {
            "another process".to_owned()
        } else {
            description
        }),
        // No process locks a copied lock file, so it says nothing.
        Ok(()) if !is_here => return elsewhere(snapshot),
        Ok(()) => Holder::NoProcess((!description.is_empty()).then_some(description)),
        Err(TryLockError::Error(_)) => return elsewhere(snapshot),
    };
    let free =
        rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    Surroundings { holder, free, handed_on: None }
}

/// Returns the name of the runner manager that launched the job's task.
#[must_use]
pub fn manager(snapshot: &Snapshot) -> Option<&str> {
    snapshot
        .job
        .header()
        .spec
        .tags
        .iter()
        .find(|(key, _)| key == MANAGER_TAG)
        .map(|(_, value)| value.as_str())
}
