//! Whether anybody else could put files into the directory, or another directory in its place.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::StoreError;

/// What lets others at a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// It belongs to another user than this process's, and not to root.
    Owner {
        /// That user.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// Its group, or everybody, may write to it.
    Writable {
        /// Its permissions.
        mode: u32,
    },
}

/// The directory itself, or one above it, and what lets others at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The directory that is meant.
    pub part: PathBuf,
    /// What is wrong with it.
    pub exposure: Exposure,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = self.part.display();
        match self.exposure {
            Exposure::Owner { owner, user } => write!(
                f,
                "{part} belongs to the user with id {owner}, and this process runs as {user}. Run it as that user, or give the directory to this one: chown -h {user} {part}"
            ),
            Exposure::Writable { mode } => {
                write!(
                    f,
                    "other users may write to {part} (its mode is {mode:04o}). Take that from them: chmod go-w {part}"
                )
            }
        }
    }
}

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Refuses a directory into which others may put files: they could leave a snapshot that has the
/// driver stop another task, a link that has it overwrite a file, or a lock that it waits for.
///
/// The directories above it count too, on the way that `directory` names and on the one it leads
/// to: who may write to one of them may put another directory in the place of the next. In one with
/// the sticky bit (`/tmp`), only owners may.
///
/// # Errors
/// [`StoreError::Exposed`] names the first such directory; others when one cannot be looked at.
pub(super) fn refuse(directory: &Path) -> Result<(), StoreError> {
    let named = std::path::absolute(directory).map_err(StoreError::io("look at", directory))?;
    let resolved = fs::canonicalize(directory).map_err(StoreError::io("look at", directory))?;
    let user = rustix::process::geteuid().as_raw();
    for part in resolved.ancestors().chain(named.ancestors()) {
        let exposure =
            look(part, part == resolved, user).map_err(StoreError::io("look at", part))?;
        if let Some(exposure) = exposure {
            return Err(StoreError::Exposed {
                directory: directory.to_owned(),
                exposed: Exposed { part: part.to_owned(), exposure },
            });
        }
    }
    Ok(())
}

fn look(part: &Path, is_itself: bool, user: u32) -> io::Result<Option<Exposure>> {
    let about = fs::symlink_metadata(part)?;
    let (owner, mode) = (about.uid(), about.mode() & 0o7777);
    if owner != user && owner != 0 {
        return Ok(Some(Exposure::Owner { owner, user }));
    }
    // A link's own mode says nothing: what counts is who may write where it lies, and where it
    // leads.
    let is_sticky = mode & STICKY != 0 && !is_itself;
    let is_writable = !about.file_type().is_symlink() && mode & OTHERS_WRITE != 0 && !is_sticky;
    Ok(is_writable.then_some(Exposure::Writable { mode }))
}
