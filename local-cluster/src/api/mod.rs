//! The API's actions.

mod clusters;
mod definitions;
pub(crate) mod ec2;
mod exec;
mod logs;
mod run_task;
pub(crate) mod sts;
mod tags;
mod tasks;

use std::sync::Arc;

use serde_json::Value;

use crate::cluster::Cluster;
pub(crate) use exec::{kms, ssm};
pub(crate) use logs::logs;
pub(crate) use tags::check_tags;

/// An error answer in AWS's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    pub(crate) fn parameter(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameterException", message)
    }

    pub(crate) fn client(message: impl Into<String>) -> Self {
        Self::new(400, "ClientException", message)
    }
}

/// Performs an ECS action.
pub(crate) fn ecs(
    cluster: &Arc<Cluster>,
    action: &str,
    parameters: &Value,
) -> Result<Value, ApiError> {
    match action {
        "RunTask" => run_task::run_task(cluster, parameters),
        "DescribeTasks" => tasks::describe(cluster, parameters),
        "ListTasks" => tasks::list(cluster, parameters),
        "ExecuteCommand" => exec::execute_command(cluster, parameters),
        "StopTask" => tasks::stop(cluster, parameters),
        "TagResource" => tags::tag_resource(cluster, parameters),
        "RegisterTaskDefinition" => definitions::register(cluster, parameters),
        "DescribeTaskDefinition" => definitions::describe(cluster, parameters),
        "DeregisterTaskDefinition" => definitions::deregister(cluster, parameters),
        "DeleteTaskDefinitions" => definitions::delete(cluster, parameters),
        "ListTaskDefinitions" => definitions::list(cluster, parameters),
        "ListTaskDefinitionFamilies" => definitions::list_families(cluster, parameters),
        "CreateCluster" => clusters::create_cluster(cluster, parameters),
        "DescribeClusters" => clusters::describe_clusters(cluster, parameters),
        _ => Err(unknown(action)),
    }
}

/// The refusal of an action that the local cluster does not have.
pub(crate) fn unknown(action: &str) -> ApiError {
    let message = format!("the local cluster has no action {action}");
    ApiError::new(400, "UnknownOperationException", message)
}

/// Returns a text that is not empty.
pub(crate) fn text<'a>(parameters: &'a Value, name: &str) -> Option<&'a str> {
    parameters.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Returns a list of texts.
pub(crate) fn strings(parameters: &Value, name: &str) -> Option<Vec<String>> {
    let list = parameters.get(name)?.as_array()?;
    list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Returns the call's cluster: a name or an ARN, `default` without one.
fn cluster_name(cluster: &Cluster, parameters: &Value) -> Result<String, ApiError> {
    let given = text(parameters, "cluster").unwrap_or("default");
    let name = given.rsplit('/').next().unwrap_or(given);
    if cluster.has_cluster(name) {
        Ok(name.to_owned())
    } else {
        Err(ApiError::new(400, "ClusterNotFoundException", "Cluster not found."))
    }
}
