//! Whether other users could put files into the directory, or another directory in its place.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::StoreError;

/// What gives other users access to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// It belongs to a user other than this process's and root.
    Owner {
        /// That user.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// Its group, or every user, may write to it.
    Writable {
        /// Its permissions.
        mode: u32,
    },
}

/// A directory that other users can change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The metadata directory itself, or one above it.
    pub part: PathBuf,
    /// The problem.
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

/// Refuses a directory that other users can write to. A snapshot of theirs could make the driver
/// stop another task, a link could make it overwrite a file, and a lock could block it.
///
/// The directories above it count too, both on the path as given and on the resolved one. A user
/// who can write to one of them can replace the next one. In a directory with the sticky bit
/// (`/tmp`), only owners can.
///
/// # Errors
/// [`StoreError::Exposed`] names the first such directory. Other errors: a directory cannot be
/// examined.
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
    // A link's own mode means nothing. What counts is who may write to the directories of the link
    // and of its target.
    let is_sticky = mode & STICKY != 0 && !is_itself;
    let is_writable = !about.file_type().is_symlink() && mode & OTHERS_WRITE != 0 && !is_sticky;
    Ok(is_writable.then_some(Exposure::Writable { mode }))
}
