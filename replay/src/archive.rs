//! Reads the archive quickly: from its index where that is current, otherwise from its snapshots.
//! See `docs/decisions/0020-an-index-of-the-archive.md`.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    num::NonZero,
    path::Path,
    sync::Mutex,
    thread,
};

use states::{DirectoryStore, FileStamp, IndexLine, StoreError, private_file};

use crate::{Failure, location, summary::Summary};

/// Snapshots that are read before their lines are added to the index. If the command is
/// interrupted, it has read at most so many in vain.
const BATCH: usize = 4096;

/// The longest line of the index, in bytes. The rest of a longer one is read as another line, which
/// fits no snapshot.
const LONGEST_LINE: u64 = 64 * 1024;

/// How the jobs of an archive were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Jobs that the index described.
    pub indexed: usize,
    /// Jobs whose snapshots were read.
    pub read: usize,
    /// Files that this version cannot use as snapshots.
    pub unusable: usize,
}

/// Calls `each` once with the name and the summary of every finished job, in no particular order.
/// Jobs that the index does not have are read from their snapshots. They are added to the index
/// where this user can write it. Memory: some hundred bytes for each archived file's name.
///
/// # Errors
/// When the archive cannot be read. Files that are no snapshots are counted.
pub fn for_each(
    store: &DirectoryStore,
    mut each: impl FnMut(&str, &Summary<'_>),
) -> Result<Counts, Failure> {
    let archive = store.archive_path();
    let mut files = stamps(&archive)?;
    let mut counts = Counts::default();
    for_each_line(&store.index_path(), |line| {
        let Some(line) = IndexLine::parse(line) else { return };
        if files.get(line.name) != Some(&line.stamp) {
            return;
        }
        if let Some(summary) = Summary::parse(line.note) {
            files.remove(line.name);
            counts.indexed += 1;
            each(line.name, &summary);
        }
    })
    .map_err(|source| StoreError::Io { what: "read", path: store.index_path(), source })?;
    let missing: Vec<(String, FileStamp)> = files.into_iter().collect();
    for batch in missing.chunks(BATCH) {
        let notes = read_all(&archive, batch);
        counts.read += notes.len();
        counts.unusable += batch.len() - notes.len();
        for (name, _, note) in &notes {
            if let Some(summary) = Summary::parse(note) {
                each(name, &summary);
            }
        }
        // In a copy, or another user's directory: the next command reads the snapshots again.
        if let Err(e) = store.note(&notes) {
            tracing::debug!("the index was not written: {e}");
        }
    }
    Ok(counts)
}

/// Returns the names of the archived snapshots, with the stamps of their files.
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
        // A file that is pruned at this moment does not count.
        if let Ok(metadata) = entry.metadata() {
            files.insert(name, FileStamp::of(&metadata));
        }
    }
    Ok(files)
}

/// Calls `each` with every line of a file. Lines that are not UTF-8 are skipped.
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

/// Reads and summarises snapshots, on all processors.
fn read_all(archive: &Path, files: &[(String, FileStamp)]) -> Vec<(String, FileStamp, String)> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let notes = Mutex::new(Vec::with_capacity(files.len()));
    thread::scope(|scope| {
        for part in files.chunks(files.len().div_ceil(threads).max(1)) {
            scope.spawn(|| {
                let read = |name: &String| {
                    location::read(&archive.join(name))
                        .ok()
                        .map(|snapshot| Summary::note(&snapshot))
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
