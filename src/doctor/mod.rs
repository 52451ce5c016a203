//! `fargate doctor`: checks everything that a first job needs, before there is one. It only reads:
//! no call and no file changes anything. `--launch` alone runs a job.
//!
//! Each area is a file. `problem` has the words of all problems; `report` shows what was found.

mod addresses;
mod capacity;
mod configuration;
mod definition;
mod directory;
mod gitlab_runner;
mod identity;
mod image;
mod launch;
mod network;
mod permissions;
mod problem;
mod quotas;
mod report;
mod roles;
mod routes;
mod security_groups;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::replay::{ColourArg, Screen};
use aws_sdk_ecs::types::{Cluster, ContainerDefinition, TaskDefinition};

use crate::{
    config::{Config, ConfigError, DEFAULT_FILE},
    control::{EcsControl, Identity, Subnet},
};

use self::{gitlab_runner::Runners, report::Status};

pub use problem::{Problem, Severity, Words};
pub use report::{Check, Outcome, Report};

/// The exit code if jobs cannot run.
pub const FAILURES: u8 = 1;
/// The exit code if the configuration cannot be read.
pub const UNUSABLE: u8 = 2;
/// The exit code if nothing failed, and something could not be checked.
pub const UNKNOWN: u8 = 3;

/// What to check, and how to show it.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// `fargate.toml`; `None`: the default file.
    pub config: Option<PathBuf>,
    /// gitlab-runner's `config.toml`; `None`: it is searched for.
    pub runner_config: Option<PathBuf>,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to run a job at the end.
    pub launch: bool,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Doctor {
    /// Makes the checks and prints the report. The exit code is 0 if all is well, [`FAILURES`] or
    /// [`UNKNOWN`].
    ///
    /// # Errors
    /// When the configuration cannot be read, or the output cannot be written.
    pub async fn run(&self) -> Result<ExitCode, DoctorError> {
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let text = Config::text(self.config.as_deref())?;
        let report = self.examine(&text, path).await;
        let mut screen = Screen::stdout(ColourArg::Auto);
        let written = if self.json {
            report.write_json(&mut screen)
        } else {
            report.write_table(&mut screen)
        };
        match written.and_then(|()| screen.flush()) {
            // The reader, such as `head`, closed the pipe: it has what it wants.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e.into()),
            _ => {}
        }
        Ok(match report.worst() {
            Status::Pass | Status::Warning => ExitCode::SUCCESS,
            Status::Unknown => ExitCode::from(UNKNOWN),
            Status::Failure => ExitCode::from(FAILURES),
        })
    }

    async fn examine(&self, text: &str, path: &Path) -> Report {
        let mut report = Report::default();
        let runners = Runners::find(self.runner_config.as_deref(), path, &mut report);
        let config = configuration::check(text, path, &mut report);
        if let Some(runners) = &runners {
            runners.conclude(config.as_ref(), &mut report);
        }
        let Some(config) = config else {
            report.unknown_rest(&Check::ALWAYS, "It needs a configuration without mistakes.");
            report.finish();
            return report;
        };
        let control = EcsControl::new(config.fargate.region.clone());
        let mut examination = Examination {
            config: &config,
            control: &control,
            region: control.region().await.unwrap_or_default(),
            concurrent: runners.as_ref().map(Runners::concurrent),
            report,
            identity: None,
            cluster: None,
            definition: None,
            subnets: Vec::new(),
            is_answered: false,
            is_unanswered: false,
        };
        examination.check_directory();
        if examination.check_credentials().await {
            examination.check_account().await;
        } else {
            let why = "It needs credentials that AWS accepts.";
            examination.report.unknown_rest(&Check::ALWAYS, why);
        }
        let mut report = examination.report;
        if self.launch {
            launch::check(path, &mut report).await;
        }
        report.finish();
        report
    }
}

/// The checks of one configuration, with what they have found so far.
struct Examination<'a> {
    config: &'a Config,
    control: &'a EcsControl,
    /// Empty if none is configured.
    region: String,
    /// How many jobs gitlab-runner runs at the same time, if that is known.
    concurrent: Option<u32>,
    report: Report,
    identity: Option<Identity>,
    cluster: Option<Cluster>,
    definition: Option<TaskDefinition>,
    subnets: Vec<Subnet>,
    /// Whether AWS has answered a call that needs a permission.
    is_answered: bool,
    /// Whether STS has not answered.
    is_unanswered: bool,
}

impl Examination<'_> {
    /// Makes the checks that ask AWS.
    async fn check_account(&mut self) {
        if !self.check_cluster().await {
            // Each further call would only take its time.
            return self.report.unknown_rest(&Check::ALWAYS, "AWS does not answer.");
        }
        self.check_definition().await;
        self.check_container().await;
        self.check_roles().await;
        self.check_ecs_exec();
        self.check_images().await;
        self.check_subnets().await;
        self.check_routes().await;
        self.check_security_groups().await;
        self.check_managers().await;
        self.check_permissions().await;
        self.check_quotas().await;
    }

    /// The container that runs scripts, if the task definition is known and has it.
    fn container(&self) -> Option<&ContainerDefinition> {
        let name = Some(self.config.fargate.container.as_str());
        let containers = self.definition.as_ref()?.container_definitions();
        containers.iter().find(|container| container.name() == name)
    }

    /// The KMS key that the cluster encrypts ECS Exec's sessions with: an ARN, or `*` for a key's id
    /// or alias.
    fn session_key(&self) -> Option<String> {
        let settings = self.cluster.as_ref()?.configuration()?.execute_command_configuration()?;
        let key = settings.kms_key_id().filter(|key| !key.is_empty())?;
        Some(if key.starts_with("arn:") { key } else { "*" }.to_owned())
    }

    /// `family:revision` of the task definition, or what the configuration says.
    fn definition_name(&self) -> String {
        self.definition.as_ref().map_or_else(
            || self.config.fargate.task_definition.clone(),
            |definition| {
                let family = definition.family().unwrap_or_default();
                format!("{family}:{}", definition.revision())
            },
        )
    }
}

/// The name in an ARN: what follows the last slash.
fn name_in(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}
