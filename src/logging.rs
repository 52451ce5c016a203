//! The driver's own log. The job log belongs to the CI user: nothing of this goes there, unless `debug` asks for it.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::telemetry::logs::LogExport;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{fmt, layer::SubscriberExt, registry, util::SubscriberInitExt};

/// The levels' names, as in the Go driver.
pub const LEVELS: &[&str] = &["panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"];

/// A level by its name; what the Go driver knows beyond ours becomes the nearest of ours.
#[must_use]
pub fn level(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "" | "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object per line, for log shippers.
    Json,
}

/// Where the log goes, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The least important level that is logged.
    pub level: LevelFilter,
    /// The file it is appended to; without one, it goes to stderr at `debug` and more, and nowhere otherwise.
    pub file: Option<PathBuf>,
    /// How it looks.
    pub format: LogFormat,
}

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the log file {} cannot be opened: {source}. Correct LogFile in fargate.toml (or --log-file), or its directory's permissions.", path.display())]
pub struct LoggingError {
    path: PathBuf,
    source: io::Error,
}

impl Logging {
    /// Starts logging. Once per process.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn start(&self) -> Result<(), LoggingError> {
        match &self.file {
            Some(path) => self.start_with(open(path)?),
            None if self.level >= LevelFilter::DEBUG => self.start_with(io::stderr),
            // The log goes to the collector only.
            None if crate::telemetry::logs::wanted() => self.start_with(io::sink),
            None => {}
        }
        Ok(())
    }

    fn start_with<W>(&self, writer: W)
    where
        W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
    {
        let layer = fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
        // SSH and HTTP libraries log every packet at debug: theirs is wanted only at trace.
        let libraries = if self.level >= LevelFilter::TRACE { self.level } else { LevelFilter::WARN.min(self.level) };
        let filter = tracing_subscriber::filter::Targets::new().with_default(libraries).with_targets([
            ("fargate_driver", self.level),
            ("states", self.level),
            ("transports", self.level),
            ("local_cluster", self.level),
        ]);
        let registry = registry().with(filter).with(crate::telemetry::logs::wanted().then_some(LogExport));
        match self.format {
            LogFormat::Text => registry.with(layer).init(),
            LogFormat::Json => registry.with(layer.json()).init(),
        }
    }
}

fn open(path: &Path) -> Result<Mutex<std::fs::File>, LoggingError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(Mutex::new)
        .map_err(|source| LoggingError { path: path.to_owned(), source })
}
