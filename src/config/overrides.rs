//! Chooses a job's task definition and platform version: flags override variables, which override
//! the file.

use states::foreign_text::clipped;
use wildmatch::WildMatch;

use super::Fargate;

/// The overrides of the file.
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

/// The choice for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The task definition.
    pub task_definition: String,
    /// The platform version.
    pub platform_version: Option<String>,
    /// Whether the project chose the task definition.
    pub from_project: bool,
}

/// The project chose a task definition or a platform version that it may not use. It is the job's
/// own failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this runner does not allow the {} {:?}, which the variable {} asks for. Allowed: {}. Choose one of these, or ask the runner's administrator to extend {} in fargate.toml.",
    choice.what,
    clipped(chosen),
    choice.variable,
    if allowed.is_empty() { "none but the runner's own".to_owned() } else { allowed.join(", ") },
    choice.setting
)]
pub struct NotAllowed {
    /// The kind of choice.
    pub choice: Choice,
    /// The chosen value.
    pub chosen: String,
    /// The allowed patterns.
    pub allowed: Vec<String>,
}

/// A value that a project may choose within limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its name, for people.
    pub what: &'static str,
    /// The CI/CD variable of the choice.
    pub variable: &'static str,
    /// The key of `[Fargate]` that limits it.
    pub setting: &'static str,
}

const TASK_DEFINITION: Choice = Choice {
    what: "task definition",
    variable: "FARGATE_TASK_DEFINITION",
    setting: "AllowedTaskDefinitions",
};
const PLATFORM_VERSION: Choice = Choice {
    what: "platform version",
    variable: "FARGATE_PLATFORM_VERSION",
    setting: "AllowedPlatformVersions",
};

impl Overrides {
    /// Applies the overrides.
    ///
    /// # Errors
    /// When `AllowedTaskDefinitions` or `AllowedPlatformVersions` does not admit the project's
    /// choice.
    pub fn choose(&self, file: &Fargate) -> Result<Chosen, NotAllowed> {
        // GitLab passes an unset variable as an empty one, which is no choice.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let platform_version =
            match (given(&self.flag_platform_version), given(&self.variable_platform_version)) {
                (Some(flag), _) => Some(flag),
                (None, Some(variable)) if Some(&variable) != file.platform_version.as_ref() => {
                    Some(allowed(
                        PLATFORM_VERSION,
                        variable,
                        file.allowed_platform_versions.as_deref(),
                    )?)
                }
                (None, _) => file.platform_version.clone(),
            };
        let (task_definition, from_project) =
            match (given(&self.flag_task_definition), given(&self.variable_task_definition)) {
                (Some(flag), _) => (flag, false),
                (None, Some(variable)) if variable != file.task_definition => (
                    allowed(TASK_DEFINITION, variable, file.allowed_task_definitions.as_deref())?,
                    true,
                ),
                (None, _) => (file.task_definition.clone(), false),
            };
        Ok(Chosen { task_definition, platform_version, from_project })
    }
}

fn allowed(
    choice: Choice,
    chosen: String,
    patterns: Option<&[String]>,
) -> Result<String, NotAllowed> {
    match patterns {
        Some(patterns) if !patterns.iter().any(|p| WildMatch::new(p).matches(&chosen)) => {
            Err(NotAllowed { choice, chosen, allowed: patterns.to_vec() })
        }
        _ => Ok(chosen),
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
        let chosen = |o: &Overrides| {
            o.choose(&file(""))
                .map(|c| (c.task_definition, c.platform_version.unwrap_or_default()))
                .unwrap()
        };
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
        assert_eq!(
            (chosen.task_definition.as_str(), chosen.platform_version.as_deref()),
            ("default:1", Some("1.4.0"))
        );
    }

    #[test]
    fn patterns_limit_the_projects_choice_only() {
        let patterns = file("AllowedTaskDefinitions = ['ci-*', 'exact:2']");
        for allowed in ["ci-rust", "ci-rust:7", "exact:2", "default:1"] {
            assert_eq!(variable(allowed).choose(&patterns).unwrap().task_definition, allowed);
        }
        for refused in [
            "exact:21",
            "exact",
            "prod-ci-x",
            "arn:aws:ecs:eu-west-1:1:task-definition/ci-rust:7",
            "Ci-rust",
        ] {
            assert_eq!(variable(refused).choose(&patterns).unwrap_err().chosen, refused);
        }
        let flag = Overrides { flag_task_definition: Some("prod".into()), ..Overrides::default() };
        assert_eq!(
            flag.choose(&patterns).unwrap().task_definition,
            "prod",
            "the administrator's own choice"
        );
    }

    #[test]
    fn platform_versions_are_limited_like_task_definitions() {
        let version = |version: &str| Overrides {
            variable_platform_version: Some(version.to_owned()),
            ..Overrides::default()
        };
        let patterns = file("AllowedPlatformVersions = ['1.4.*', 'LATEST']");
        for allowed in ["1.4.0", "LATEST"] {
            assert_eq!(
                version(allowed).choose(&patterns).unwrap().platform_version.as_deref(),
                Some(allowed)
            );
        }
        let refusal = version("1.3.0").choose(&patterns).unwrap_err().to_string();
        for word in [
            "platform version \"1.3.0\"",
            "FARGATE_PLATFORM_VERSION",
            "1.4.*, LATEST",
            "AllowedPlatformVersions",
        ] {
            assert!(refusal.contains(word), "{word}: {refusal}");
        }
        let none = file("AllowedPlatformVersions = []");
        assert_eq!(
            version("1.4.0").choose(&none).unwrap().platform_version.as_deref(),
            Some("1.4.0"),
            "the file's own"
        );
        assert!(version("LATEST").choose(&none).is_err());
        let flag = Overrides { flag_platform_version: Some("1.3.0".into()), ..version("x") };
        assert_eq!(
            flag.choose(&none).unwrap().platform_version.as_deref(),
            Some("1.3.0"),
            "the administrator's own choice"
        );
    }

    #[test]
    fn an_empty_list_admits_only_the_files_value() {
        let refusal = variable("x").choose(&file("AllowedTaskDefinitions = []")).unwrap_err();
        assert!(refusal.to_string().contains("none but the runner's own"), "{refusal}");
    }
}
