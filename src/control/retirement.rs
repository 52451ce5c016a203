//! The calls with which derived task definitions are listed and retired.

use std::time::SystemTime;

use aws_sdk_ecs::types::{TaskDefinitionFamilyStatus, TaskDefinitionField};
use states::{ControlError, ControlErrorKind};

use super::{EcsControl, MANAGER_TAG, errors};
use crate::definition::BASE_TAG;

/// A derived definition, as ECS shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedDefinition {
    /// Its ARN.
    pub arn: String,
    /// The runner manager that registered it.
    pub manager: String,
    /// When that was.
    pub registered: SystemTime,
}

impl EcsControl {
    /// Returns the families with an active revision whose names begin so.
    ///
    /// # Errors
    /// As the call.
    pub async fn families(&self, prefix: &str) -> Result<Vec<String>, ControlError> {
        const OPERATION: &str = "ListTaskDefinitionFamilies";
        let subject = errors::Subject::definition(prefix);
        let call = self
            .clients()
            .await
            .ecs
            .list_task_definition_families()
            .family_prefix(prefix)
            .status(TaskDefinitionFamilyStatus::Active);
        let mut families = Vec::new();
        let mut pages = call.into_paginator().items().send();
        while let Some(family) = pages.next().await {
            families.push(family.map_err(|e| errors::refused(OPERATION, &e, &subject))?);
        }
        Ok(families)
    }

    /// Returns a family's newest revision, if a driver derived it.
    ///
    /// # Errors
    /// As the call.
    pub async fn derived(&self, family: &str) -> Result<Option<DerivedDefinition>, ControlError> {
        const OPERATION: &str = "DescribeTaskDefinition";
        let call = self
            .clients()
            .await
            .ecs
            .describe_task_definition()
            .task_definition(family)
            .include(TaskDefinitionField::Tags);
        let subject = errors::Subject::definition(family);
        let answer = match call.send().await.map_err(|e| errors::refused(OPERATION, &e, &subject)) {
            Ok(answer) => answer,
            // It is gone.
            Err(error) if error.kind == ControlErrorKind::TaskDefinition => return Ok(None),
            Err(error) => return Err(error),
        };
        let tag = |key: &str| answer.tags().iter().find(|tag| tag.key() == Some(key));
        let Some(definition) = answer.task_definition() else { return Ok(None) };
        let registered = definition.registered_at().and_then(|at| SystemTime::try_from(*at).ok());
        Ok(match (tag(BASE_TAG), definition.task_definition_arn(), registered) {
            (Some(_), Some(arn), Some(registered)) => Some(DerivedDefinition {
                arn: arn.to_owned(),
                manager: tag(MANAGER_TAG)
                    .and_then(|tag| tag.value())
                    .unwrap_or_default()
                    .to_owned(),
                registered,
            }),
            _ => None,
        })
    }

    /// Deregisters a definition and deletes it. Tasks that run with it are not affected.
    ///
    /// # Errors
    /// As the calls. One that is gone already is no error.
    pub async fn retire(&self, arn: &str) -> Result<(), ControlError> {
        let clients = self.clients().await;
        let ecs = &clients.ecs;
        let subject = errors::Subject::definition(arn);
        let call = ecs.deregister_task_definition().task_definition(arn);
        match call
            .send()
            .await
            .map_err(|e| errors::refused("DeregisterTaskDefinition", &e, &subject))
        {
            Ok(_) => {}
            // "The specified task definition does not exist.", or it is inactive.
            Err(error) if error.kind == ControlErrorKind::TaskDefinition => {}
            Err(error) => return Err(error),
        }
        let call = ecs.delete_task_definitions().task_definitions(arn);
        match call.send().await.map_err(|e| errors::refused("DeleteTaskDefinitions", &e, &subject))
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ControlErrorKind::TaskDefinition => Ok(()),
            Err(error) => Err(error),
        }
    }
}
