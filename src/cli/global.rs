//! The options that commands share, and which commands have no use for them.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum as _};
use tracing::level_filters::LevelFilter;

use crate::config::{LEVELS, LogFormat};

/// Options of all commands, or of several. Which ones each command ignores is in [`IGNORED`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The driver's configuration [default: config.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = 101)]
    pub(super) config: Option<PathBuf>,
    /// Task definition; overrides the file's and the project's
    #[arg(long, global = true, value_name = "TASK_DEFINITION", display_order = 102)]
    pub(super) task_def: Option<String>,
    /// Fargate platform version; overrides the file's and the project's
    #[arg(long, global = true, value_name = "VERSION", display_order = 103)]
    pub(super) platform_version: Option<String>,
    /// The same as --log-level debug
    #[arg(long, global = true, display_order = 104)]
    pub(super) debug: bool,
    /// Least important level that is logged: panic, fatal, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level, display_order = 105)]
    pub(super) log_level: Option<LevelFilter>,
    /// File that the log is appended to, instead of LogFile
    #[arg(long, global = true, value_name = "FILE", display_order = 106)]
    pub(super) log_file: Option<PathBuf>,
    /// How the log looks
    #[arg(long, global = true, value_name = "FORMAT", value_enum, display_order = 107)]
    pub(super) log_format: Option<LogFormat>,
    /// File that entered states are appended to (`try` reads it)
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(super) state_log: Option<PathBuf>,
}

/// All global options, the configuration first.
const GLOBALS: [&str; 8] = [
    "config",
    "task_def",
    "platform_version",
    "debug",
    "log_level",
    "log_file",
    "log_format",
    "state_log",
];

/// The global options that a command has no use for: its help does not show them, and they are
/// refused.
pub(super) const IGNORED: [(&str, &[&str]); 9] = [
    ("try", &["state_log"]),
    ("reap", &["task_def", "platform_version", "state_log"]),
    ("serve", &["task_def", "platform_version", "state_log"]),
    ("status", GLOBALS.split_at(1).1),
    ("doctor", GLOBALS.split_at(1).1),
    ("init", GLOBALS.split_at(2).1),
    ("local-cluster", &["config", "task_def", "platform_version", "state_log"]),
    ("completions", &GLOBALS),
    ("man", &GLOBALS),
];

impl Global {
    /// The flags that `try` passes on to the stages.
    pub(super) fn passed_on(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if self.debug {
            flags.push("--debug".into());
        }
        let mut pass = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                flags.extend([name.into(), value]);
            }
        };
        pass("--log-level", self.log_level.map(|level| level.to_string().into()));
        pass("--log-file", self.log_file.clone().map(Into::into));
        pass(
            "--log-format",
            self.log_format.and_then(|f| f.to_possible_value().map(|v| v.get_name().into())),
        );
        pass("--task-def", self.task_def.clone().map(Into::into));
        pass("--platform-version", self.platform_version.clone().map(Into::into));
        flags
    }
}

fn parse_level(name: &str) -> Result<LevelFilter, String> {
    crate::config::level(name).ok_or_else(|| {
        let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
        format!("expected one of {}", names.join(", "))
    })
}
