//! Durable files: a reader sees the old or the new one, even after a power cut.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use super::StoreError;
use crate::private_file;

/// Replaces the file, with mode 0600: writes a temporary file, syncs it, renames it over the old
/// one, and syncs the directory.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let beside = path.with_extension("tmp");
    let result = write_new(&beside, content).and_then(|()| fs::rename(&beside, path));
    if let Err(e) = result {
        // The temporary file cannot be used. The first error is the one that counts.
        let _ = fs::remove_file(&beside);
        return Err(StoreError::io("write", path)(e));
    }
    sync_directory(path)
}

/// Removes a file. A missing one is no error.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    private_file::remove(path).map_err(StoreError::io("remove", path))
}

/// Makes a rename or removal of `path` survive a power cut.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(StoreError::io("sync the directory of", path))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private_file::create_new(path)?;
    file.write_all(content)?;
    file.sync_data()
}
