//! `fargate.toml`: every key of GitLab's Go driver, and the new ones. See `docs/configuration.md`.

mod declaration;
mod fargate;
mod kinds;
mod launch_type;
mod logging;
mod overrides;
mod parse;
mod reader;
mod rules;
mod settings;
mod structure;
mod telemetry;
mod warm;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use transports::ssh::SshSettings;

use crate::transport;

pub use logging::{LEVELS, LogFormat, level};
pub use overrides::{Chosen, NotAllowed, Overrides};
pub use settings::{
    Config, Fargate, Images, Metadata, Runner, Services, Sizes, Ssh, Telemetry, Warm,
};
pub use telemetry::{Protocol, Sampler, Signal, origin};

/// The default file.
pub const DEFAULT_FILE: &str = "config.toml";

/// A probable mistake that is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line of the file, from 1.
    pub line: usize,
    /// Its text.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// A setting as it is declared, for comparison with the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredSetting {
    /// Its table; empty for the top level.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    /// Its kind of value: string, duration, ….
    pub kind: &'static str,
    /// What applies without it, as Markdown: a default, `required`, or words.
    pub otherwise: String,
}

/// Lists all settings of `fargate.toml`.
pub fn declared_settings() -> impl Iterator<Item = DeclaredSetting> {
    settings::TABLES.iter().flat_map(|table| {
        table.settings.iter().map(|setting| DeclaredSetting {
            table: table.name,
            key: setting.key,
            kind: setting.rule.kind(),
            otherwise: setting.rule.otherwise(),
        })
    })
}

/// An error of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}. {}", path.display(), if *.named { "`fargate init` writes a first one." } else { "Name it with --config; the default is config.toml in the working directory." })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Whether `--config` named it.
        named: bool,
        /// Why.
        source: std::io::Error,
    },
    /// The file is invalid.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The value that was found, and what is expected.
        message: String,
    },
    /// Keys are missing.
    #[error("{}: missing {}. docs/configuration.md says what goes there.{}", path.display(), keys.join(", "), hints.iter().map(|hint| format!(" {hint}")).collect::<String>())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The keys, with their tables.
        keys: Vec<String>,
        /// Present keys that may be meant for them, a sentence each.
        hints: Vec<String>,
    },
    /// The file has several mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<ConfigError>),
}

impl ConfigError {
    /// Makes one error of all mistakes, in the order of the file.
    pub(self) fn of(mistakes: Vec<Self>) -> Result<(), Self> {
        let mut mistakes: Vec<Self> = mistakes.into_iter().flat_map(Self::flattened).collect();
        mistakes.sort_by_key(|mistake| match mistake {
            Self::Wrong { line, column, .. } => (*line, *column),
            _ => (usize::MAX, 0),
        });
        match mistakes.len() {
            0 => Ok(()),
            1 => Err(mistakes.remove(0)),
            _ => Err(Self::Several(mistakes)),
        }
    }

    fn flattened(self) -> Vec<Self> {
        match self {
            Self::Several(mistakes) => mistakes,
            one => vec![one],
        }
    }
}

impl transport::Configuration for Config {
    fn ssh(&self) -> SshSettings {
        SshSettings {
            username: self.ssh.username.clone(),
            port: self.ssh.port,
            keepalive_interval: self.ssh.keep_alive,
            ..SshSettings::default()
        }
    }
}

impl Config {
    /// Reads and checks the named file, or else `config.toml` in the working directory, as the Go
    /// driver does.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, where, and what was expected.
    pub fn load(named: Option<&Path>) -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::parse(&Self::text(named)?, named.unwrap_or(Path::new(DEFAULT_FILE)))
    }

    /// Reads the text of the file that [`Config::load`] takes.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn text(named: Option<&Path>) -> Result<String, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            named: named.is_some(),
            source,
        })
    }

    /// Describes the choices that these settings leave open to projects, a sentence each, for the
    /// administrator.
    #[must_use]
    pub fn open_choices(&self) -> Vec<&'static str> {
        let definitions = "AllowedTaskDefinitions is not set: every project may run its jobs in any task definition of the account whose roles the manager may pass (FARGATE_TASK_DEFINITION). Set it in [Fargate]; [] allows none but TaskDefinition. See docs/configuration.md, \"What a project may choose\".";
        self.fargate.allowed_task_definitions.is_none().then_some(definitions).into_iter().collect()
    }

    /// Parses and checks a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        parse::parse(text, path)
    }

    /// Lists the mistakes of a text, each as an error of its own.
    #[must_use]
    pub fn mistakes(text: &str, path: &Path) -> Vec<ConfigError> {
        Self::parse(text, path).err().map(ConfigError::flattened).unwrap_or_default()
    }
}

impl Images {
    /// The patterns of images for services.
    #[must_use]
    pub fn allowed_services(&self) -> Option<&[String]> {
        self.allowed.as_ref()?;
        self.services.as_deref().or(self.allowed.as_deref())
    }
}
