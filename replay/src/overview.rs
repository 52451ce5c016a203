//! All jobs of a metadata directory at one time, for readers that look again and again: the
//! service's page, its metrics, and `fargate status`.
//!
//! A [`Scanner`] keeps what it read. It reads a snapshot again only if its file has changed, and
//! the archive's index only if a job was archived or removed.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::DefaultHasher},
    fs,
    hash::{Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use diagnosis::{Cause, Diagnosis, words};
use states::{AnyJob, Claim, FileStamp, JobId, Snapshot, StateName, Timestamp};

use crate::{
    Failure, Location, LocationError, archive,
    baseline::Baseline,
    holder,
    list::{Newest, Row, open_row, unusable_reason, unusable_row, urgency},
    location,
    pools::{OpenPool, PoolCounts},
    summary::{JobVerdict, PoolUse},
};

/// Failed jobs that an overview names, at most: the newest.
const FAILURES: usize = 20;
/// How long the archive is not read again, at least.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Reading a large archive takes at most one part in so many of the time.
const ARCHIVE_SHARE: u32 = 20;

/// All jobs at one time.
#[derive(Debug, Clone)]
pub struct Overview {
    /// When.
    pub now: Timestamp,
    /// The runner manager's name.
    pub manager: String,
    /// The metadata directory.
    pub directory: PathBuf,
    /// The jobs that are not archived, those that need help first.
    pub jobs: Vec<OpenJob>,
    /// The jobs that are.
    pub finished: Arc<Finished>,
    /// Pools of warm tasks, by name: those that have a task, or had one while the scanner watched.
    /// Warm tasks are no jobs.
    pub pools: BTreeMap<String, OpenPool>,
}

/// A job that is not archived.
#[derive(Debug, Clone)]
pub struct OpenJob {
    /// The job as in `fargate-replay list`.
    pub row: Row,
    /// What it waits for; empty if its snapshot cannot be used.
    pub waits_for: String,
    /// What is wrong with it, the most important first. Without problems, one of
    /// [`Cause::Nothing`].
    pub diagnoses: Vec<Diagnosis>,
}

/// The archive, counted.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// The jobs in it by verdict.
    pub verdicts: BTreeMap<JobVerdict, u64>,
    /// The jobs that were archived while the scanner watched, by verdict and cause. These only
    /// grow: pruning does not lessen them.
    pub ended: BTreeMap<(JobVerdict, Cause), u64>,
    /// The newest jobs that the driver, AWS or the network failed.
    pub failures: Vec<Row>,
    /// How long the jobs stayed in each state.
    pub baseline: Arc<Baseline>,
}

impl Overview {
    /// Returns the jobs in a state; in `None` are those whose snapshots cannot be used.
    pub fn in_state(&self, state: Option<StateName>) -> impl Iterator<Item = &OpenJob> {
        self.jobs.iter().filter(move |job| job.row.state == state)
    }

    /// Returns the jobs that need help.
    pub fn stuck(&self) -> impl Iterator<Item = &OpenJob> {
        self.jobs.iter().filter(|job| job.row.stuck.is_some())
    }

    /// Returns the number of stuck jobs by cause. A job that only takes longer than others counts
    /// as [`Cause::Nothing`].
    #[must_use]
    pub fn stuck_by_cause(&self) -> BTreeMap<Cause, u64> {
        let mut causes = BTreeMap::new();
        for job in self.stuck() {
            *causes.entry(job.row.cause).or_default() += 1;
        }
        causes
    }

    /// Returns how long the job that has been longest in this state has been in it.
    #[must_use]
    pub fn oldest(&self, state: StateName) -> Option<Duration> {
        self.in_state(Some(state)).map(OpenJob::in_state).max()
    }
}

impl OpenJob {
    /// How long the job has been in its state.
    #[must_use]
    pub fn in_state(&self) -> Duration {
        Duration::from_millis(self.row.in_state_ms)
    }

    /// The job's problems.
    pub fn problems(&self) -> impl Iterator<Item = &Diagnosis> {
        self.diagnoses.iter().filter(|diagnosis| diagnosis.cause != Cause::Nothing)
    }
}

/// A file's version: a snapshot is replaced by another file, which may have been written within the
/// same tick of the clock.
type Version = (FileStamp, u64);

