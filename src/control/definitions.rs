//! The task definitions of jobs with images or services: each is derived from the administrator's,
//! registered once, and found again by its family.

use std::borrow::Cow;

use aws_sdk_ecs::types::{TaskDefinition, TaskDefinitionField};
use states::{Additions, ControlError, ControlErrorKind, LaunchSpec};

use super::{EcsControl, definition_cache::DefinitionCache, errors};
use crate::definition::Derivation;

const DESCRIBE: &str = "DescribeTaskDefinition";
const REGISTER: &str = "RegisterTaskDefinition";

/// The definition of a launch.
pub(super) struct Definition<'a> {
    /// Its name or ARN.
    pub(super) name: Cow<'a, str>,
    /// Its family, if it is derived and was known without a question to ECS: it may be gone.
    pub(super) remembered: Option<String>,
}

/// The definition of which a launch would be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NewestDefinition {
    /// The `family:revision`.
    Revision(String),
    /// A derived definition's family, whose revisions are all the same.
    Family(String),
}

impl NewestDefinition {
    /// Whether the task definition of this ARN is it.
    pub(crate) fn is(&self, arn: &str) -> bool {
        let name = arn.rsplit('/').next().unwrap_or(arn);
        match self {
            Self::Revision(newest) => name == newest,
            Self::Family(newest) => name.split(':').next() == Some(newest),
        }
    }
}

impl EcsControl {
    /// Returns the definition of a launch. A derived one is registered if it does not exist yet.
    pub(super) async fn definition<'a>(
        &self,
        spec: &'a LaunchSpec,
    ) -> Result<Definition<'a>, ControlError> {
        let given = spec.task_definition.as_str();
        let Some(additions) = &spec.additions else {
            return Ok(Definition { name: given.into(), remembered: None });
        };
        let cache = self.definitions.as_deref();
        // A revision never changes. Of a family without one, ECS knows the newest.
        let (name, described) = match revision(given) {
            Some(name) => (name.to_owned(), None),
            None => {
                let base = self.describe_definition(given).await?;
                (name_of(&base), Some(base))
            }
        };
        let derivation = derivation(&name, additions, spec);
        let family = derivation.family();
        if let Some(arn) = cache.and_then(|cache| cache.get(&family)) {
            return Ok(Definition { name: arn.into(), remembered: Some(family) });
        }
        // One registration at a time for each manager: ECS admits one a second, and refuses
        // concurrent ones of a family. The other processes then find what the first has registered.
        let _turn = match cache {
            Some(cache) => {
                let turn = cache.turn().await.map_err(|e| unwritable(cache, &e))?;
                Some(turn.ok_or_else(|| errors::registering(REGISTER))?)
            }
            None => None,
        };
        if let Some(arn) = cache.and_then(|cache| cache.get(&family)) {
            return Ok(Definition { name: arn.into(), remembered: Some(family) });
        }
        let found = match self.describe_definition(&family).await {
            Ok(definition) => Some(arn_of(&definition, DESCRIBE)?),
            // "Unable to describe task definition."
            Err(error) if error.kind == ControlErrorKind::TaskDefinition => None,
            Err(error) => return Err(error),
        };
        let arn = match found {
            Some(arn) => arn,
            None => {
                let base = match described {
                    Some(base) => base,
                    None => self.describe_definition(given).await?,
                };
                self.register(&derivation, &base, spec).await?
            }
        };
        if let Some(cache) = cache {
            cache.put(&family, &arn).map_err(|e| unwritable(cache, &e))?;
        }
        Ok(Definition { name: arn.into(), remembered: None })
    }

    /// Returns the definition of which a launch would be now. `None` if `spec` names a revision, which
    /// never changes.
    ///
    /// # Errors
    /// ECS's.
    pub(crate) async fn newest_definition(
        &self,
        spec: &LaunchSpec,
    ) -> Result<Option<NewestDefinition>, ControlError> {
        let given = spec.task_definition.as_str();
        if revision(given).is_some() {
            return Ok(None);
        }
        let base = name_of(&self.describe_definition(given).await?);
        Ok(Some(match &spec.additions {
            None => NewestDefinition::Revision(base),
            Some(additions) => {
                NewestDefinition::Family(derivation(&base, additions, spec).family())
            }
        }))
    }

    pub(super) async fn describe_definition(
        &self,
        name: &str,
    ) -> Result<TaskDefinition, ControlError> {
        let call = self.clients().await.ecs.describe_task_definition().task_definition(name);
        let answer = call
            .send()
            .await
            .map_err(|e| errors::refused(DESCRIBE, &e, &errors::Subject::definition(name)))?;
        answer
            .task_definition
            .ok_or_else(|| errors::nonsense(DESCRIBE, "it has no task definition"))
    }

    /// Returns the tags of a task definition, without those of AWS and of the driver.
    async fn tags_of(&self, name: &str) -> Result<Vec<(String, String)>, ControlError> {
        let call = self
            .clients()
            .await
            .ecs
            .describe_task_definition()
            .task_definition(name)
            .include(TaskDefinitionField::Tags);
        let answer = call
            .send()
            .await
            .map_err(|e| errors::refused(DESCRIBE, &e, &errors::Subject::definition(name)))?;
        let tags = answer.tags().iter().filter_map(|tag| {
            let key = tag.key().filter(|key| !key.starts_with("aws:"))?;
            let is_own = key.starts_with("fargate-driver:");
            (!is_own).then(|| (key.to_owned(), tag.value().unwrap_or_default().to_owned()))
        });
        Ok(tags.collect())
    }

    async fn register(
        &self,
        derivation: &Derivation<'_>,
        base: &TaskDefinition,
        spec: &LaunchSpec,
    ) -> Result<String, ControlError> {
        let inherited = if spec.propagate_tags {
            self.tags_of(&spec.task_definition).await?
        } else {
            Vec::new()
        };
        let own = [super::MANAGER_TAG]
            .into_iter()
            .filter_map(|key| spec.tags.iter().find(|(k, _)| k == key));
        let tags: Vec<_> =
            own.chain(&inherited).map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let request = derivation
            .request(base, &tags)
            .map_err(|e| errors::unsuitable_definition(REGISTER, &e))?;
        let call = self
            .clients()
            .await
            .ecs
            .register_task_definition()
            .set_family(request.family)
            .set_task_role_arn(request.task_role_arn)
            .set_execution_role_arn(request.execution_role_arn)
            .set_network_mode(request.network_mode)
            .set_container_definitions(request.container_definitions)
            .set_volumes(request.volumes)
            .set_placement_constraints(request.placement_constraints)
            .set_requires_compatibilities(request.requires_compatibilities)
            .set_cpu(request.cpu)
            .set_memory(request.memory)
            .set_proxy_configuration(request.proxy_configuration)
            .set_ephemeral_storage(request.ephemeral_storage)
            .set_runtime_platform(request.runtime_platform)
            .set_enable_fault_injection(request.enable_fault_injection)
            .set_tags(request.tags);
        let subject = errors::Subject::definition(&spec.task_definition);
        let answer = call.send().await.map_err(|e| errors::refused(REGISTER, &e, &subject))?;
        let definition = answer.task_definition();
        definition.map_or_else(
            || Err(errors::nonsense(REGISTER, "it has no task definition")),
            |definition| arn_of(definition, REGISTER),
        )
    }
}

