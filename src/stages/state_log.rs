//! A file to which the stages of one job append the states that they enter. `fargate try` draws its
//! timeline from it.

use std::{
    fmt::Display,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use states::Timestamp;

/// The last line, when the snapshot has moved to the archive.
pub(crate) const ARCHIVED: &str = "archived";

/// The log of entered states, if there is one.
#[derive(Debug, Clone)]
pub struct StateLog(Option<PathBuf>);

impl StateLog {
    /// Logs to this file; without one, does nothing.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self(file)
    }

    /// Records that a state was entered now.
    pub fn entered(&self, state: impl Display) {
        if let Some(path) = &self.0
            && let Err(e) = append(path, &format!("{} {state}\n", Timestamp::now().as_millis()))
        {
            tracing::warn!("the state log {} cannot be written: {e}", path.display());
        }
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

/// Parses one line of the log.
pub(crate) fn read(line: &str) -> Option<(Timestamp, &str)> {
    let (at, state) = line.split_once(' ')?;
    Some((Timestamp::from_millis(at.parse().ok()?), state))
}
