//! Who works on a job, and what else the snapshot cannot know.
//!
//! The lock is what tells: the operating system holds it for the process that took it and gives it
//! back when that process ends, however it ends. A process id alone would not do: it may be another
//! process's by now, and says nothing on another host. So ids are only named, never believed.

use std::{fs::TryLockError, io::Read as _, path::Path};

use states::{AnyJob, Snapshot, private_file};

use crate::{config::Config, control::MANAGER_TAG, stages::launch};

/// Who works on a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process holds the job's lock; the lock's own words for it, `process 17 (run
    /// build_script)`.
    Working(String),
    /// Nobody holds it. The words that the last holder left, if any.
    Nobody(Option<String>),
    /// The file is not where its driver works: on another host than the named runner manager, or a
    /// copy.
    Elsewhere(String),
}

/// What is known beside the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Who works on the job.
    pub holder: Holder,
    /// Bytes that can still be written where the snapshot lies, if the job lives here.
    pub free: Option<u64>,
    /// Bytes of the running script's output that are known to have been handed on, if the job
    /// lives here. The snapshot notes them once a second.
    pub handed_on: Option<u64>,
}

impl Surroundings {
    /// Nothing is known but the snapshot.
    #[must_use]
    pub fn unknown(snapshot: &Snapshot) -> Self {
        Self {
            holder: Holder::Elsewhere(manager(snapshot).unwrap_or("its runner manager").to_owned()),
            free: None,
            handed_on: None,
        }
    }

    /// Looks around a snapshot's file. The configuration says which runner manager this is; without
    /// one, the host's name does.
    #[must_use]
    pub fn of(path: &Path, snapshot: &Snapshot, config: Option<&Config>) -> Self {
        let lock = path.with_extension("lock");
        let here = manager(snapshot)
            .is_none_or(|manager| manager == config.map_or_else(launch::host, launch::manager));
        let Ok(mut file) = private_file::open(&lock) else { return Self::unknown(snapshot) };
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
            Ok(()) if !here => return Self::unknown(snapshot),
            Ok(()) => Holder::Nobody((!words.is_empty()).then_some(words)),
            Err(TryLockError::Error(_)) => return Self::unknown(snapshot),
        };
        let free =
            rustix::fs::statvfs(path).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { holder, free, handed_on: None }
    }

    /// Whether the job lives here: its snapshot is neither archived nor a copy.
    #[must_use]
    pub fn is_here(&self) -> bool {
        !matches!(self.holder, Holder::Elsewhere(_))
    }

    /// Whether a process should be working on the job and none does.
    ///
    /// In `Reachable`, and while the end of a job is left to `cleanup`, nobody works between two
    /// stages.
    #[must_use]
    pub fn process_is_gone(&self, job: &AnyJob) -> bool {
        matches!(self.holder, Holder::Nobody(_))
            && matches!(
                job,
                AnyJob::Provisioning(_)
                    | AnyJob::Pending(_)
                    | AnyJob::Running(_)
                    | AnyJob::Executing(_)
            )
    }
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
