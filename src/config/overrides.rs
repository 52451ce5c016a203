//! Which task definition and platform version a job gets: flags over variables over the file.

use wildmatch::WildMatch;

use super::Fargate;

/// What may override the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// `--task-def`: the administrator's, from gitlab-runner's `config.toml`.
    pub flag_task_definition: Option<String>,
    /// `--platform-version`, likewise.
    pub flag_platform_version: Option<String>,
    /// `CUSTOM_ENV_FARGATE_TASK_DEFINITION`: from the project and its users, so untrusted.
    pub variable_task_definition: Option<String>,
    /// `CUSTOM_ENV_FARGATE_PLATFORM_VERSION`, likewise.
    pub variable_platform_version: Option<String>,
}

/// What a job gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The task definition.
    pub task_definition: String,
    /// The platform version.
    pub platform_version: Option<String>,
    /// Whether the project chose the task definition.
    pub from_project: bool,
}

/// The project chose a task definition that it may not use. The job's own failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this runner does not allow the task definition {chosen:?}, which the variable FARGATE_TASK_DEFINITION asks for. Allowed: {}. Choose one of these, or ask the runner's administrator to extend AllowedTaskDefinitions in fargate.toml.",
    if allowed.is_empty() { "none but the runner's own".to_owned() } else { allowed.join(", ") }
)]
pub struct NotAllowed {
    /// What was chosen.
    pub chosen: String,
    /// The patterns.
    pub allowed: Vec<String>,
}

impl Overrides {
    /// Chooses.
    ///
    /// # Errors
    /// When the project chose a task definition that `AllowedTaskDefinitions` does not admit.
    pub fn choose(&self, file: &Fargate) -> Result<Chosen, NotAllowed> {
        let platform_version =
            self.flag_platform_version.clone().or_else(|| self.variable_platform_version.clone()).or_else(|| file.platform_version.clone());
        let (task_definition, from_project) = match (&self.flag_task_definition, &self.variable_task_definition) {
            (Some(flag), _) => (flag.clone(), false),
            (None, Some(variable)) if *variable != file.task_definition => (allowed(variable, file)?, true),
            (None, _) => (file.task_definition.clone(), false),
        };
        Ok(Chosen { task_definition, platform_version, from_project })
    }
}

fn allowed(chosen: &str, file: &Fargate) -> Result<String, NotAllowed> {
    match &file.allowed_task_definitions {
        Some(patterns) if !patterns.iter().any(|p| WildMatch::new(p).matches(chosen)) => {
            Err(NotAllowed { chosen: chosen.to_owned(), allowed: patterns.clone() })
        }
        _ => Ok(chosen.to_owned()),
    }
}
