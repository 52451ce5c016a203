//! Where the page, the metrics and the health check get their facts.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::replay::{
    Failure, Location,
    overview::{Overview, Scanner},
    show::Report,
};
use rustix::fs::{Access, access, statvfs};
use states::Timestamp;

pub use crate::control::CallCount;
use crate::{control, warm};

/// An overview is that old at most.
const FRESH: Duration = Duration::from_secs(1);
/// With less free space than this, in bytes, writing a snapshot may fail.
const LOW_SPACE: u64 = 1024 * 1024;

/// Facts about a runner manager's jobs. The methods may read files: the server calls them on
/// threads for that.
pub trait Source: Send + Sync + 'static {
    /// Returns the runner manager's name.
    fn manager(&self) -> String;

    /// Returns all jobs, as they were a second ago at most.
    ///
    /// # Errors
    /// When the metadata directory cannot be read.
    fn overview(&self) -> Result<Arc<Overview>, Failure>;

    /// Reports on one job, by GitLab's job id or its snapshot's name.
    ///
    /// # Errors
    /// When there is no such job, or it cannot be read.
    fn report(&self, job: &str) -> Result<Report, Failure>;

    /// Checks that jobs can be worked on.
    ///
    /// # Errors
    /// The reason why not, in a sentence.
    fn health(&self) -> Result<(), String>;

    /// Returns the calls to AWS, by operation. Empty if they are not counted.
    fn calls(&self) -> Vec<CallCount> {
        Vec::new()
    }

    /// Returns the pools of warm tasks. Empty if there are none.
    fn pools(&self) -> Vec<Pool> {
        Vec::new()
    }
}

/// A pool of warm tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The tasks that are to be kept ready now.
    pub wanted: u64,
    /// The tasks that are ready.
    pub ready: u64,
    /// The tasks that are being launched.
    pub starting: u64,
    /// Jobs that got a warm task.
    pub hits: u64,
    /// Jobs that would have taken one, but none was ready.
    pub misses: u64,
    /// How long tasks have waited for jobs, all together.
    pub idle: Duration,
    /// Why it has fewer tasks than it should, in a sentence.
    pub problem: Option<String>,
}

/// Everything that the page and the metrics show.
#[derive(Debug, Clone)]
pub struct View {
    /// All jobs.
    pub overview: Arc<Overview>,
    /// The calls to AWS.
    pub calls: Vec<CallCount>,
    /// The pools of warm tasks.
    pub pools: Vec<Pool>,
}

impl View {
    /// Asks a source for everything.
    ///
    /// # Errors
    /// As [`Source::overview`].
    pub fn of(source: &dyn Source) -> Result<Self, Failure> {
        Ok(Self { overview: source.overview()?, calls: source.calls(), pools: source.pools() })
    }
}

/// The metadata directory as a source: what all processes of this manager have saved. The calls to
/// AWS are this process's.
#[derive(Debug)]
pub struct DirectorySource {
    location: Location,
    scanner: Mutex<Scan>,
    pools: Pools,
}

/// The pools of the configuration, which a reload replaces.
pub type Pools = Arc<Mutex<Vec<warm::Pool>>>;

#[derive(Debug)]
struct Scan {
    scanner: Scanner,
    latest: Option<(Instant, Arc<Overview>)>,
}

impl DirectorySource {
    /// Creates a source of this directory.
    #[must_use]
    pub fn new(location: Location) -> Self {
        let scan = Scan { scanner: Scanner::new(location.clone()), latest: None };
        Self { location, scanner: Mutex::new(scan), pools: Pools::default() }
    }

    /// Shows these pools, too, if they have no task.
    #[must_use]
    pub fn with_pools(self, pools: Pools) -> Self {
        Self { pools, ..self }
    }

    fn with_scan<R>(&self, work: impl FnOnce(&mut Scan) -> R) -> R {
        // A scan that panicked left a smaller cache, which is no reason to stop.
        work(&mut self.scanner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Source for DirectorySource {
    fn manager(&self) -> String {
        self.location.manager.clone()
    }

    fn overview(&self) -> Result<Arc<Overview>, Failure> {
        self.with_scan(|scan| {
            if let Some((at, overview)) = &scan.latest
                && at.elapsed() < FRESH
            {
                return Ok(Arc::clone(overview));
            }
            let overview = Arc::new(scan.scanner.scan(Timestamp::now())?);
            scan.latest = Some((Instant::now(), Arc::clone(&overview)));
            Ok(overview)
        })
    }

    fn pools(&self) -> Vec<Pool> {
        let Ok(overview) = self.overview() else { return Vec::new() };
        pools_of(&overview, &self.pools.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn report(&self, job: &str) -> Result<Report, Failure> {
        let baseline = self.with_scan(|scan| scan.scanner.baseline())?;
        // An id is looked for in every file, which delays no one else.
        let found = self.location.clone().find(job)?;
        Ok(Report::of_found(found, baseline, &self.location.manager))
    }

    fn calls(&self) -> Vec<CallCount> {
        control::calls()
    }

    fn health(&self) -> Result<(), String> {
        self.overview().map_err(|e| e.to_string())?;
        self.location.store.refuse_exposed().map_err(|e| e.to_string())?;
        check_writable(self.location.store.directory())
    }
}

/// Returns the pools of an overview, and those that are `configured`.
#[must_use]
pub fn pools_of(overview: &Overview, configured: &[warm::Pool]) -> Vec<Pool> {
    let states = warm::PoolState::read_all(&overview.directory);
    let names: BTreeSet<&String> =
        configured.iter().map(|pool| &pool.name).chain(overview.pools.keys()).collect();
    let pool = |name: &String| {
        let open = overview.pools.get(name).copied().unwrap_or_default();
        let own = configured.iter().find(|pool| pool.name == *name);
        let state = states.iter().find(|state| state.name == *name);
        Pool {
            name: name.clone(),
            wanted: own.map_or(0, |pool| pool.wanted(overview.now).0.into()),
            ready: open.ready,
            starting: open.starting,
            hits: open.counts.hits,
            misses: open.counts.misses,
            idle: open.counts.idle() + open.waiting,
            problem: own.and(state).and_then(|state| state.problem(overview.now)),
        }
    };
    names.into_iter().map(pool).collect()
}

/// Checks that snapshots can be written to a directory, without writing one.
///
/// # Errors
/// The reason why not, in a sentence.
pub fn check_writable(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    access(directory, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
        format!("the metadata directory {shown} cannot be written: {e}. Check its owner and its file system.")
    })?;
    let disk = statvfs(directory).map_err(|e| {
        format!("the disk of the metadata directory {shown} cannot be examined: {e}.")
    })?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < LOW_SPACE {
        return Err(format!(
            "the disk of the metadata directory {shown} is full: {free} bytes are free. Make room."
        ));
    }
    Ok(())
}
