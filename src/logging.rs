//! The driver's own log. The job log belongs to the CI user: it gets nothing of this, except with
//! `debug`.
//!
//! Messages and fields hold texts of projects, containers and AWS. An event is always
//! one line, and a file has a rate: see [`line`].

mod line;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, fmt, layer::SubscriberExt, registry, registry::LookupSpan, util::SubscriberInitExt,
};

use self::line::{Lines, LogFile, Rate};
use crate::{config::LogFormat, telemetry};

/// Where the log goes, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The least important level that is logged.
    pub level: LevelFilter,
    /// The file it is appended to; without one, it goes to stderr at `debug` and more, and nowhere
    /// otherwise.
    pub file: Option<PathBuf>,
    /// How it looks.
    pub format: LogFormat,
    /// Whether it goes to stderr at every level if there is no file, as that of a service does.
    pub of_service: bool,
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
            Some(path) => {
                let rate = match self.level {
                    LevelFilter::TRACE => Rate::TRACE,
                    _ if self.of_service => Rate::SERVICE,
                    _ => Rate::DEFAULT,
                };
                let log = LogFile::new(open(path)?, self.format, rate);
                self.start_with(FILE.get_or_init(|| log));
            }
            None if self.of_service || self.level >= LevelFilter::DEBUG => {
                self.start_with(|| Lines(io::stderr()))
            }
            // The log goes to the collector only.
            None if telemetry::log_export().is_some() => self.start_with(io::sink),
            None => start_telemetry(),
        }
        Ok(())
    }

    fn start_with<W>(&self, writer: W)
    where
        W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
    {
        // SSH and HTTP libraries log every packet at debug: theirs is wanted only at trace.
        let libraries = if self.level >= LevelFilter::TRACE {
            self.level
        } else {
            LevelFilter::WARN.min(self.level)
        };
        let filter =
            tracing_subscriber::filter::Targets::new().with_default(libraries).with_targets([
                ("fargate_driver", self.level),
                ("states", self.level),
                ("transports", self.level),
                ("local_cluster", self.level),
                (telemetry::TARGETS, LevelFilter::OFF),
            ]);
        let Some(recording) = telemetry::layer() else {
            registry().with(filter).with(layer(self.format, writer)).init();
            return;
        };
        // Each has a filter of its own: what is recorded does not depend on the log's level.
        let export = telemetry::log_export().map(|layer| layer.with_filter(filter.clone()));
        let layer = layer(self.format, writer).with_filter(filter);
        registry().with(recording).with(export).with(layer).init();
    }
}

/// Starts what telemetry needs of `tracing`, in a process without a log.
pub fn start_telemetry() {
    if let Some(recording) = telemetry::layer() {
        // Only a second start in one process fails, and the first one serves it.
        let _ = registry().with(recording).try_init();
    }
}

static FILE: OnceLock<LogFile> = OnceLock::new();

/// Says in the log file what was left out of it, if anything. Before the process ends.
pub fn finish() {
    if let Some(Err(e)) = FILE.get().map(LogFile::finish) {
        // To a log that cannot be written, this cannot be written either.
        tracing::debug!("the log file cannot be written: {e}");
    }
}

fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

fn open(path: &Path) -> Result<File, LoggingError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LoggingError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project's name, a container's reason, a task's status: as hostile as they may be.
    const HOSTILE: &str = "evil\r\n2026-11-25T00:00:00Z ERROR stage failed: forged\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}";

    #[test]
    fn no_text_of_others_forges_a_line_or_steers_a_terminal() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("log");
            let log: &'static LogFile =
                Box::leak(Box::new(LogFile::new(open(&path).unwrap(), format, Rate::DEFAULT)));
            tracing::subscriber::with_default(registry().with(layer(format, log)), || {
                let span = tracing::error_span!("stage", stage = HOSTILE, job = %HOSTILE);
                span.in_scope(|| {
                    tracing::warn!("described: {HOSTILE}");
                    tracing::info!(text = HOSTILE, shown = %HOSTILE, debugged = ?HOSTILE, "{HOSTILE}");
                });
            });
            let said = std::fs::read_to_string(&path).unwrap();
            assert_eq!(said.lines().count(), 2, "an event, a line: {said:?}");
            let harmless = |line: &str| states::foreign_text::tame(line) == line;
            assert!(said.lines().all(harmless) && said.matches("evil").count() >= 6, "{said:?}");
            if format == LogFormat::Json {
                let line: serde_json::Value =
                    serde_json::from_str(said.lines().next().unwrap()).unwrap();
                assert!(
                    line["fields"]["message"].as_str().unwrap().starts_with("described: evil"),
                    "{line}"
                );
            }
        }
    }
}
