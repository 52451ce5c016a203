//! Task definitions: they are registered, described, listed, deregistered and deleted.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{ApiError, clusters::includes, strings, text};
use crate::{
    cluster::Cluster,
    definitions::{self, Definition, DefinitionStatus},
};

/// Most revisions per DeleteTaskDefinitions (ECS API reference).
const MOST_DELETED: usize = 10;
/// Most elements of a page.
const PAGE: usize = 100;

pub(super) fn register(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let (is_concurrent, delay) = {
        let mut faults = cluster.faults();
        (faults.registers_concurrently(), faults.delay_ms.get("RegisterTaskDefinition").copied())
    };
    let mut definitions = cluster.definitions();
    if definitions.is_throttled(cluster.settings.registrations.as_ref()) {
        return Err(ApiError::new(400, "ThrottlingException", "Rate exceeded"));
    }
    if is_concurrent {
        return Err(definitions::concurrent());
    }
    let definition = Definition::parse(parameters)?;
    let pending = Duration::from_millis(delay.unwrap_or_default());
    let definition = definitions.register(definition, pending)?;
    Ok(json!({ "taskDefinition": shown(cluster, &definition), "tags": definition.tags }))
}

pub(super) fn describe(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let given = text(parameters, "taskDefinition").unwrap_or_default();
    cluster.forget_definitions();
    let definition = cluster
        .definitions()
        .find(given)
        .ok_or_else(|| ApiError::client("Unable to describe task definition."))?;
    let mut answer = json!({ "taskDefinition": shown(cluster, &definition) });
    if includes(parameters, "TAGS") {
        answer["tags"] = json!(definition.tags);
    }
    Ok(answer)
}

pub(super) fn deregister(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let given = revision(text(parameters, "taskDefinition").unwrap_or_default())?;
    let definition = cluster.definitions().deregister(given).ok_or_else(|| {
        ApiError::client("The specified task definition does not exist. Specify a valid account, family, revision and try again.")
    })?;
    Ok(json!({ "taskDefinition": shown(cluster, &definition) }))
}

pub(super) fn delete(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let given = strings(parameters, "taskDefinitions").unwrap_or_default();
    if given.is_empty() {
        return Err(ApiError::parameter("TaskDefinitions cannot be empty."));
    }
    if given.len() > MOST_DELETED {
        return Err(ApiError::parameter(format!(
            "TaskDefinitions cannot have more than {MOST_DELETED} elements."
        )));
    }
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for name in &given {
        match cluster.definitions().delete(revision(name)?) {
            Ok(definition) => deleted.push(shown(cluster, &definition)),
            Err(reason) => failures.push(json!({ "arn": name, "reason": reason })),
        }
    }
    cluster.forget_definitions();
    Ok(json!({ "taskDefinitions": deleted, "failures": failures }))
}

pub(super) fn list(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let status = text(parameters, "status").unwrap_or("ACTIVE");
    if !["ACTIVE", "INACTIVE", "DELETE_IN_PROGRESS"].contains(&status) {
        return Err(ApiError::client("Invalid status."));
    }
    cluster.forget_definitions();
    let mut all = cluster.definitions().all();
    // Despite its name, the prefix is the whole family (ECS API reference).
    if let Some(family) = text(parameters, "familyPrefix") {
        all.retain(|definition| definition.family == family);
    }
    all.retain(|definition| definition.status().name() == status);
    if text(parameters, "sort") == Some("DESC") {
        all.reverse();
    }
    let arns = all.iter().map(|definition| arn(cluster, definition)).collect();
    page(parameters, "taskDefinitionArns", arns)
}

pub(super) fn list_families(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let status = text(parameters, "status");
    if !matches!(status, None | Some("ACTIVE" | "INACTIVE" | "ALL")) {
        return Err(ApiError::client("Invalid status."));
    }
    let prefix = text(parameters, "familyPrefix").unwrap_or_default();
    cluster.forget_definitions();
    let all = cluster.definitions().all();
    let has_active = |family: &str| {
        let is_active = |definition: &&Arc<Definition>| {
            definition.family == family && definition.status() == DefinitionStatus::Active
        };
        all.iter().find(is_active).is_some()
    };
    let mut families: Vec<String> = all
        .iter()
        .map(|definition| definition.family.clone())
        .filter(|family| family.starts_with(prefix))
        .collect();
    families.dedup();
    match status {
        Some("ACTIVE") => families.retain(|family| has_active(family)),
        Some("INACTIVE") => families.retain(|family| !has_active(family)),
        _ => {}
    }
    page(parameters, "families", families)
}

/// Returns a page of a list.
fn page(parameters: &Value, field: &str, all: Vec<String>) -> Result<Value, ApiError> {
    let most = match parameters.get("maxResults").and_then(Value::as_u64) {
        None => PAGE,
        Some(most) => usize::try_from(most)
            .ok()
            .filter(|most| (1..=PAGE).contains(most))
            .ok_or_else(|| ApiError::parameter("maxResults must be between 1 and 100."))?,
    };
    let start: usize = match text(parameters, "nextToken") {
        Some(token) => token.parse().map_err(|_| ApiError::parameter("Invalid token."))?,
        None => 0,
    };
    let page: Vec<&String> = all.iter().skip(start).take(most).collect();
    let end = start + page.len();
    let mut answer = json!({ field: page });
    if end < all.len() {
        answer["nextToken"] = json!(end.to_string());
    }
    Ok(answer)
}

/// Returns the `family:revision` of a name or an ARN: these calls take no family alone.
fn revision(given: &str) -> Result<&str, ApiError> {
    let name = given.rsplit('/').next().unwrap_or(given);
    let has_revision =
        name.split_once(':').is_some_and(|(_, revision)| revision.parse::<usize>().is_ok());
    if has_revision {
        Ok(name)
    } else {
        Err(ApiError::client(format!("Invalid revision number. Number: {name}")))
    }
}

fn arn(cluster: &Cluster, definition: &Definition) -> String {
    cluster.arn(&format!("task-definition/{}", definition.name()))
}

fn shown(cluster: &Cluster, definition: &Definition) -> Value {
    definition.shown(&arn(cluster, definition))
}
