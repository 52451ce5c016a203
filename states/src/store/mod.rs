//! Snapshots in a directory: a file per job, with its key and its lock beside it, and an archive.
//!
//! ```text
//! <directory>/<job>.ron     the snapshot            0600
//! <directory>/<job>.key     the job's private key   0600, removed when the job is archived
//! <directory>/<job>.lock    who works on the job    0600, an advisory lock
//! <directory>/<job>.session the ECS Exec session that is open, for the next process if this one is killed
//! <directory>/<job>.offset  how far a run's output was handed on; removed when the job is archived
//! <directory>/<job>.ending  its tasks will end, and no process waits for that: see `ending.rs`
//! <directory>/archive/<job>.<start in ms>.ron
//! <directory>/archive/index    a line per archived snapshot: see [`IndexLine`]
//! <directory>/archive/<job>.<time in ms>.damaged   a snapshot that could not be read, set aside
//! ```

mod archive;
mod claim;
mod durable;
mod ending;
mod error;
mod exposure;
mod file_work;
mod index;
mod lease;
mod marks;
mod memory;
mod recent;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

pub use archive::{Pruned, Retention};
pub use error::StoreError;
pub use exposure::{Exposed, Exposure};
pub use index::{FileStamp, IndexLine};
pub use lease::DirectoryLease;
pub use marks::OutputMark;
pub use memory::{InMemoryLease, InMemoryStore};

use file_work::FileWork;
use recent::Recent;
use tokio::time::{Instant, sleep};

use crate::{EndingJob, JobId, MAX_BYTES, RunId, Snapshot, SnapshotStore, private_file};

/// How often the store tries a lock that another process holds: at first, and at least. A service
/// holds a job's lock for some milliseconds after it has answered the stage before.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const LOOK_AT_LEAST: Duration = Duration::from_millis(25);
/// The extension of a lock. It is removed with its lease.
const LOCK: &str = "lock";
/// The extensions of a job's files beside its snapshot. `tmp` and `probe` exist only for a moment.
const BESIDE: [&str; 7] = ["key", "offset", "session", "tmp", "probe", ending::NOTE, LOCK];

/// A directory of snapshots.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    directory: PathBuf,
    retention: Retention,
    notes: Option<Notes>,
    file_work: FileWork,
    recent: Recent,
}

/// Returns a finished job's note for the archive's index: one line.
pub type Notes = fn(&Snapshot) -> String;