/// Looks at a directory's jobs again and again.
#[derive(Debug)]
pub struct Scanner {
    location: Location,
    snapshots: HashMap<JobId, (Version, Result<Arc<Snapshot>, String>)>,
    archive: Option<ArchiveRead>,
    /// What came of pools while the scanner watched, by name.
    pools: BTreeMap<String, PoolCounts>,
    /// Hashes of the names that counted jobs will have in the archive.
    counted: HashSet<u64>,
}

/// What was read of the archive.
#[derive(Debug)]
struct ArchiveRead {
    /// The archive's directory: jobs come and go.
    stamp: Option<FileStamp>,
    at: Instant,
    took: Duration,
    /// Hashes of the names of all snapshots in it.
    names: HashSet<u64>,
    finished: Arc<Finished>,
}

impl Scanner {
    /// Creates a scanner, which has read nothing yet.
    #[must_use]
    pub fn new(location: Location) -> Self {
        Self {
            location,
            snapshots: HashMap::new(),
            archive: None,
            pools: BTreeMap::new(),
            counted: HashSet::new(),
        }
    }

    /// Looks at all jobs.
    ///
    /// # Errors
    /// When the directory or its archive cannot be read. A snapshot that cannot be used is a job
    /// that needs help.
    pub fn scan(&mut self, now: Timestamp) -> Result<Overview, Failure> {
        let finished = self.finished()?;
        let ids = self.location.store.jobs()?;
        let mut jobs = Vec::with_capacity(ids.len());
        let mut known = HashMap::with_capacity(ids.len());
        let mut pools: BTreeMap<String, OpenPool> = BTreeMap::new();
        for id in ids {
            let path = self.location.store.snapshot_path(&id);
            let kept = self.snapshots.remove(&id);
            let Some(read) = read(&path, kept) else { continue };
            if let Ok(snapshot) = &read.1 {
                self.count_claim(snapshot);
                if let Some(origin) = snapshot.job.header().warm() {
                    // One that ends is no longer its pool's.
                    if !words::ends(&snapshot.job) {
                        let pool = pools.entry(origin.pool.clone()).or_default();
                        pool.add(Claim::of(snapshot).map(|claim| claim.ready), now);
                    }
                    known.insert(id, read);
                    continue;
                }
            }
            jobs.push(match &read.1 {
                Ok(snapshot) => self.open_job(&path, snapshot, &finished.baseline, now),
                Err(why) => OpenJob {
                    row: unusable_row(&path, why, now),
                    waits_for: String::new(),
                    diagnoses: Vec::new(),
                },
            });
            known.insert(id, read);
        }
        self.snapshots = known;
        jobs.sort_by_key(|job| (urgency(&job.row), std::cmp::Reverse(job.row.in_state_ms)));
        for (name, counts) in &self.pools {
            pools.entry(name.clone()).or_default().counts = *counts;
        }
        Ok(Overview {
            now,
            manager: self.location.manager.clone(),
            directory: self.location.store.directory().to_owned(),
            jobs,
            finished,
            pools,
        })
    }

    /// Counts what a job had of a pool, once.
    fn count_claim(&mut self, snapshot: &Snapshot) {
        let Some(part) = PoolUse::of_job(snapshot) else { return };
        let header = snapshot.job.header();
        let archived = format!("{}.{}.ron", header.id, header.created.as_millis());
        if self.counted.insert(hash(&archived)) {
            self.pools.entry(part.pool().to_owned()).or_default().add(&part);
        }
    }

