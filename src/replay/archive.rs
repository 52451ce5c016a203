//! The archive, read quickly: by its index where that is right, by its snapshots where it is not.
//! See `docs/decisions/0020-an-index-of-the-archive.md`.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    num::NonZero,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use states::{DirectoryStore, FileStamp, IndexLine, StoreError, private_file};

use super::{Failure, place, summary::Summary};

/// Snapshots that are read before their lines are added to the index: what is lost when that is
/// interrupted.
const BATCH: usize = 4096;

/// More of a line is read as a line of its own, which fits no snapshot, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// What was seen of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Jobs that the index told of.
    pub indexed: usize,
    /// Jobs whose snapshots had to be read.
    pub read: usize,
    /// Files that are no snapshots that this version can use.
    pub unusable: usize,
}

/// Visits every finished job once, in no particular order. What the index lacks is read from the
/// snapshots and, where the index can be written, added to it. Memory: some hundred bytes for each
/// archived file's name.
///
/// # Errors
/// When the archive cannot be read. Files that are no snapshots are counted.
pub fn visit(
    store: &DirectoryStore,
    mut visit: impl FnMut(&str, &Summary<'_>),
) -> Result<Seen, Failure> {
    let archive = store.archive_path();
    let mut files = stamps(&archive)?;
    let mut seen = Seen::default();
    for_each_line(&store.index_path(), |line| {
        let Some(line) = IndexLine::parse(line) else { return };
        if files.get(line.name) != Some(&line.stamp) {
            return;
        }
        if let Some(summary) = Summary::parse(line.note) {
            files.remove(line.name);
            seen.indexed += 1;
            visit(line.name, &summary);
        }
    })
    .map_err(|source| StoreError::Io { what: "read", path: store.index_path(), source })?;
    let missing: Vec<(String, FileStamp)> = files.into_iter().collect();
    for batch in missing.chunks(BATCH) {
        let notes = read_all(&archive, batch);
        seen.read += notes.len();
        seen.unusable += batch.len() - notes.len();
        for (name, _, note) in &notes {
            if let Some(summary) = Summary::parse(note) {
                visit(name, &summary);
            }
        }
        // A copy, or somebody else's directory: the next one reads the snapshots again.
        if let Err(e) = store.note(&notes) {
            tracing::debug!("the index was not written: {e}");
        }
    }
    Ok(seen)
}

/// The archived snapshots with their versions.
fn stamps(archive: &Path) -> Result<HashMap<String, FileStamp>, StoreError> {
    let fail =
        |source| StoreError::Io { what: "list the directory", path: archive.to_owned(), source };
    let entries = match fs::read_dir(archive) {
        Ok(entries) => entries,
        // No job has ended yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut files = HashMap::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.ends_with(".ron") {
            continue;
        }
        // One that is pruned at this moment is not there.
        if let Ok(metadata) = entry.metadata() {
            files.insert(name, FileStamp::of(&metadata));
        }
    }
    Ok(files)
}

/// Every line of the index, read with one buffer. One that is not UTF-8 is none.
fn for_each_line(path: &Path, mut each: impl FnMut(&str)) -> io::Result<()> {
    let file = match private_file::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut lines = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    while lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? > 0 {
        if let Ok(text) = std::str::from_utf8(&line) {
            each(text.trim_end_matches('\n'));
        }
        line.clear();
    }
    Ok(())
}

/// Reads and sums up snapshots, on all processors.
fn read_all(archive: &Path, files: &[(String, FileStamp)]) -> Vec<(String, FileStamp, String)> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let notes = Mutex::new(Vec::with_capacity(files.len()));
    thread::scope(|scope| {
        for part in files.chunks(files.len().div_ceil(threads).max(1)) {
            scope.spawn(|| {
                let read = |name: &String| {
                    place::read(&archive.join(name)).ok().map(|snapshot| Summary::note(&snapshot))
                };
                let part: Vec<_> = part
                    .iter()
                    .filter_map(|(name, stamp)| Some((name.clone(), *stamp, read(name)?)))
                    .collect();
                // A poisoned lock would mean that a thread panicked, and the scope passes that on.
                notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(part);
            });
        }
    });
    notes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An archived snapshot's path.
#[must_use]
pub fn path(store: &DirectoryStore, name: &str) -> PathBuf {
    store.archive_path().join(name)
}