impl DirectoryStore {
    /// Opens the directory. Creates it, with mode 0700, if it is missing.
    ///
    /// # Errors
    /// When it cannot be created, is not a directory, or is [exposed](StoreError::Exposed) to other
    /// users.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::look(directory);
        let path = store.directory();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(StoreError::io("create the directory", path))?;
        store.refuse_exposed()?;
        Ok(store)
    }

    /// Opens a directory for reading, without checking its owner. Call
    /// [`DirectoryStore::refuse_exposed`] before acting on a job in it.
    #[must_use]
    pub fn look(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            retention: Retention::default(),
            notes: None,
            file_work: FileWork::new(),
            recent: Recent::default(),
        }
    }

    /// Refuses a directory that other users could change.
    ///
    /// # Errors
    /// [`StoreError::Exposed`], or when the directory cannot be examined.
    pub fn refuse_exposed(&self) -> Result<(), StoreError> {
        exposure::check(&self.directory)
    }

    /// Keeps archived snapshots according to `retention`.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Adds a note to the index for every job that is archived.
    #[must_use]
    pub fn with_notes(self, notes: Notes) -> Self {
        Self { notes: Some(notes), ..self }
    }

    /// From now on, also keeps the snapshots that were saved last in memory, in this store and its
    /// clones. A file that has not changed since need not be parsed then.
    pub fn keep_recent(&self) {
        self.recent.enable();
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The job's snapshot file.
    #[must_use]
    pub fn snapshot_path(&self, job: &JobId) -> PathBuf {
        self.directory.join(format!("{job}.ron"))
    }

    /// The job's private key file.
    #[must_use]
    pub fn key_path(&self, job: &JobId) -> PathBuf {
        self.directory.join(format!("{job}.key"))
    }

    /// Returns the job's mark, for a process that writes the output of a run while another one works
    /// on the job.
    #[must_use]
    pub fn output_mark(&self, job: &JobId) -> OutputMark {
        OutputMark::new(self.marks_path(job))
    }

    fn marks_path(&self, job: &JobId) -> PathBuf {
        self.directory.join(format!("{job}.offset"))
    }

    /// The jobs that have a snapshot, in the order of their names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn jobs(&self) -> Result<Vec<JobId>, StoreError> {
        self.jobs_with(&["ron"])
    }

    /// The jobs that have files but no snapshot. A killed process left them, or a process is about
    /// to write the snapshot.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn orphaned_files(&self) -> Result<Vec<JobId>, StoreError> {
        let mut jobs = self.jobs_with(&BESIDE)?;
        jobs.retain(|job| !self.snapshot_path(job).exists());
        Ok(jobs)
    }

    /// The jobs that have a file with one of these extensions.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn jobs_with(&self, kinds: &[&str]) -> Result<Vec<JobId>, StoreError> {
        let fail = |e| StoreError::io("list the directory", &self.directory)(e);
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let named = name
                .to_str()
                .and_then(|name| name.rsplit_once('.'))
                .filter(|(_, kind)| kinds.contains(kind));
            jobs.extend(named.and_then(|(job, _)| JobId::new(job).ok()));
        }
        jobs.sort();
        jobs.dedup();
        Ok(jobs)
    }

    /// The directory of finished jobs.
    #[must_use]
    pub fn archive_path(&self) -> PathBuf {
        self.directory.join("archive")
    }

    /// Removes finished jobs that `retention` does not keep; with `dry_run`, only counts them.
    ///
    /// # Errors
    /// When the archive cannot be read, or a file cannot be removed.
    pub fn prune(&self, retention: Retention, dry_run: bool) -> Result<Pruned, StoreError> {
        archive::prune_now(&self.archive_path(), retention, dry_run)
    }

    /// The archive's index: [`IndexLine`]s between empty lines.
    #[must_use]
    pub fn index_path(&self) -> PathBuf {
        index::path(&self.archive_path())
    }

    /// Adds lines to the archive's index: the snapshot's file name, its version, and a note of one
    /// line.
    ///
    /// # Errors
    /// When the file cannot be written, or the directory is exposed to other users.
    pub fn note(&self, notes: &[(String, FileStamp, String)]) -> Result<(), StoreError> {
        self.refuse_exposed()?;
        index::append(&self.archive_path(), notes)
            .map_err(StoreError::io("append to", &self.index_path()))
    }

    /// Adds an archived snapshot to the index. The job is over, so a failure is only logged: a
    /// reader who needs the line makes it.
    fn note_archived(&self, snapshot: &Snapshot, path: &Path) {
        let (Some(notes), Some(name)) =
            (self.notes, path.file_name().and_then(|name| name.to_str()))
        else {
            return;
        };
        let noted = fs::metadata(path).map_err(StoreError::io("read", path)).and_then(|metadata| {
            self.note(&[(name.to_owned(), FileStamp::of(&metadata), notes(snapshot))])
        });
        if let Err(e) = noted {
            tracing::warn!("the archive's index lacks a line: {e}");
        }
    }

    /// Moves a snapshot that cannot be read to the archive, as `<job>.<now in ms>.damaged`, and
    /// returns its path. Gives the job up: removes its key. The caller holds the job's lease and
    /// knows that the job has no task.
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn set_aside(&self, job: &JobId) -> Result<PathBuf, StoreError> {
        let kept = archive::set_aside(self, job)?;
        self.remove_beside(job, &[])?;
        Ok(kept)
    }

    /// Removes the files that a killed process left of a job without a snapshot: nothing was
    /// launched for it, or it is archived. The lease shows that no process is about to write one.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn sweep(&self, job: &JobId, _: &DirectoryLease) -> Result<(), StoreError> {
        if self.snapshot_path(job).exists() { Ok(()) } else { self.remove_beside(job, &[]) }
    }

    /// Removes the job's key, its marks, and files that a killed process was writing, except those
    /// to `keep`.
    fn remove_beside(&self, job: &JobId, keep: &[&str]) -> Result<(), StoreError> {
        BESIDE
            .iter()
            .filter(|kind| **kind != LOCK && !keep.contains(kind))
            .try_for_each(|kind| durable::remove(&self.directory.join(format!("{job}.{kind}"))))
    }

    fn ending_path(&self, job: &JobId) -> PathBuf {
        self.directory.join(format!("{job}.{}", ending::NOTE))
    }

    /// Whether the job has a note that its tasks will end, and that no process waits for that.
    #[must_use]
    pub fn is_ending(&self, job: &JobId) -> bool {
        self.ending_path(job).exists()
    }

    /// Takes the job's lease, if no process has it. Finishes the job's claim of a warm task, if a
    /// process died in the middle of it.
    ///
    /// # Errors
    /// As [`SnapshotStore::lease`].
    pub fn try_lease(&self, job: &JobId, purpose: &str) -> Result<DirectoryLease, StoreError> {
        let path = self.directory.join(format!("{job}.{LOCK}"));
        let lease = lease::try_take(&path, job, purpose, self.file_work.count_lease())?;
        self.finish_claim(job)?;
        Ok(lease)
    }

    /// Reads the job's snapshot: a blocking [`SnapshotStore::load`], for tools.
    ///
    /// # Errors
    /// As [`SnapshotStore::load`].
    pub fn read(&self, job: &JobId) -> Result<Option<Snapshot>, StoreError> {
        let path = self.snapshot_path(job);
        let bytes = match private_file::read_up_to(&path, MAX_BYTES + 1) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read the snapshot", &path)(e)),
        };
        if let Some(recent) = self.recent.of(job, &bytes) {
            return Ok(Some(recent));
        }
        let snapshot = Snapshot::from_bytes(bytes).map_err(|why| StoreError::Bad {
            path: path.clone(),
            job: job.clone(),
            why,
        })?;
        let found = &snapshot.job.header().id;
        if found != job {
            return Err(StoreError::Foreign { found: found.clone(), path });
        }
        Ok(Some(snapshot))
    }

    /// Reads the job's last mark, if it is of this run: a blocking [`SnapshotStore::marked`], for
    /// tools.
    #[must_use]
    pub fn read_mark(&self, job: &JobId, run: &RunId) -> Option<u64> {
        marks::read(&self.marks_path(job), run)
    }

    /// Returns what was written.
    fn write(&self, snapshot: &Snapshot) -> Result<String, StoreError> {
        self.write_as(&self.snapshot_path(&snapshot.job.header().id), snapshot)
    }

    fn write_as(&self, path: &Path, snapshot: &Snapshot) -> Result<String, StoreError> {
        let text = snapshot
            .to_bounded_ron()
            .map_err(|e| StoreError::io("write the snapshot", path)(io::Error::other(e)))?;
        durable::write(path, text.as_bytes())?;
        Ok(text)
    }

    fn move_to_archive(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.write(snapshot)?;
        let header = snapshot.job.header();
        // Before the snapshot is moved: if this process is killed here, the next one still finds
        // the snapshot and its note.
        self.remove_beside(&header.id, &[ending::NOTE])?;
        let kept = archive::keep(self, header)?;
        self.remove_ending(&header.id);
        self.recent.forget(&header.id);
        self.note_archived(snapshot, &kept);
        archive::prune(&self.archive_path(), self.retention);
        Ok(())
    }

    fn remove_ending(&self, job: &JobId) {
        if let Err(e) = durable::remove(&self.ending_path(job)) {
            tracing::debug!("{e}");
        }
    }

    /// Does file work on a thread where it delays no other job: see [`FileWork::run`].
    async fn run<R: Send + 'static>(
        &self,
        lease: Option<&DirectoryLease>,
        work: impl FnOnce(&Self) -> R + Send + 'static,
    ) -> R {
        let store = self.clone();
        self.file_work.run(lease, move || work(&store)).await
    }

    /// Checks that snapshots can be written, before anything is launched that could not be
    /// recorded.
    ///
    /// # Errors
    /// When a file cannot be written and made durable: read-only, full, or without permission.
    pub async fn check_writable(
        &self,
        lease: &DirectoryLease,
        job: &JobId,
    ) -> Result<(), StoreError> {
        let path = self.directory.join(format!("{job}.probe"));
        let check = move |_: &Self| {
            // As large as a snapshot: a full disk often still has room for an empty file.
            let written = durable::write(&path, &[b' '; 16 * 1024]);
            let removed = fs::remove_file(&path);
            written?;
            removed.map_err(StoreError::io("remove the test file", &path))
        };
        self.run(Some(lease), check).await
    }
}