    /// Returns how long finished jobs stayed in each state.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn baseline(&mut self) -> Result<Arc<Baseline>, Failure> {
        Ok(Arc::clone(&self.finished()?.baseline))
    }

    fn open_job(
        &self,
        path: &Path,
        snapshot: &Snapshot,
        baseline: &Baseline,
        now: Timestamp,
    ) -> OpenJob {
        let mut surroundings = holder::examine(path, snapshot, &self.location.manager);
        if let AnyJob::Executing(job) = &snapshot.job {
            surroundings.handed_on =
                self.location.store.read_mark(&job.header.id, &job.state.order.run);
        }
        let (row, diagnoses) = open_row(path, snapshot, &surroundings, baseline, now);
        let waits_for = words::next(&snapshot.job, row.last_at);
        OpenJob { row, waits_for, diagnoses }
    }

    /// Counts the archive, if it has changed.
    fn finished(&mut self) -> Result<Arc<Finished>, Failure> {
        let stamp = fs::metadata(self.location.store.archive_path())
            .ok()
            .map(|metadata| FileStamp::of(&metadata));
        if let Some(read) = &self.archive {
            let wait = ARCHIVE_INTERVAL.max(read.took * ARCHIVE_SHARE);
            if read.stamp == stamp || read.at.elapsed() < wait {
                return Ok(Arc::clone(&read.finished));
            }
        }
        let began = Instant::now();
        let mut finished = Finished::default();
        let mut baseline = Baseline::default();
        let mut failures = Newest::new(FAILURES);
        let mut names = HashSet::new();
        let before = self.archive.as_ref();
        let (pools, counted) = (&mut self.pools, &mut self.counted);
        if let Some(before) = before {
            finished.ended.clone_from(&before.finished.ended);
        }
        archive::for_each(&self.location.store, |name, summary| {
            let file = hash(name);
            let is_new = before.is_some_and(|before| !before.names.contains(&file));
            names.insert(file);
            // Some were counted while they were open.
            if let Some(part) = summary.pool.as_ref().filter(|_| !counted.remove(&file) && is_new) {
                pools.entry(part.pool().to_owned()).or_default().add(part);
            }
            if summary.verdict == JobVerdict::SystemFailure {
                failures.offer(name, summary);
            }
            if !summary.is_job() {
                return;
            }
            baseline.add(&summary.definition, &summary.longest);
            *finished.verdicts.entry(summary.verdict).or_default() += 1;
            if is_new {
                *finished.ended.entry((summary.verdict, summary.cause)).or_default() += 1;
            }
        })?;
        baseline.sort();
        finished.baseline = Arc::new(baseline);
        finished.failures = failures.into_rows();
        let finished = Arc::new(finished);
        self.archive = Some(ArchiveRead {
            stamp,
            at: began,
            took: began.elapsed(),
            names,
            finished: Arc::clone(&finished),
        });
        Ok(finished)
    }
}

