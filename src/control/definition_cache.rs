//! Which derived task definitions exist, in files beside the snapshots: a definition that is known
//! needs no question to ECS. A file's time is when the definition was used last.

use std::{
    fs::{self, File, FileTimes, TryLockError},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use states::private_file;

/// The directory's name in the metadata directory.
const DIRECTORY: &str = "definitions";
/// The file whose lock is the right to register.
const TURN: &str = ".registering";
/// How often a process tries to get that right, and the pause in between. Together they are shorter
/// than the time that a launch may take.
const TURN_ATTEMPTS: u32 = 100;
const TURN_INTERVAL: Duration = Duration::from_millis(50);
/// The longest ARN that is read, in bytes.
const LONGEST_ARN: usize = 1024;

/// The derived definitions that this runner manager knows.
#[derive(Debug)]
pub struct DefinitionCache {
    directory: PathBuf,
}

/// A known definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDefinition {
    /// Its family.
    pub family: String,
    /// Its ARN.
    pub arn: String,
    /// When a job used it last.
    pub used: SystemTime,
}

impl DefinitionCache {
    /// The definitions that the manager with this metadata directory knows.
    #[must_use]
    pub fn in_metadata(metadata: &Path) -> Self {
        Self { directory: metadata.join(DIRECTORY) }
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns a definition's ARN, if it is known, and records that it is used.
    #[must_use]
    pub fn get(&self, family: &str) -> Option<String> {
        let path = self.path(family)?;
        let arn = fs::read_to_string(&path).ok()?.trim_end().to_owned();
        // Another process may just have removed it. Its time only delays its retirement.
        let _ = File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now())));
        Self::is_arn(&arn).then_some(arn)
    }

    /// Records a definition.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, family: &str, arn: &str) -> io::Result<()> {
        let path = self.path(family).ok_or_else(|| io::Error::other("the family has no name"))?;
        self.create_directory()?;
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = private_file::create_new(&new)?;
        writeln!(file, "{arn}")?;
        fs::rename(&new, &path)
    }

    /// Forgets a definition.
    pub fn forget(&self, family: &str) {
        if let Some(path) = self.path(family) {
            // It is gone in any case, or found out again at the next launch.
            let _ = fs::remove_file(path);
        }
    }

    /// Waits for the right to register definitions, which one process of the manager has at a time.
    /// It ends when the file is closed. `None` if others had it all the time.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub async fn turn(&self) -> io::Result<Option<File>> {
        self.create_directory()?;
        let file = private_file::open_or_create(&self.directory.join(TURN))?;
        for _ in 0..TURN_ATTEMPTS {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(TURN_INTERVAL).await,
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(None)
    }

    fn create_directory(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// Returns all known definitions.
    ///
    /// # Errors
    /// When the directory exists and cannot be read.
    pub fn known(&self) -> io::Result<Vec<KnownDefinition>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let read = |entry: fs::DirEntry| {
            let family = entry.file_name().into_string().ok()?;
            let path = self.path(&family)?;
            let arn = fs::read_to_string(path).ok()?.trim_end().to_owned();
            let used = entry.metadata().and_then(|about| about.modified()).ok()?;
            Self::is_arn(&arn).then_some(KnownDefinition { family, arn, used })
        };
        Ok(entries.flatten().filter_map(read).collect())
    }

    /// Whether a text is the ARN of a task definition's revision.
    #[must_use]
    pub fn is_arn(text: &str) -> bool {
        text.len() <= LONGEST_ARN
            && text.starts_with("arn:")
            && text.contains(":task-definition/")
            && text.chars().all(|c| c.is_ascii_graphic())
    }

    /// The file of a family. Families have letters, digits, hyphens and underscores.
    fn path(&self, family: &str) -> Option<PathBuf> {
        let is_admitted = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let is_family = !family.is_empty() && family.chars().all(is_admitted);
        is_family.then(|| self.directory.join(family))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:ecs:eu-west-1:111122223333:task-definition/ci--0123456789ab:1";

    #[test]
    fn a_definition_is_known_until_it_is_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let cache = DefinitionCache::in_metadata(place.path());
        assert_eq!(cache.get("ci--0123456789ab"), None);
        assert_eq!(cache.known().unwrap(), []);
        cache.put("ci--0123456789ab", ARN).unwrap();
        assert_eq!(cache.get("ci--0123456789ab").as_deref(), Some(ARN));
        let [known] = &cache.known().unwrap()[..] else { panic!() };
        assert_eq!((known.family.as_str(), known.arn.as_str()), ("ci--0123456789ab", ARN));
        cache.forget("ci--0123456789ab");
        assert_eq!(cache.get("ci--0123456789ab"), None);
    }

    #[test]
    fn a_damaged_file_is_an_unknown_definition() {
        let place = tempfile::tempdir().unwrap();
        let cache = DefinitionCache::in_metadata(place.path());
        for text in ["", "what\n", "arn:aws:ecs:x:y:task/z"] {
            cache.put("ci--1", text).unwrap();
            assert_eq!(cache.get("ci--1"), None, "{text:?}");
            assert_eq!(cache.known().unwrap(), [], "{text:?}");
        }
        assert!(cache.put("../x", ARN).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_process_registers_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let cache = DefinitionCache::in_metadata(place.path());
        let turn = cache.turn().await.unwrap().unwrap();
        let other = File::options().write(true).open(cache.directory().join(TURN)).unwrap();
        assert!(other.try_lock().is_err());
        assert!(cache.turn().await.unwrap().is_none(), "the wait is bounded");
        drop(turn);
        assert!(other.try_lock().is_ok());
    }
}
