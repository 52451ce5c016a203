//! Errors of a store.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::Exposed;
use crate::{BadSnapshot, JobId};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works on the job.
    #[error(
        "job {job} is being worked on by {holder}. Wait until it is done, or end that process."
    )]
    Busy {
        /// The job.
        job: JobId,
        /// What the lock file says of the holder.
        holder: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not a snapshot that this version can use.
    #[error(
        "the snapshot {} cannot be used: {why}. Nothing was changed. Move the file away to give the job up; its task, if any, carries the tag fargate-driver:job={job}",
        path.display()
    )]
    Bad {
        /// The file.
        path: PathBuf,
        /// The job.
        job: JobId,
        /// The problem.
        why: BadSnapshot,
    },
    /// Other users could change the directory's content.
    #[error("the metadata directory {} is not safe from other users: {exposed}. Nothing was touched.", directory.display())]
    Exposed {
        /// The directory.
        directory: PathBuf,
        /// What gives them access.
        exposed: Exposed,
    },
    /// The snapshot's file name and content do not match.
    #[error("the snapshot {} belongs to another job: {found}. Nothing was changed.", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The job that it belongs to.
        found: JobId,
    },
}

/// The most likely cause of an error, if it is the directory's.
fn hint(refusal: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    match refusal.kind() {
        // A file that is in the directory's place already exists.
        AlreadyExists | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
            ". Is Directory in [TaskMetadata] of fargate.toml a directory in which the driver's user can make files?"
        }
        _ => "",
    }
}

impl StoreError {
    pub(super) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn the_directory_is_doubted_only_where_it_may_be_wrong() {
        let said = |errno: Errno| {
            StoreError::io("open the lock", Path::new("/m/job.lock"))(errno.into()).to_string()
        };
        for wrong in [Errno::ACCESS, Errno::ROFS, Errno::NOENT, Errno::NOTDIR, Errno::EXIST] {
            assert!(said(wrong).contains("Is Directory in [TaskMetadata]"), "{}", said(wrong));
        }
        for other in [Errno::MFILE, Errno::NOSPC, Errno::DQUOT, Errno::IO] {
            assert!(!said(other).contains("Directory"), "{}", said(other));
        }
    }
}
