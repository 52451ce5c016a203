//! The archive's index: a line per archived snapshot with what somebody wants to know of all of
//! them, so that nobody has to parse them all.
//!
//! It is a help and no record: a line counts only while the snapshot has the size and time that the
//! line names, whoever finds a snapshot without a line reads the snapshot, and a lost or torn line
//! costs that much. So it is appended to without a lock and without being synced: one write each,
//! and each begins with a line break, so that a torn line before it spoils nothing.

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
    /// Which of the versions of that file it speaks of.
    pub stamp: FileStamp,
    /// What whoever archived it noted: one line.
    pub note: &'a str,
}

/// Tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since the epoch.
    pub modified: i64,
}

impl FileStamp {
    /// The file's present version.
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
    /// Reads a line; `None` when it is none, for instance a torn one.
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

/// Adds lines for snapshots in the archive. A note with a line break in it is left out: it would be
/// two.
pub(super) fn append(archive: &Path, notes: &[(String, FileStamp, String)]) -> io::Result<()> {
    // One write for all of them: others may append at the same time.
    let mut lines = String::new();
    for (name, FileStamp { size, modified }, note) in notes {
        if !note.contains('\n') && !name.contains(['\t', '\n']) {
            lines.push_str(&format!("\n{name}\t{size}\t{modified}\t{note}\n"));
        }
    }
    private_file::append(&path(archive), lines.as_bytes())
}

/// Drops the lines of snapshots that are gone, when they have become many. A line that somebody
/// appends meanwhile may get lost: whoever misses it reads the snapshot.
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
