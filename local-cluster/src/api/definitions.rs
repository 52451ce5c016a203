//! Clusters and task definitions.

use serde_json::{Value, json};

use super::{ApiError, text};
use crate::cluster::{Cluster, Definition};

pub(super) fn create_cluster(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let name = text(parameters, "clusterName").unwrap_or("default");
    let strategy = parameters
        .get("defaultCapacityProviderStrategy")
        .and_then(Value::as_array)
        .is_some_and(|s| !s.is_empty());
    cluster.add_cluster(name, strategy);
    Ok(json!({ "cluster": cluster.describe_cluster(name) }))
}

pub(super) fn describe_clusters(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let asked: Vec<&str> = match parameters.get("clusters").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => vec!["default"],
    };
    let includes_configurations = includes(parameters, "CONFIGURATIONS");
    let mut clusters = Vec::new();
    let mut failures = Vec::new();
    for given in asked {
        let name = given.rsplit('/').next().unwrap_or(given);
        if cluster.has_cluster(name) {
            let mut shown = cluster.describe_cluster(name);
            if includes_configurations {
                shown["configuration"] = cluster.configuration();
            }
            clusters.push(shown);
        } else {
            failures.push(
                json!({ "arn": cluster.arn(&format!("cluster/{name}")), "reason": "MISSING" }),
            );
        }
    }
    Ok(json!({ "clusters": clusters, "failures": failures }))
}

/// Whether the call's `include` has this.
pub(super) fn includes(parameters: &Value, field: &str) -> bool {
    parameters
        .get("include")
        .and_then(Value::as_array)
        .is_some_and(|include| include.iter().any(|name| name == field))
}

pub(super) fn register(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let family = text(parameters, "family")
        .ok_or_else(|| ApiError::client("Family should not be null or empty."))?;
    let containers =
        parameters.get("containerDefinitions").and_then(Value::as_array).filter(|c| !c.is_empty());
    let names: Option<Vec<String>> = containers
        .ok_or_else(|| ApiError::client("Container list cannot be empty."))?
        .iter()
        .map(|c| text(c, "name").map(str::to_owned))
        .collect();
    let names =
        names.ok_or_else(|| ApiError::client("Container.name should not be null or empty."))?;
    let tags = parameters.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    let definition = cluster.register(family, names, tags);
    Ok(json!({ "taskDefinition": shown(cluster, &definition) }))
}

pub(super) fn describe(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let given = text(parameters, "taskDefinition").unwrap_or_default();
    let definition = cluster
        .definition(given)
        .ok_or_else(|| ApiError::client("Unable to describe task definition."))?;
    let tags: &[Value] = if includes(parameters, "TAGS") { &definition.tags } else { &[] };
    Ok(json!({ "taskDefinition": shown(cluster, &definition), "tags": tags }))
}

fn shown(cluster: &Cluster, definition: &Definition) -> Value {
    let containers: Vec<Value> = definition
        .containers
        .iter()
        .map(|name| json!({ "name": name, "essential": true, "image": "local" }))
        .collect();
    json!({
        "taskDefinitionArn": cluster.arn(&format!("task-definition/{}", definition.name())),
        "family": definition.family,
        "revision": definition.revision,
        "status": "ACTIVE",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "containerDefinitions": containers,
    })
}
