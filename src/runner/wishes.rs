//! What the job wants to run in: `image:` and `services:` of `.gitlab-ci.yml`, from GitLab's
//! response. The texts are the project's own.

use serde::Deserialize;
use states::foreign_text;

use super::{
    StageEnvironment,
    response::{Response, ResponseError},
    variables::{Variable, Variables},
};

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Its image.
    pub image: Option<WishedContainer>,
    /// Its services, in order.
    pub services: Vec<WishedContainer>,
    /// Its variables, which names and values of these may refer to.
    pub variables: Variables,
}

/// An image or a service of the job (gitlab-runner, `common/spec`, `Image`). Names of variables are
/// replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct WishedContainer {
    /// The image's name.
    #[serde(default)]
    pub name: String,
    /// The host names of a service, separated by blanks or commas.
    #[serde(default, deserialize_with = "or_default")]
    pub alias: String,
    /// The entry point instead of the image's own.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The command of a service.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The ports that a service declares.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<WishedPort>,
    /// The variables of a service.
    #[serde(default, deserialize_with = "or_default")]
    pub variables: Vec<Variable>,
    /// When the image is to be pulled.
    #[serde(default, deserialize_with = "or_default")]
    pub pull_policy: Vec<String>,
    /// Options of other executors.
    #[serde(default, deserialize_with = "or_default")]
    pub executor_opts: ExecutorOptions,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WishedPort {
    /// Its number.
    pub number: u16,
}

/// `docker:` and `kubernetes:` of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ExecutorOptions {
    /// `docker:`.
    #[serde(default, deserialize_with = "or_default")]
    pub docker: DockerOptions,
    /// `kubernetes:`.
    #[serde(default, deserialize_with = "or_default")]
    pub kubernetes: KubernetesOptions,
}

/// `docker:` of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct DockerOptions {
    /// The user that the container runs as.
    #[serde(default, deserialize_with = "or_default")]
    pub user: String,
    /// Operating system and CPU architecture: `linux/arm64`.
    #[serde(default, deserialize_with = "or_default")]
    pub platform: String,
}

/// `kubernetes:` of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct KubernetesOptions {
    /// The user that the container runs as.
    #[serde(default, deserialize_with = "or_default")]
    pub user: String,
}

/// Why the wishes are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishesError {
    /// The response file cannot be used.
    #[error(transparent)]
    Response(#[from] ResponseError),
    /// What the job says there has another form.
    #[error("the job's {what} has a form that this driver does not know: {why}")]
    Form {
        /// `image:` or `services:`.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Wishes {
    /// Reads them from the response in a stage's environment. Without one, the job has none that
    /// could be trusted: `None`.
    ///
    /// # Errors
    /// When the file cannot be used, or has something else there.
    pub fn of(environment: &StageEnvironment) -> Result<Option<Self>, WishesError> {
        environment.response()?.map(Self::of_response).transpose()
    }

    fn of_response(response: &Response) -> Result<Self, WishesError> {
        let variables = Variables::of_response(response.variables.as_deref().unwrap_or_default());
        let image: Option<WishedContainer> = read("image:", &response.image)?;
        let services: Option<Vec<WishedContainer>> = read("services:", &response.services)?;
        let expanded = |wished: WishedContainer| wished.expanded(&variables);
        let image = image.map(expanded).filter(|image| !image.name.is_empty());
        let services = services.unwrap_or_default().into_iter().map(expanded).collect();
        Ok(Self { image, services, variables })
    }
}

impl WishedContainer {
    fn expanded(self, variables: &Variables) -> Self {
        Self {
            name: variables.expand(&self.name),
            alias: variables.expand(&self.alias),
            variables: variables.expanded(&self.variables),
            ..self
        }
    }

    /// The user that the container is to run as.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let ExecutorOptions { docker, kubernetes } = &self.executor_opts;
        [docker.user.as_str(), &kubernetes.user].into_iter().find(|user| !user.is_empty())
    }

    /// The value of one of the service's own variables.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().rev().find(|v| v.key == name).map(|v| v.value.as_str())
    }
}

fn read<T: serde::de::DeserializeOwned>(
    what: &'static str,
    value: &serde_json::Value,
) -> Result<Option<T>, WishesError> {
    Option::deserialize(value)
        .map_err(|e| WishesError::Form { what, why: foreign_text::clipped(&e.to_string()) })
}

/// Reads `null` as the default: gitlab-runner's fields may be absent.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(response: &str) -> Result<Wishes, WishesError> {
        Wishes::of_response(&serde_json::from_str(response).unwrap())
    }

    #[test]
    fn image_and_services_are_read_with_their_variables() {
        let wishes = of(r#"{"id": 1,
            "image": {"name": "node:$NODE", "alias": null, "entrypoint": [""], "ports": null,
                "pull_policy": null,
                "executor_opts": {"docker": {"user": "node"}, "kubernetes": null}},
            "services": [{"name": "postgres:${PG}", "alias": "db,pg", "entrypoint": null,
                "command": ["postgres", "-c", "fsync=off"], "ports": [{"number": 5432}],
                "variables": [{"key": "POSTGRES_PASSWORD", "value": "$SECRET"}]}],
            "variables": [{"key": "NODE", "value": "22"}, {"key": "PG", "value": "17"},
                {"key": "SECRET", "value": "x", "public": false}]}"#)
        .unwrap();
        let image = wishes.image.unwrap();
        assert_eq!((image.name.as_str(), image.user()), ("node:22", Some("node")));
        assert_eq!(image.entrypoint.as_deref(), Some(&[String::new()][..]));
        let [service] = &wishes.services[..] else { panic!("{:?}", wishes.services) };
        assert_eq!((service.name.as_str(), service.alias.as_str()), ("postgres:17", "db,pg"));
        assert_eq!(service.variable("POSTGRES_PASSWORD"), Some("x"));
        assert_eq!(service.ports[0].number, 5432);
    }

    #[test]
    fn a_job_without_wishes_has_none() {
        for nothing in [
            r#"{"id":1}"#,
            r#"{"id":1,"image":null,"services":null}"#,
            r#"{"id":1,"image":{"name":""},"services":[]}"#,
        ] {
            let wishes = of(nothing).unwrap();
            assert!(wishes.image.is_none() && wishes.services.is_empty(), "{nothing}");
        }
    }

    #[test]
    fn another_form_is_said() {
        let error = of(r#"{"id":1,"image":{"name":["\u001b"]}}"#).unwrap_err().to_string();
        assert!(error.starts_with("the job's image: has a form") && !error.contains('\u{1b}'));
        assert!(of(r#"{"id":1,"services":{"name":"x"}}"#).is_err());
        assert!(of(r#"{"id":1,"services":[{"name":"x","ports":[{"number":70000}]}]}"#).is_err());
    }
}
