//! A snapshot store in memory. What a next process reads goes through its text every fourth time:
//! that takes longer than all the rest of a job.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use states::{AnyJob, EndingJob, JobId, RunId, Snapshot, SnapshotStore, StoreError};

use super::{cloud::Cloud, fuse::Fuse, weather::Fault};

/// What is on disk.
#[derive(Default)]
pub struct Shelf {
    pub snapshots: Mutex<HashMap<JobId, Snapshot>>,
    reads: AtomicU32,
    /// Saves of what lay there already.
    pub saved_again: AtomicU32,
    pub archived: Mutex<Vec<Snapshot>>,
    marks: Mutex<HashMap<JobId, (RunId, u64)>>,
    ending: Mutex<BTreeMap<JobId, EndingJob>>,
    leased: Mutex<HashSet<JobId>>,
}

/// A snapshot as it comes back from its text.
fn read(snapshot: &Snapshot) -> Snapshot {
    let read = Snapshot::parse(&snapshot.to_ron().unwrap()).unwrap();
    assert_eq!(read, *snapshot, "a snapshot does not survive the disk");
    read
}

/// The store of one process.
#[derive(Clone)]
pub struct Store {
    pub shelf: Arc<Shelf>,
    pub cloud: Arc<Cloud>,
    pub fuse: Arc<Fuse>,
}

pub struct Lease {
    shelf: Arc<Shelf>,
    job: JobId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shelf.leased.lock().unwrap().remove(&self.job);
    }
}

impl Store {
    fn step(&self) -> Result<(), StoreError> {
        if self.fuse.dies() {
            return Err(refused("go on", "the process died"));
        }
        Ok(())
    }

    /// The disk refuses now and then.
    fn disk(
        &self,
        share: impl Fn(&super::weather::Odds) -> f64,
        fault: Fault,
    ) -> Result<(), StoreError> {
        let mut state = self.cloud.state.lock().unwrap();
        let share = share(&state.weather.odds);
        if state.weather.strikes(share, fault) {
            Err(refused("write", "no space left on device"))
        } else {
            Ok(())
        }
    }
}

fn refused(what: &'static str, why: &str) -> StoreError {
    StoreError::Io { what, path: PathBuf::new(), source: io::Error::other(why.to_owned()) }
}

impl SnapshotStore for Store {
    type Lease = Lease;

    fn lease(&self, job: &JobId, _: &str, _: Duration) -> Result<Lease, StoreError> {
        if !self.shelf.leased.lock().unwrap().insert(job.clone()) {
            return Err(StoreError::Busy { job: job.clone(), holder: "a test".into() });
        }
        Ok(Lease { shelf: Arc::clone(&self.shelf), job: job.clone() })
    }

    fn load(&self, job: &JobId) -> Result<Option<Snapshot>, StoreError> {
        let through_text = self.shelf.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(4);
        let snapshots = self.shelf.snapshots.lock().unwrap();
        Ok(snapshots
            .get(job)
            .map(|snapshot| if through_text { read(snapshot) } else { snapshot.clone() }))
    }

    fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.step()?;
        self.disk(|odds| odds.unsaved, Fault::Unsaved)?;
        let job = snapshot.job.header().id.clone();
        let before = self.shelf.snapshots.lock().unwrap().insert(job, snapshot.clone());
        self.shelf
            .saved_again
            .fetch_add(u32::from(before.as_ref() == Some(snapshot)), Ordering::Relaxed);
        self.disk(|odds| odds.saved_yet_failed, Fault::SavedYetFailed)?;
        self.step()
    }

    fn mark(&self, lease: &Lease, run: &RunId, offset: u64) -> Result<(), StoreError> {
        self.step()?;
        self.disk(|odds| odds.unmarked, Fault::Unmarked)?;
        self.shelf.marks.lock().unwrap().insert(lease.job.clone(), (run.clone(), offset));
        self.step()
    }

    fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        self.shelf
            .marks
            .lock()
            .unwrap()
            .get(job)
            .filter(|(marked, _)| marked == run)
            .map(|(_, offset)| *offset)
    }

    fn note_ending(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.step()?;
        let AnyJob::Stopping(job) = &snapshot.job else { return Ok(()) };
        let (id, tasks) = (job.header.id.clone(), job.state.tasks().cloned().collect());
        let noted = EndingJob { job: id.clone(), cluster: job.header.spec.cluster.clone(), tasks };
        self.shelf.ending.lock().unwrap().insert(id, noted);
        self.step()
    }

    fn ending_jobs(&self, most: usize) -> Vec<EndingJob> {
        self.shelf.ending.lock().unwrap().values().take(most).cloned().collect()
    }

    fn forget_ending(&self, job: &JobId) {
        self.shelf.ending.lock().unwrap().remove(job);
    }

    fn archive(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.step()?;
        self.disk(|odds| odds.unarchived, Fault::Unarchived)?;
        // As on disk, it is saved on its way.
        let before = self.shelf.snapshots.lock().unwrap().remove(&snapshot.job.header().id);
        self.shelf
            .saved_again
            .fetch_add(u32::from(before.as_ref() == Some(snapshot)), Ordering::Relaxed);
        self.forget_ending(&snapshot.job.header().id);
        self.shelf.archived.lock().unwrap().push(snapshot.clone());
        self.step()
    }
}
