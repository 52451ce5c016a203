//! Where snapshots are, and which one an argument means.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use states::{
    BadSnapshot, DirectoryStore, MAX_BYTES, Retention, Snapshot, StoreError, private_file,
};

use super::summary::Summary;
use crate::config::{Config, ConfigError};

/// The heading of what every command takes.
pub(super) const EVERYWHERE: &str = "Options of every command";

/// Where to look.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// The driver's configuration, which names the directory [default: config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub config: Option<PathBuf>,
    /// The metadata directory, instead of the configuration's
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    pub directory: Option<PathBuf>,
}

/// A metadata directory.
#[derive(Debug, Clone)]
pub struct Place {
    /// The snapshots in it.
    pub store: DirectoryStore,
    /// The configuration, if that named the directory. Commands that act need it.
    pub config: Option<Config>,
}

/// A snapshot that was asked for.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its file.
    pub path: PathBuf,
    /// The directory that it is a job of, if it was found in one.
    pub place: Option<Place>,
    /// Whether it is in that directory's archive.
    pub archived: bool,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The configuration is no use.
    #[error(
        "{0} (fargate-replay needs it for the metadata directory: name one with --config or --directory, or give a snapshot's file)"
    )]
    Config(#[from] ConfigError),
    /// The directory does not exist. Looking must not make it.
    #[error("there is no metadata directory {}: correct --directory, or [TaskMetadata] Directory in fargate.toml.", .0.display())]
    NoDirectory(PathBuf),
    /// It cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A directory.
    #[error("{} is a directory: name a job or a snapshot's file; `--directory {}` looks at the jobs in it.", .0.display(), .0.display())]
    Directory(PathBuf),
    /// No such job.
    #[error("no job {wanted:?} in {} or its archive. Give a GitLab job id, the name of a snapshot there, or a file; `fargate-replay list --archived` shows what there is.", directory.display())]
    NoJob {
        /// What was asked for.
        wanted: String,
        /// Where.
        directory: PathBuf,
    },
    /// Several jobs.
    #[error("{wanted:?} may mean {}. Give one of these names.", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The snapshots that fit.
        candidates: Vec<String>,
    },
    /// The file cannot be read.
    #[error("the file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no snapshot.
    #[error("the file {} is no snapshot that this version can use: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Why.
        why: BadSnapshot,
    },
}

impl PlaceArgs {
    /// Opens the directory.
    ///
    /// # Errors
    /// When the configuration is no use, or the directory does not exist.
    pub fn resolve(&self) -> Result<Place, PlaceError> {
        let config = match (&self.config, &self.directory) {
            (None, Some(_)) => None,
            (named, _) => Some(Config::load(named.as_deref())?.0),
        };
        let directory = match (&self.directory, &config) {
            (Some(directory), _) => directory.clone(),
            (None, Some(config)) => config.metadata.directory.clone(),
            (None, None) => unreachable!("without a directory, the configuration was loaded"),
        };
        if !directory.is_dir() {
            return Err(PlaceError::NoDirectory(directory));
        }
        let mut store = DirectoryStore::look(directory).with_notes(Summary::note);
        if let Some(config) = &config {
            store = store.with_retention(Retention {
                age: config.metadata.keep,
                count: config.metadata.keep_count,
            });
        }
        Ok(Place { store, config })
    }

    /// Finds the snapshot that `JOB|FILE` means: a file; a GitLab job id; or a snapshot's name, or
    /// an unmistakable beginning of it, in the directory or its archive.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, wanted: &str) -> Result<Target, PlaceError> {
        let path = Path::new(wanted);
        if path.is_file() {
            // Who names a link means what it leads to.
            let file = path
                .canonicalize()
                .map_err(|source| PlaceError::Unreadable { path: path.to_owned(), source })?;
            return Ok(Target {
                path: path.to_owned(),
                place: self.around(path),
                archived: false,
                snapshot: read(&file)?,
            });
        }
        if path.is_dir() {
            return Err(PlaceError::Directory(path.to_owned()));
        }
        // A job's name has none.
        if wanted.contains('/')
            && let Err(source) = fs::metadata(path)
        {
            return Err(PlaceError::Unreadable { path: path.to_owned(), source });
        }
        self.resolve()?.find(wanted)
    }

    /// The directory around a file, when it is the one that would be looked in anyway.
    fn around(&self, path: &Path) -> Option<Place> {
        let place = self.resolve().ok()?;
        let parent = path.canonicalize().ok()?.parent()?.to_owned();
        (place.store.directory().canonicalize().ok()? == parent).then_some(place)
    }
}

