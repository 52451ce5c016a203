//! A job's key: the private half in the metadata directory, the public one in the task.

use std::{io::Write as _, path::Path};

use states::{DirectoryStore, Header, PUBLIC_KEY_VARIABLE, private_file};
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

/// Makes the job's key if its transport logs in, and puts the public half into its launch.
pub(crate) fn make(store: &DirectoryStore, header: &mut Header) -> Result<(), JobKeyError> {
    if header.login.is_none() {
        return Ok(());
    }
    let pair = key::generate()?;
    let path = store.key_path(&header.id);
    write(&path, &pair.private)
        .map_err(|source| JobKeyError::Write { path: path.display().to_string(), source })?;
    add_public(header, pair.public);
    Ok(())
}

/// Puts the public half of the job's key into its launch.
pub(super) fn add_public(header: &mut Header, public: String) {
    header.spec.environment.push((PUBLIC_KEY_VARIABLE.to_owned(), public));
}

/// A killed attempt may have left its key: a new file replaces it.
fn write(path: &Path, private: &str) -> std::io::Result<()> {
    let mut file = private_file::create_new(path)?;
    file.write_all(private.as_bytes())?;
    file.sync_data()
}