impl SnapshotStore for DirectoryStore {
    type Lease = DirectoryLease;

    async fn lease(
        &self,
        job: &JobId,
        purpose: &str,
        wait: Duration,
    ) -> Result<DirectoryLease, StoreError> {
        let start = Instant::now();
        let (mut is_waiting, mut pause) = (false, LOOK_AGAIN);
        loop {
            let (id, purpose) = (job.clone(), purpose.to_owned());
            match self.run(None, move |store| store.try_lease(&id, &purpose)).await {
                Err(StoreError::Busy { holder, .. }) if start.elapsed() < wait => {
                    if !is_waiting {
                        tracing::debug!(%job, holder, "waiting for the job's lock");
                        is_waiting = true;
                    }
                    sleep(pause).await;
                    pause = LOOK_AT_LEAST.min(pause * 2);
                }
                taken => return taken,
            }
        }
    }

    async fn load(&self, job: &JobId) -> Result<Option<Snapshot>, StoreError> {
        let job = job.clone();
        self.run(None, move |store| store.read(&job)).await
    }

    async fn save(&self, lease: &DirectoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        let snapshot = snapshot.clone();
        let save = move |store: &Self| {
            let text = store.write(&snapshot)?;
            store.recent.keep(snapshot, text);
            Ok(())
        };
        self.run(Some(lease), save).await
    }