impl Place {
    /// As [`PlaceArgs::find`], in this directory.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(self, wanted: &str) -> Result<Target, PlaceError> {
        for (archived, directory) in
            [(false, self.store.directory().to_owned()), (true, self.store.archive_path())]
        {
            let mut fitting = candidates(&directory, wanted);
            // The whole name of one may be the beginning of another's.
            if let Some(exact) =
                fitting.iter().position(|path| path.file_stem().is_some_and(|stem| stem == wanted))
            {
                fitting = vec![fitting.swap_remove(exact)];
            }
            match fitting.as_slice() {
                [] => {}
                [path] => {
                    return Ok(Target {
                        snapshot: read(path)?,
                        path: path.clone(),
                        archived,
                        place: Some(self),
                    });
                }
                // Attempts of a retried job: the newest is the one that is talked of.
                several if archived && same_job(several) => {
                    let newest = several
                        .iter()
                        .max_by_key(|path| attempt(path))
                        .cloned()
                        .unwrap_or_else(|| several[0].clone());
                    return Ok(Target {
                        snapshot: read(&newest)?,
                        path: newest,
                        archived,
                        place: Some(self),
                    });
                }
                several => {
                    let names = several
                        .iter()
                        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
                    return Err(PlaceError::Ambiguous {
                        wanted: wanted.to_owned(),
                        candidates: names.collect(),
                    });
                }
            }
        }
        if let Some(forbidden) =
            forbidden(self.store.directory()).or_else(|| forbidden(&self.store.archive_path()))
        {
            return Err(PlaceError::Unreadable {
                path: forbidden,
                source: std::io::ErrorKind::PermissionDenied.into(),
            });
        }
        Err(PlaceError::NoJob {
            wanted: wanted.to_owned(),
            directory: self.store.directory().to_owned(),
        })
    }
}

/// Reads a snapshot's file.
///
/// # Errors
/// When it cannot be read or is none.
pub fn read(path: &Path) -> Result<Snapshot, PlaceError> {
    let read = private_file::read_up_to(path, MAX_BYTES + 1);
    let bytes = read.map_err(|source| PlaceError::Unreadable { path: path.to_owned(), source })?;
    Snapshot::from_bytes(bytes).map_err(|why| PlaceError::Bad { path: path.to_owned(), why })
}

/// The snapshots in a directory that `wanted` may mean.
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

/// What of a directory, if anything, this user may not read: the job may be there.
fn forbidden(directory: &Path) -> Option<PathBuf> {
    let is_denied = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    match fs::read_dir(directory) {
        Err(e) => is_denied(&e).then(|| directory.to_owned()),
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "ron"))
            .find(|path| private_file::open(path).err().as_ref().is_some_and(is_denied)),
    }
}

/// The beginning of a snapshot, which says whose job it is.
fn head(path: &Path) -> String {
    // One that cannot be read is not the one.
    String::from_utf8_lossy(&private_file::read_up_to(path, 1024).unwrap_or_default()).into_owned()
}

fn same_job(paths: &[PathBuf]) -> bool {
    let job = |path: &PathBuf| {
        path.file_stem().map(Path::new).and_then(Path::file_stem).map(ToOwned::to_owned)
    };
    paths.iter().all(|path| job(path) == job(&paths[0]))
}

/// When an archived attempt began, from its name: `<job>.<start in ms>.ron`.
fn attempt(path: &Path) -> u64 {
    path.file_stem()
        .map(Path::new)
        .and_then(Path::extension)
        .and_then(|start| start.to_str()?.parse().ok())
        .unwrap_or(0)
}