fn derivation<'a>(base: &'a str, additions: &'a Additions, spec: &'a LaunchSpec) -> Derivation<'a> {
    Derivation { base, additions, coordinator: &spec.container }
}

/// The `family:revision` in a name or ARN, if it has a revision.
fn revision(given: &str) -> Option<&str> {
    let name = given.rsplit('/').next().unwrap_or(given);
    let (_, revision) = name.split_once(':')?;
    (!revision.is_empty() && revision.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

fn name_of(definition: &TaskDefinition) -> String {
    format!("{}:{}", definition.family().unwrap_or_default(), definition.revision())
}

fn arn_of(definition: &TaskDefinition, operation: &str) -> Result<String, ControlError> {
    let arn = definition.task_definition_arn().filter(|arn| DefinitionCache::is_arn(arn));
    arn.map(str::to_owned)
        .ok_or_else(|| errors::nonsense(operation, "the task definition has no ARN"))
}

fn unwritable(cache: &DefinitionCache, error: &std::io::Error) -> ControlError {
    let what = format!("{} cannot be used: {error}", cache.directory().display());
    errors::unusable_directory(REGISTER, &what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_of_the_newest_definition_or_of_an_older_one() {
        let arn = |name: &str| format!("arn:aws:ecs:eu-west-1:111122223333:task-definition/{name}");
        let newest = NewestDefinition::Revision("ci:7".to_owned());
        assert!(newest.is(&arn("ci:7")) && !newest.is(&arn("ci:6")) && !newest.is(&arn("ci:77")));
        let derived = NewestDefinition::Family("fargate-1".to_owned());
        assert!(derived.is(&arn("fargate-1:3")) && !derived.is(&arn("fargate-12:3")));
    }

    #[test]
    fn a_revision_is_found_in_names_and_arns() {
        for (given, name) in [
            ("ci:7", Some("ci:7")),
            ("arn:aws:ecs:eu-west-1:111122223333:task-definition/ci:7", Some("ci:7")),
            ("ci", None),
            ("arn:aws:ecs:eu-west-1:111122223333:task-definition/ci", None),
            ("ci:", None),
            ("ci:latest", None),
        ] {
            assert_eq!(revision(given), name, "{given}");
        }
    }
}