    /// Not on another thread: this is one small write to an open file, without a sync. It takes
    /// microseconds, and passing it on would take longer.
    async fn mark(
        &self,
        lease: &DirectoryLease,
        run: &RunId,
        offset: u64,
    ) -> Result<(), StoreError> {
        marks::write(lease, run, offset)
    }

    async fn marked(&self, job: &JobId, run: &RunId) -> Option<u64> {
        let (job, run) = (job.clone(), run.clone());
        self.run(None, move |store| store.read_mark(&job, &run)).await
    }

    async fn note_ending(
        &self,
        lease: &DirectoryLease,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        let snapshot = snapshot.clone();
        let note = move |store: &Self| {
            ending::write(&store.ending_path(&snapshot.job.header().id), &snapshot)
        };
        self.run(Some(lease), note).await
    }

    async fn ending_jobs(&self, most: usize) -> Vec<EndingJob> {
        self.run(None, move |store| ending::list(&store.directory, most)).await
    }

    async fn forget_ending(&self, lease: &DirectoryLease, job: &JobId) {
        let job = job.clone();
        self.run(Some(lease), move |store| store.remove_ending(&job)).await
    }

    async fn warm_tasks(&self) -> Result<Vec<JobId>, StoreError> {
        self.run(None, Self::warm_ids).await
    }

    async fn claim(
        &self,
        (of_job, of_warm): (&DirectoryLease, &DirectoryLease),
        warm: &JobId,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        let (warm, snapshot) = (warm.clone(), snapshot.clone());
        // As with the job's own lock, no other process gets the warm task's before this is done.
        let turn = of_warm.turn().await;
        let claim = move |store: &Self| {
            let claimed = store.take_over(&warm, &snapshot);
            drop(turn);
            claimed
        };
        self.run(Some(of_job), claim).await
    }

    async fn archive(&self, lease: &DirectoryLease, snapshot: &Snapshot) -> Result<(), StoreError> {
        let snapshot = snapshot.clone();
        self.run(Some(lease), move |store| store.move_to_archive(&snapshot)).await
    }
}
