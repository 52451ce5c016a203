//! The metadata directory, and the snapshot that an argument means.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use diagnosis::costs::Prices;
use states::{
    BadSnapshot, DirectoryStore, MAX_BYTES, Retention, Snapshot, StoreError, private_file,
};

use crate::{
    prices::{self, PricesError},
    summary::Summary,
};

/// The heading of the options that every command takes.
pub const GLOBAL_OPTIONS: &str = "Options of every command";

/// Where to look.
#[derive(Debug, Clone, Args)]
pub struct LocationArgs {
    /// The driver's configuration, which names the directory [default: config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL_OPTIONS)]
    pub config: Option<PathBuf>,
    /// The metadata directory, instead of the configuration's
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL_OPTIONS)]
    pub directory: Option<PathBuf>,
}

/// What the driver's configuration says of saved jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The metadata directory.
    pub directory: PathBuf,
    /// How long, and how many, finished jobs are kept.
    pub retention: Retention,
    /// This runner manager's name.
    pub manager: String,
    /// The file of prices; `None`: the built-in ones.
    pub prices: Option<PathBuf>,
}

/// Why the driver's configuration cannot be used.
pub type ConfigProblem = Box<dyn Error + Send + Sync>;

/// What only the driver knows. This crate reads no configuration.
pub trait Driver {
    /// Loads the settings from the configuration that the command line names, or from the default
    /// one.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    fn load_settings(&self) -> Result<Settings, ConfigProblem>;

    /// Returns the name of a runner manager whose configuration sets none: the host's.
    fn host(&self) -> String;
}

/// Finds directories and snapshots for one command line.
#[derive(Clone, Copy)]
pub struct Locator<'a> {
    args: &'a LocationArgs,
    driver: &'a dyn Driver,
}

/// A metadata directory.
#[derive(Debug, Clone)]
pub struct Location {
    /// The snapshots in it.
    pub store: DirectoryStore,
    /// The configuration's settings, unless the command line named the directory.
    pub settings: Option<Settings>,
    /// The name of the runner manager that works here.
    pub manager: String,
}

/// A snapshot that was found.
#[derive(Debug, Clone)]
pub struct FoundSnapshot {
    /// Its file.
    pub path: PathBuf,
    /// The directory that its job belongs to. `None` for a copy.
    pub location: Option<Location>,
    /// Whether it is in that directory's archive.
    pub archived: bool,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// Why no directory or no snapshot was found.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The configuration cannot be used.
    #[error(
        "{}. Without a configuration, name the metadata directory with --directory.",
        .0.to_string().trim_end_matches('.')
    )]
    Config(ConfigProblem),
    /// The directory does not exist. Commands that read must not create it.
    #[error("there is no metadata directory {}. The first job of a configuration makes it: if there was one, correct [TaskMetadata] Directory in fargate.toml (or --directory of fargate-replay).", .0.display())]
    NoDirectory(PathBuf),
    /// The directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The argument names a directory.
    #[error("{} is a directory: name a job or a snapshot's file; `--directory {}` looks at the jobs in it.", .0.display(), .0.display())]
    Directory(PathBuf),
    /// No job fits.
    #[error("no job {wanted:?} in {} or its archive. Give a GitLab job id, the name of a snapshot there, or a file; `fargate-replay list --archived` shows what there is.", directory.display())]
    NoJob {
        /// The argument.
        wanted: String,
        /// The metadata directory.
        directory: PathBuf,
    },
    /// Several jobs fit.
    #[error("{wanted:?} may mean {}. Give one of these names.", candidates.join(", "))]
    Ambiguous {
        /// The argument.
        wanted: String,
        /// The names of the snapshots that fit.
        candidates: Vec<String>,
    },
    /// The file cannot be read.
    #[error("the file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no snapshot that this version can use.
    #[error("the file {} is no snapshot that this version can use: {why}. {}", path.display(), next(why))]
    Bad {
        /// The file.
        path: PathBuf,
        /// Why.
        why: BadSnapshot,
    },
}

