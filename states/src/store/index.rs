//! The archive's index: a line per archived snapshot, with what tools show of all of them. They
//! need not parse every snapshot.
//!
//! It is only a cache. A line counts while the snapshot has the size and time that the line names.
//! A tool that finds no line for a snapshot reads the snapshot instead. So lines are appended
//! without a lock and without a sync, one write each. Each write begins with a line break, so that
//! a torn line before it does no harm.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{StoreError, durable};
use crate::private_file;

/// A line of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexLine<'a> {
    /// The snapshot's file name in the archive.
    pub name: &'a str,
    /// The version of that file that the line describes.
    pub stamp: FileStamp,
    /// The note of the process that archived it: one line.
    pub note: &'a str,
}

/// Identifies a version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since the epoch.
    pub modified: i64,
}

impl FileStamp {
    /// The file's current version.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
        }
    }
}

impl<'a> IndexLine<'a> {
    /// Parses a line; `None` if it is not valid, such as a torn one.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(4, '\t');
        let (name, size, modified, note) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            name,
            stamp: FileStamp { size: size.parse().ok()?, modified: modified.parse().ok()? },
            note,
        })
    }
}

/// The index's file.
pub(super) fn path(archive: &Path) -> PathBuf {
    archive.join("index")
}

/// Adds lines for archived snapshots. Skips a note with a line break in it: it would be two lines.
pub(super) fn append(archive: &Path, notes: &[(String, FileStamp, String)]) -> io::Result<()> {
    // One write for all of them, as other processes may append at the same time.
    let mut lines = String::new();
    for (name, FileStamp { size, modified }, note) in notes {
        if !note.contains('\n') && !name.contains(['\t', '\n']) {
            lines.push_str(&format!("\n{name}\t{size}\t{modified}\t{note}\n"));
        }
    }
    private_file::append(&path(archive), lines.as_bytes())
}

/// Drops the lines of snapshots that are gone, once they are many. A line that another process
/// appends meanwhile may be lost: the snapshot is read instead.
pub(super) fn compact(archive: &Path, kept: &HashSet<&OsStr>) -> Result<(), StoreError> {
    let path = path(archive);
    let mut text = String::new();
    match private_file::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(());
        }
        Err(e) => return Err(StoreError::io("read", &path)(e)),
    }
    let lines = || text.lines().filter(|line| !line.is_empty());
    let lives = |line: &&str| {
        IndexLine::parse(line).is_some_and(|line| kept.contains(OsStr::new(line.name)))
    };
    if lines().filter(lives).count() * 2 > lines().count() {
        return Ok(());
    }
    let live: String = lines().filter(lives).flat_map(|line| ["\n", line, "\n"]).collect();
    durable::write(&path, live.as_bytes())
}
