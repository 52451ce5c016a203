//! The snapshots that this process saved last. A service works on a job again and again, and need
//! not parse what it wrote itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{JobId, Snapshot};

/// How many snapshots are kept. One of a long job takes some 200 KB of memory.
const MOST: usize = 64;

/// Shared by all clones of a store. Until it is enabled, nothing is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(Arc<OnceLock<Mutex<VecDeque<Saved>>>>);

#[derive(Debug)]
struct Saved {
    snapshot: Snapshot,
    /// What was written. It shows whether the file is still the same.
    text: String,
}

impl Recent {
    pub(super) fn enable(&self) {
        self.0.get_or_init(Mutex::default);
    }

    fn with<R: Default>(&self, act: impl FnOnce(&mut VecDeque<Saved>) -> R) -> R {
        let Some(all) = self.0.get() else { return R::default() };
        // The list is consistent after every step.
        act(&mut all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a snapshot that was saved as `text`.
    pub(super) fn keep(&self, snapshot: Snapshot, text: String) {
        self.with(|all| {
            all.retain(|saved| saved.id() != &snapshot.job.header().id);
            all.truncate(MOST - 1);
            all.push_front(Saved { snapshot, text });
        });
    }

    /// Returns the job's snapshot, if it was saved as `text`.
    pub(super) fn of(&self, job: &JobId, text: &[u8]) -> Option<Snapshot> {
        self.with(|all| {
            let saved = all.iter().find(|saved| saved.id() == job)?;
            (saved.text.as_bytes() == text).then(|| saved.snapshot.clone())
        })
    }

    /// Forgets the snapshot of a job that is archived.
    pub(super) fn forget(&self, job: &JobId) {
        self.with(|all| all.retain(|saved| saved.id() != job));
    }
}

impl Saved {
    fn id(&self) -> &JobId {
        &self.snapshot.job.header().id
    }
}
