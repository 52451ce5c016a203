//! Marks: how far a run's output has been handed on. One line of fixed length, overwritten in
//! place.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{DirectoryLease, StoreError};
use crate::{RunId, private_file};

/// A limit above the length of a mark, in bytes.
const LONGEST: u64 = 256;

/// `<run id, padded to its greatest length> <offset, padded>\n`: one write that is whole or not
/// there.
fn line(run: &RunId, offset: u64) -> String {
    format!("{:<64} {offset:020}\n", run.as_str())
}

pub(super) fn write(lease: &DirectoryLease, run: &RunId, offset: u64) -> Result<(), StoreError> {
    let path = lease.marks_path();
    let fail = |e| StoreError::io("note the offset in", &path)(e);
    let file = match lease.marks.get() {
        Some(file) => file,
        None => {
            let file = private_file::open_or_create(&path).map_err(fail)?;
            lease.marks.get_or_init(|| file)
        }
    };
    file.write_all_at(line(run, offset).as_bytes(), 0).map_err(fail)
}

/// Returns the mark, if there is one of this run. Other content is ignored.
pub(super) fn read(path: &Path, run: &RunId) -> Option<u64> {
    let text = String::from_utf8(private_file::read_up_to(path, LONGEST).ok()?).ok()?;
    let (marked, offset) = text.trim_end().split_once(' ')?;
    (marked == run.as_str()).then(|| offset.trim().parse().ok()).flatten()
}

/// A job's mark, for the process that writes the output while another one holds the lease.
#[derive(Debug)]
pub struct OutputMark {
    path: PathBuf,
    file: Option<File>,
}

impl OutputMark {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Marks how far the run's output was written: as [`SnapshotStore::mark`].
    ///
    /// # Errors
    /// When it cannot be written.
    ///
    /// [`SnapshotStore::mark`]: crate::SnapshotStore::mark
    pub fn write(&mut self, run: &RunId, offset: u64) -> Result<(), StoreError> {
        let fail = |e| StoreError::io("note the offset in", &self.path)(e);
        let file = match self.file.take() {
            Some(file) => file,
            None => private_file::open_or_create(&self.path).map_err(fail)?,
        };
        file.write_all_at(line(run, offset).as_bytes(), 0).map_err(fail)?;
        self.file = Some(file);
        Ok(())
    }
}
