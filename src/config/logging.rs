//! `LogLevel` and `LogFormat`.

use tracing::level_filters::LevelFilter;

/// The levels, by their names in the Go driver. What it has beyond ours is the nearest of ours.
pub const LEVELS: &[(&str, LevelFilter)] = &[
    ("panic", LevelFilter::ERROR),
    ("fatal", LevelFilter::ERROR),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("warning", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Finds a level by its name in any case. An empty name is the default.
#[must_use]
pub fn level(name: &str) -> Option<LevelFilter> {
    if name.is_empty() {
        return Some(LevelFilter::INFO);
    }
    LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
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
