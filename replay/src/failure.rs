//! Why a command failed.

use std::io;

use states::StoreError;

use crate::{location::LocationError, page::PageError};

/// Why a command could not do what it was asked. The exit code is 1; clap's own, for bad usage, is
/// 2.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such job or directory.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The directory or a snapshot cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A page cannot be written.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Anything else, in a sentence for people.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Whether this user lacks a permission that another user may have.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let (Self::Store(StoreError::Io { source, .. })
        | Self::Location(
            LocationError::Store(StoreError::Io { source, .. })
            | LocationError::Unreadable { source, .. },
        )) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::PermissionDenied
    }
}
