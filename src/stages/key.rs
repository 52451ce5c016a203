//! A job's key: the private half in the metadata directory, the public one in the task.

use std::{io::Write as _, path::Path};

use states::{DirectoryStore, JobId, private_file};
use transports::ssh::key;

/// Why a job has no key.
#[derive(Debug, thiserror::Error)]
pub enum JobKeyError {
    /// It cannot be made.
    #[error(transparent)]
    Pair(#[from] key::KeyError),
    /// It cannot be written.
    #[error("the job's key {path} cannot be written: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes the job's key. Returns its public half.
pub(crate) fn make(store: &DirectoryStore, job: &JobId) -> Result<String, JobKeyError> {
    let pair = key::generate()?;
    let path = store.key_path(job);
    write(&path, &pair.private)
        .map_err(|source| JobKeyError::Write { path: path.display().to_string(), source })?;
    Ok(pair.public)
}

/// A killed attempt may have left its key: a new file replaces it.
fn write(path: &Path, private: &str) -> std::io::Result<()> {
    let mut file = private_file::create_new(path)?;
    file.write_all(private.as_bytes())?;
    file.sync_data()
}
