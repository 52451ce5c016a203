//! A snapshot store in memory, which keeps texts: what a next process reads is what was serialized.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use states::{JobId, RunId, Snapshot, SnapshotStore, StoreError};

use crate::cloud::Cloud;

/// What is on disk.
#[derive(Default)]
pub struct Shelf {
    pub snapshots: Mutex<HashMap<JobId, String>>,
    pub archived: Mutex<Vec<Snapshot>>,
    marks: Mutex<HashMap<JobId, (RunId, u64)>>,
    leased: Mutex<HashSet<JobId>>,
}

/// The store of one process.
#[derive(Clone)]
pub struct Store {
    pub shelf: Arc<Shelf>,
    pub cloud: Arc<Cloud>,
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
        if self.cloud.fuse.dies() {
            return Err(StoreError::Io { what: "go on", path: PathBuf::new(), source: io::Error::other("the process died") });
        }
        Ok(())
    }
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
        Ok(self.shelf.snapshots.lock().unwrap().get(job).map(|text| Snapshot::parse(text).unwrap()))
    }

    fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.step()?;
        let job = snapshot.job.header().id.clone();
        self.shelf.snapshots.lock().unwrap().insert(job, snapshot.to_ron().unwrap());
        self.step()
    }

    fn mark(&self, lease: &Lease, run: &RunId, offset: u64) -> Result<(), StoreError> {
        self.step()?;
        self.shelf.marks.lock().unwrap().insert(lease.job.clone(), (run.clone(), offset));
        self.step()
    }

    fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        self.shelf.marks.lock().unwrap().get(job).filter(|(marked, _)| marked == run).map(|(_, offset)| *offset)
    }

    fn archive(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.step()?;
        self.shelf.snapshots.lock().unwrap().remove(&snapshot.job.header().id);
        self.shelf.archived.lock().unwrap().push(snapshot.clone());
        self.step()
    }
}
