//! `fargate.toml`: every key of GitLab's Go driver, and the new ones. See `docs/configuration.md`.

mod keys;
mod overrides;
mod parse;
mod reader;
mod structure;
mod telemetry;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use states::{Capacity, HostProof, Limits};
use transports::{Declaration, ssh::SshSettings};

use crate::{logging::LogFormat, transport};

pub use overrides::{Chosen, NotAllowed, Overrides};

/// The default file.
pub const DEFAULT_FILE: &str = "config.toml";

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `LogLevel`.
    pub log_level: tracing::level_filters::LevelFilter,
    /// `LogFile`.
    pub log_file: Option<PathBuf>,
    /// `LogFormat`.
    pub log_format: LogFormat,
    /// `[Fargate]`.
    pub fargate: Fargate,
    /// `[TaskMetadata]`.
    pub metadata: Metadata,
    /// `[Runner]`.
    pub runner: Runner,
    /// `Transport`: the transport of new jobs.
    pub transport: &'static Declaration,
    /// `[SSH]`.
    pub ssh: Ssh,
    /// `[Deadlines]`.
    pub limits: Limits,
    /// `[Telemetry]`.
    pub telemetry: crate::telemetry::Settings,
}

/// `[Fargate]`: where and how tasks run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fargate {
    /// Cluster name or ARN.
    pub cluster: String,
    /// Region; `None` leaves it to the environment (`AWS_REGION`, profile, instance).
    pub region: Option<String>,
    /// `Subnet` and `Subnets` together.
    pub subnets: Vec<String>,
    /// `SecurityGroup` and `SecurityGroups` together.
    pub security_groups: Vec<String>,
    /// `family`, `family:revision` or ARN.
    pub task_definition: String,
    /// Patterns (`*` and `?`) of task definitions that a project may choose; `None`: any.
    pub allowed_task_definitions: Option<Vec<String>>,
    /// Patterns of platform versions that a project may choose; `None`: any.
    pub allowed_platform_versions: Option<Vec<String>>,
    /// Whether the task gets a public address.
    pub enable_public_ip: bool,
    /// Whether the driver connects to the public address.
    pub use_public_ip: bool,
    /// Fargate platform version; `None`: ECS's default.
    pub platform_version: Option<String>,
    /// The source of capacity.
    pub capacity: Capacity,
    /// Tags of the administrator's own, for every task.
    pub tags: Vec<(String, String)>,
    /// Whether ECS copies the task definition's tags to the task.
    pub propagate_tags: bool,
    /// Whether ECS adds its own tags to the task.
    pub enable_ecs_managed_tags: bool,
    /// The container that runs the scripts.
    pub container: String,
}

/// `[TaskMetadata]`: the directory of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The directory.
    pub directory: PathBuf,
    /// How long finished jobs are kept.
    pub keep: Duration,
    /// How many finished jobs are kept at most.
    pub keep_count: usize,
    /// The runner manager's name on its tasks; `None`: the host's.
    pub manager: Option<String>,
}

/// `[Runner]`: which information about the job is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Whether the job's variables may identify it, if gitlab-runner names no response file.
    pub trust_job_variables: bool,
}

/// `[SSH]`: how to log in to containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// User name.
    pub username: String,
    /// Port.
    pub port: u16,
    /// Silence after which a keep-alive is sent.
    pub keep_alive: Duration,
    /// The proof that a container must give at first contact.
    pub verify_host: HostProof,
}

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

/// An error of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}.{}", path.display(), if *.named { "" } else { " Name it with --config; the default is config.toml in the working directory." })]
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
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            named: named.is_some(),
            source,
        })?;
        Self::parse(&text, path)
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
}
