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
        // GitLab hands an unset variable over as an empty one; it chooses nothing.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let platform_version =
            given(&self.flag_platform_version).or_else(|| given(&self.variable_platform_version)).or_else(|| file.platform_version.clone());
        let (task_definition, from_project) = match (given(&self.flag_task_definition), given(&self.variable_task_definition)) {
            (Some(flag), _) => (flag, false),
            (None, Some(variable)) if variable != file.task_definition => (allowed(&variable, file)?, true),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn file(more: &str) -> Fargate {
        let text = format!(
            "[Fargate]\nCluster='c'\nSubnet='s'\nTaskDefinition='default:1'\nPlatformVersion='1.4.0'\n{more}\n[TaskMetadata]\nDirectory='/m'"
        );
        Config::parse(&text, Path::new("fargate.toml")).unwrap().0.fargate
    }

    fn variable(definition: &str) -> Overrides {
        Overrides { variable_task_definition: Some(definition.to_owned()), ..Overrides::default() }
    }

    #[test]
    fn flags_win_over_variables_and_variables_over_the_file() {
        let mut overrides = Overrides::default();
        let chosen = |o: &Overrides| o.choose(&file("")).map(|c| (c.task_definition, c.platform_version.unwrap_or_default())).unwrap();
        assert_eq!(chosen(&overrides), ("default:1".into(), "1.4.0".into()));
        overrides.variable_task_definition = Some("project:3".into());
        overrides.variable_platform_version = Some("1.3.0".into());
        assert_eq!(chosen(&overrides), ("project:3".into(), "1.3.0".into()));
        overrides.flag_task_definition = Some("flag:9".into());
        overrides.flag_platform_version = Some("LATEST".into());
        assert_eq!(chosen(&overrides), ("flag:9".into(), "LATEST".into()));
    }

    #[test]
    fn an_empty_override_chooses_nothing() {
        let overrides = Overrides {
            flag_task_definition: Some(String::new()),
            variable_task_definition: Some(" ".into()),
            variable_platform_version: Some(String::new()),
            ..Overrides::default()
        };
        let chosen = overrides.choose(&file("AllowedTaskDefinitions = []")).unwrap();
        assert_eq!((chosen.task_definition.as_str(), chosen.platform_version.as_deref()), ("default:1", Some("1.4.0")));
    }

    #[test]
    fn patterns_bound_what_the_project_chooses_and_nobody_else() {
        let patterns = file("AllowedTaskDefinitions = ['ci-*', 'exact:2']");
        for allowed in ["ci-rust", "ci-rust:7", "exact:2", "default:1"] {
            assert_eq!(variable(allowed).choose(&patterns).unwrap().task_definition, allowed);
        }
        for refused in ["exact:21", "exact", "prod-ci-x", "arn:aws:ecs:eu-west-1:1:task-definition/ci-rust:7", "Ci-rust"] {
            assert_eq!(variable(refused).choose(&patterns).unwrap_err().chosen, refused);
        }
        let flag = Overrides { flag_task_definition: Some("prod".into()), ..Overrides::default() };
        assert_eq!(flag.choose(&patterns).unwrap().task_definition, "prod", "the administrator's own choice");
    }

    #[test]
    fn an_empty_list_admits_the_file_alone() {
        let refusal = variable("x").choose(&file("AllowedTaskDefinitions = []")).unwrap_err();
        assert!(refusal.to_string().contains("none but the runner's own"), "{refusal}");
    }
}