/// What helps with a file that is no snapshot.
fn next(why: &BadSnapshot) -> &'static str {
    match why {
        BadSnapshot::Newer(_) => "Use the version that wrote it, or a later one.",
        BadSnapshot::Damaged(_) | BadSnapshot::TooLarge => {
            "If it is a job's, `fargate reap` sets it aside once its task has ended."
        }
    }
}

impl<'a> Locator<'a> {
    /// Creates a locator for these arguments.
    #[must_use]
    pub fn new(args: &'a LocationArgs, driver: &'a dyn Driver) -> Self {
        Self { args, driver }
    }

    /// Opens the metadata directory.
    ///
    /// # Errors
    /// When the configuration cannot be used, or the directory does not exist.
    pub fn open(&self) -> Result<Location, LocationError> {
        let (directory, settings) = match (&self.args.config, &self.args.directory) {
            (None, Some(directory)) => (directory.clone(), None),
            (_, directory) => {
                let settings = self.driver.load_settings().map_err(LocationError::Config)?;
                (directory.clone().unwrap_or_else(|| settings.directory.clone()), Some(settings))
            }
        };
        let mut store = look(directory)?;
        if let Some(settings) = &settings {
            store = store.with_retention(settings.retention);
        }
        let manager = settings
            .as_ref()
            .map_or_else(|| self.driver.host(), |settings| settings.manager.clone());
        Ok(Location { store, settings, manager })
    }

    /// Finds the snapshot that `JOB|FILE` means: a file; a GitLab job id; or a snapshot's name, or
    /// an unambiguous beginning of it, in the directory or its archive.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, wanted: &str) -> Result<FoundSnapshot, LocationError> {
        let path = Path::new(wanted);
        if path.is_file() {
            // A link that the user names stands for the file that it leads to.
            let file = path
                .canonicalize()
                .map_err(|source| LocationError::Unreadable { path: path.to_owned(), source })?;
            return Ok(FoundSnapshot {
                path: path.to_owned(),
                location: self.location_of(path),
                archived: false,
                snapshot: read(&file)?,
            });
        }
        if path.is_dir() {
            return Err(LocationError::Directory(path.to_owned()));
        }
        // A job's name has no slash.
        if wanted.contains('/')
            && let Err(source) = fs::metadata(path)
        {
            return Err(LocationError::Unreadable { path: path.to_owned(), source });
        }
        self.open()?.find(wanted)
    }

    /// Returns this runner manager's name as far as `location` knows it, or the host's.
    #[must_use]
    pub fn manager(&self, location: Option<&Location>) -> String {
        location.map_or_else(|| self.driver.host(), |location| location.manager.clone())
    }

    /// Opens the directory around a file if it is the metadata directory.
    fn location_of(&self, path: &Path) -> Option<Location> {
        let location = self.open().ok()?;
        let parent = path.canonicalize().ok()?.parent()?.to_owned();
        (location.store.directory().canonicalize().ok()? == parent).then_some(location)
    }
}

impl Location {
    /// Opens the directory of these settings.
    ///
    /// # Errors
    /// When the directory does not exist.
    pub fn of_settings(settings: Settings) -> Result<Self, LocationError> {
        let store = look(settings.directory.clone())?.with_retention(settings.retention);
        Ok(Self { store, manager: settings.manager.clone(), settings: Some(settings) })
    }

    /// Returns the prices for jobs of this directory.
    ///
    /// # Errors
    /// When the file of prices that the configuration names cannot be used.
    pub fn prices(&self) -> Result<Prices, PricesError> {
        prices::load(self.settings.as_ref().and_then(|settings| settings.prices.as_deref()))
    }

