//! Clusters.

use serde_json::{Value, json};

use super::{ApiError, text};
use crate::cluster::Cluster;

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
