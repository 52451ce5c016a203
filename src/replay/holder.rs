//! Who works on a job, and what else the snapshot cannot know.
//!
//! The lock is what tells: the operating system holds it for the process that took it and gives it
//! back when that process ends, however it ends. A process id alone would not do: it may be another
//! process's by now, and says nothing on another host. So ids are only named, never believed.

use std::{fs::TryLockError, io::Read as _, path::Path};

pub use ::diagnosis::{Holder, Surroundings};
use states::{Snapshot, private_file};

use crate::{config::Config, control::MANAGER_TAG, stages::launch};

/// What is known of a snapshot alone: nothing around it.
#[must_use]
pub fn unknown(snapshot: &Snapshot) -> Surroundings {
    Surroundings {
        holder: Holder::Elsewhere(manager(snapshot).unwrap_or("its runner manager").to_owned()),
        free: None,
        handed_on: None,
    }
}

/// Looks around a snapshot's file. The configuration says which runner manager this is; without
/// one, the host's name does.
#[must_use]
pub fn look_around(path: &Path, snapshot: &Snapshot, config: Option<&Config>) -> Surroundings {
    let lock = path.with_extension("lock");
    let here = manager(snapshot)
        .is_none_or(|manager| manager == config.map_or_else(launch::host, launch::manager));
    let Ok(mut file) = private_file::open(&lock) else { return unknown(snapshot) };
    let mut words = String::new();
    // They are for people: without them the lock tells as much.
    let _ = (&mut file).take(200).read_to_string(&mut words);
    let words = words.trim().to_owned();
    // Shared, and given back at once: a driver that wants the lock in this moment asks again.
    let holder = match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            Holder::Working(if words.is_empty() { "another process".to_owned() } else { words })
        }
        // A copied lock is nobody's, and says nothing.
        Ok(()) if !here => return unknown(snapshot),
        Ok(()) => Holder::NoProcess((!words.is_empty()).then_some(words)),
        Err(TryLockError::Error(_)) => return unknown(snapshot),
    };
    let free =
        rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    Surroundings { holder, free, handed_on: None }
}

/// The runner manager that launched the job's task.
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