/// Reads a snapshot unless `kept` is its current version. `None` if the job has just ended.
fn read(
    path: &Path,
    kept: Option<(Version, Result<Arc<Snapshot>, String>)>,
) -> Option<(Version, Result<Arc<Snapshot>, String>)> {
    let version = match fs::symlink_metadata(path) {
        Ok(metadata) => (FileStamp::of(&metadata), metadata.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        // It cannot be opened either, which says why.
        Err(_) => (FileStamp { size: 0, modified: 0 }, 0),
    };
    // A permission may have been given since, which leaves the version as it was.
    if let Some((_, Ok(snapshot))) = kept.filter(|(known, _)| *known == version) {
        return Some((version, Ok(snapshot)));
    }
    let read = match location::read(path) {
        Ok(snapshot) => Ok(Arc::new(snapshot)),
        Err(LocationError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return None;
        }
        Err(e) => Err(unusable_reason(path, &e)),
    };
    Some((version, read))
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use states::{DirectoryStore, Header, Observation, PoolRole, WarmOrigin};

    use super::*;
    use crate::summary::Summary;

    fn scanner(directory: &Path) -> Scanner {
        let store = DirectoryStore::look(directory).with_notes(Summary::note);
        Scanner::new(Location { store, settings: None, manager: "here".to_owned() })
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
    }

    #[test]
    fn a_snapshot_is_read_again_when_its_file_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("job.ron");
        fs::copy(fixture("snapshots/v1/pending.ron"), &file).unwrap();
        let mut scanner = scanner(place.path());
        let now = Timestamp::now();
        let state = |scanner: &mut Scanner| scanner.scan(now).unwrap().jobs[0].row.state;
        assert_eq!(state(&mut scanner), Some(StateName::Pending));
        let first = scanner.snapshots.values().next().unwrap().1.clone().unwrap();
        assert_eq!(state(&mut scanner), Some(StateName::Pending));
        let second = scanner.snapshots.values().next().unwrap().1.clone().unwrap();
        assert!(Arc::ptr_eq(&first, &second), "an unchanged file was read again");

        let other = place.path().join("job.tmp");
        fs::copy(fixture("snapshots/v1/reachable.ron"), &other).unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!(state(&mut scanner), Some(StateName::Reachable));
        fs::remove_file(&file).unwrap();
        assert!(scanner.scan(now).unwrap().jobs.is_empty());
        assert!(scanner.snapshots.is_empty(), "a job that is gone is forgotten");
    }

    #[test]
    fn a_snapshot_that_cannot_be_used_needs_help_and_hides_no_other() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("bad.ron"), "(version: 99)").unwrap();
        fs::copy(fixture("snapshots/v1/pending.ron"), place.path().join("good.ron")).unwrap();
        let overview = scanner(place.path()).scan(Timestamp::now()).unwrap();
        assert_eq!(overview.jobs.len(), 2);
        let bad = overview.in_state(None).next().unwrap();
        assert!(bad.row.stuck.as_ref().unwrap().starts_with("bad.ron: "), "{bad:?}");
    }

    #[test]
    fn jobs_that_are_archived_while_it_watches_are_counted_once() {
        let place = tempfile::tempdir().unwrap();
        let archive = place.path().join("archive");
        fs::create_dir(&archive).unwrap();
        let add = |name: &str, fixture_name: &str| {
            fs::copy(fixture(fixture_name), archive.join(format!("{name}.1764000000000.ron")))
                .unwrap();
        };
        add("before", "snapshots/v1/stopping.ron");
        let mut scanner = scanner(place.path());
        let now = Timestamp::now();
        let first = scanner.scan(now).unwrap();
        assert_eq!(first.finished.verdicts.values().sum::<u64>(), 1);
        assert!(first.finished.ended.is_empty(), "it ended before");

        add("after", "stuck/out-of-memory.ron");
        // As if the interval had passed.
        let read = scanner.archive.as_mut().unwrap();
        read.stamp = None;
        read.at = Instant::now().checked_sub(ARCHIVE_INTERVAL * 2).unwrap();
        read.took = Duration::ZERO;
        let second = scanner.scan(now).unwrap();
        assert_eq!(second.finished.ended.values().sum::<u64>(), 1, "{:?}", second.finished.ended);
        assert_eq!(second.finished.failures.len(), 1);
        assert_eq!(second.finished.failures[0].cause, Cause::OutOfMemory);
        let third = scanner.scan(now).unwrap();
        assert!(Arc::ptr_eq(&second.finished, &third.finished), "an unchanged archive was read");
    }

    #[test]
    fn warm_tasks_are_no_jobs_and_a_claim_is_counted_once() {
        let place = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(fixture("snapshots/v1/reachable.ron")).unwrap();
        let mut warm = Snapshot::parse(&text).unwrap();
        let header = warm.job.header().clone();
        let AnyJob::Reachable(task) = &mut warm.job else { panic!("{:?}", warm.job) };
        let task_header = Arc::make_mut(&mut task.header);
        task_header.id = JobId::warm(1);
        let origin = WarmOrigin { pool: "p".to_owned(), max_age: Duration::from_secs(3600) };
        task_header.pool = Some(PoolRole::Warm(origin));
        task.state.runs = 0;
        let ready = task.state.since;
        let file = place.path().join("warm-0000000000000001.ron");
        fs::write(&file, warm.to_ron().unwrap()).unwrap();
        let mut scanner = scanner(place.path());
        let now = ready + Duration::from_secs(60);
        let overview = scanner.scan(now).unwrap();
        assert!(overview.jobs.is_empty());
        let pool = overview.pools["p"];
        assert_eq!((pool.ready, pool.starting), (1, 0));
        assert_eq!(pool.waiting, Duration::from_secs(60));

        let claimed = ready + Duration::from_secs(30);
        let mut job = Snapshot::new(Header { created: claimed, ..Header::clone(&header) });
        let claim = Claim::of(&warm).unwrap();
        job.step(Observation::Claimed(Box::new(claim)), claimed);
        fs::remove_file(&file).unwrap();
        let file = place.path().join("job.ron");
        fs::write(&file, job.to_ron().unwrap()).unwrap();
        let hit = PoolCounts { hits: 1, idle_ms: 30_000, ..PoolCounts::default() };
        for _ in 0..2 {
            let overview = scanner.scan(now).unwrap();
            assert_eq!((overview.jobs.len(), overview.pools["p"].ready), (1, 0));
            assert_eq!(overview.pools["p"].counts, hit);
        }
        let archive = place.path().join("archive");
        fs::create_dir(&archive).unwrap();
        let id = &job.job.header().id;
        fs::rename(&file, archive.join(format!("{id}.{}.ron", claimed.as_millis()))).unwrap();
        let read = scanner.archive.as_mut().unwrap();
        read.at = Instant::now().checked_sub(ARCHIVE_INTERVAL * 2).unwrap();
        read.took = Duration::ZERO;
        let overview = scanner.scan(now).unwrap();
        assert_eq!(overview.finished.verdicts.values().sum::<u64>(), 1);
        assert_eq!(overview.pools["p"].counts, hit, "it was counted before");
        assert!(scanner.counted.is_empty());
    }
}