    /// Finds a snapshot as [`Locator::find`] does, in this directory and its archive.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(self, wanted: &str) -> Result<FoundSnapshot, LocationError> {
        for (archived, directory) in
            [(false, self.store.directory().to_owned()), (true, self.store.archive_path())]
        {
            let mut fitting = candidates(&directory, wanted);
            // One snapshot's whole name may be the beginning of another's.
            if let Some(exact) =
                fitting.iter().position(|path| path.file_stem().is_some_and(|stem| stem == wanted))
            {
                fitting = vec![fitting.swap_remove(exact)];
            }
            match fitting.as_slice() {
                [] => {}
                [path] => {
                    return Ok(FoundSnapshot {
                        snapshot: read(path)?,
                        path: path.clone(),
                        archived,
                        location: Some(self),
                    });
                }
                // Attempts of a retried job: the newest is meant.
                several if archived && are_one_job(several) => {
                    let newest = several
                        .iter()
                        .max_by_key(|path| start_of(path))
                        .cloned()
                        .unwrap_or_else(|| several[0].clone());
                    return Ok(FoundSnapshot {
                        snapshot: read(&newest)?,
                        path: newest,
                        archived,
                        location: Some(self),
                    });
                }
                several => {
                    let names = several
                        .iter()
                        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
                    return Err(LocationError::Ambiguous {
                        wanted: wanted.to_owned(),
                        candidates: names.collect(),
                    });
                }
            }
        }
        if let Some(path) =
            unreadable(self.store.directory()).or_else(|| unreadable(&self.store.archive_path()))
        {
            return Err(LocationError::Unreadable {
                path,
                source: io::ErrorKind::PermissionDenied.into(),
            });
        }
        Err(LocationError::NoJob {
            wanted: wanted.to_owned(),
            directory: self.store.directory().to_owned(),
        })
    }
}

/// Opens a directory for reading.
fn look(directory: PathBuf) -> Result<DirectoryStore, LocationError> {
    if !directory.is_dir() {
        return Err(LocationError::NoDirectory(directory));
    }
    Ok(DirectoryStore::look(directory).with_notes(Summary::note))
}

/// Reads a snapshot's file.
///
/// # Errors
/// When the file cannot be read, or holds no snapshot.
pub fn read(path: &Path) -> Result<Snapshot, LocationError> {
    let read = private_file::read_up_to(path, MAX_BYTES + 1);
    let bytes =
        read.map_err(|source| LocationError::Unreadable { path: path.to_owned(), source })?;
    Snapshot::from_bytes(bytes).map_err(|why| LocationError::Bad { path: path.to_owned(), why })
}

/// Returns the snapshots in a directory that `wanted` may mean.
fn candidates(directory: &Path, wanted: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let snapshots = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "ron"));
    if wanted.is_empty() {
        return Vec::new();
    }
    if wanted.bytes().all(|b| b.is_ascii_digit()) {
        let named = format!("job_id: \"{wanted}\"");
        return snapshots.filter(|path| head(path).contains(&named)).collect();
    }
    let wanted = wanted.strip_suffix(".ron").unwrap_or(wanted);
    snapshots
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(wanted))
        })
        .collect()
}

/// Returns the directory, or a snapshot in it, that this user may not read: the job may be there.
fn unreadable(directory: &Path) -> Option<PathBuf> {
    let is_denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
    match fs::read_dir(directory) {
        Err(e) => is_denied(&e).then(|| directory.to_owned()),
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "ron"))
            .find(|path| private_file::open(path).err().as_ref().is_some_and(is_denied)),
    }
}

/// Returns the beginning of a snapshot, which names its job.
fn head(path: &Path) -> String {
    // A file that cannot be read does not fit.
    String::from_utf8_lossy(&private_file::read_up_to(path, 1024).unwrap_or_default()).into_owned()
}

/// Whether all these archived snapshots are attempts of one job.
fn are_one_job(paths: &[PathBuf]) -> bool {
    let job = |path: &PathBuf| {
        path.file_stem().map(Path::new).and_then(Path::file_stem).map(ToOwned::to_owned)
    };
    paths.iter().all(|path| job(path) == job(&paths[0]))
}

/// Returns when an archived attempt began, in ms since the epoch, from its name:
/// `<job>.<start>.ron`.
fn start_of(path: &Path) -> u64 {
    path.file_stem()
        .map(Path::new)
        .and_then(Path::extension)
        .and_then(|start| start.to_str()?.parse().ok())
        .unwrap_or(0)
}
