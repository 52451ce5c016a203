//! RunTask.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    ApiError, cluster_name, strings,
    tags::{check_count, check_tags},
    text,
};
use crate::{
    cluster::{Capacity, Cluster, ContainerOverride, Launch, Task},
    definitions::{Definition, DefinitionStatus, check_pair, check_storage, pairs},
    lifecycle,
    settings::INSTANCES,
};

/// Longest `overrides`, in characters (ECS API reference, RunTask).
const LONGEST_OVERRIDES: usize = 8192;

pub(super) fn run_task(cluster: &Arc<Cluster>, parameters: &Value) -> Result<Value, ApiError> {
    let name = cluster_name(cluster, parameters)?;
    let given = text(parameters, "taskDefinition")
        .ok_or_else(|| ApiError::client("taskDefinition cannot be empty"))?;
    cluster.forget_definitions();
    let definition = cluster
        .definitions()
        .find(given)
        .ok_or_else(|| ApiError::client("TaskDefinition not found."))?;
    if definition.status() != DefinitionStatus::Active {
        return Err(ApiError::client("TaskDefinition is inactive"));
    }
    if parameters.get("count").and_then(Value::as_u64).unwrap_or(1) != 1 {
        return Err(ApiError::parameter("the local cluster runs one task per call"));
    }
    let capacity = capacity(cluster, &name, parameters)?;
    let public = check_network(parameters)?;
    check_launch_type(&definition, capacity, public, parameters)?;
    let container_overrides = check_overrides(&definition, capacity, parameters)?;
    check_started_by(parameters)?;
    let tags = tags(&name, &definition, parameters)?;
    let token = text(parameters, "clientToken").map(str::to_owned);
    let mut fingerprint = parameters.clone();
    if let Some(object) = fingerprint.as_object_mut() {
        object.remove("clientToken");
    }
    if let Some(token) = &token {
        if token.len() > 64 || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ApiError::parameter(
                "Invalid clientToken: at most 64 characters of ASCII 33 to 126.",
            ));
        }
        match cluster.launched_with(token) {
            Some(_) if cluster.faults().conflicts() => {
                return Err(ApiError::new(
                    400,
                    "ConflictException",
                    "The RunTask request could not be processed due to conflicts.",
                ));
            }
            Some((earlier, task)) if earlier == fingerprint => return Ok(answer(cluster, &[task])),
            Some(_) => {
                let message = "The clientToken was used before with other parameters.";
                return Err(ApiError::new(400, "ConflictException", message));
            }
            None => {}
        }
    }
    if let Some(failure) = cluster.faults().fails_launch() {
        return Ok(
            json!({ "tasks": [], "failures": [{ "reason": failure.reason, "detail": failure.detail }] }),
        );
    }
    let platform = text(parameters, "platformVersion").unwrap_or("LATEST");
    if !(platform == "LATEST"
        || platform.split('.').count() == 3
            && platform.split('.').all(|part| part.parse::<u8>().is_ok()))
    {
        return Err(ApiError::new(
            400,
            "PlatformUnknownException",
            "The specified platform version does not exist.",
        ));
    }
    let task = cluster.launch(Launch {
        cluster: name,
        definition,
        started_by: text(parameters, "startedBy").map(str::to_owned),
        group: text(parameters, "group").map(str::to_owned),
        tags,
        overrides: parameters.get("overrides").cloned().unwrap_or_else(|| json!({})),
        capacity,
        container_overrides,
        public,
        exec: parameters.get("enableExecuteCommand").and_then(Value::as_bool).unwrap_or(false),
        token: token.map(|token| (token, fingerprint)),
    });
    tokio::spawn(lifecycle::live(Arc::clone(cluster), Arc::clone(&task)));
    Ok(answer(cluster, &[task]))
}

fn answer(cluster: &Cluster, tasks: &[Arc<Task>]) -> Value {
    json!({ "tasks": tasks.iter().map(|task| cluster.shown(task)).collect::<Vec<_>>(), "failures": [] })
}

/// Returns where the task's capacity comes from.
fn capacity(cluster: &Cluster, name: &str, parameters: &Value) -> Result<Capacity, ApiError> {
    let strategy = parameters
        .get("capacityProviderStrategy")
        .and_then(Value::as_array)
        .filter(|s| !s.is_empty());
    let has_instances = cluster.settings.instances;
    let none = || Err(ApiError::parameter("No Container Instances were found in your cluster."));
    match (text(parameters, "launchType"), strategy) {
        (Some(_), Some(_)) => Err(ApiError::parameter(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        )),
        (Some("FARGATE"), None) => Ok(Capacity::LaunchType("FARGATE")),
        (Some("EC2"), None) if has_instances => Ok(Capacity::LaunchType("EC2")),
        (Some(_), None) => none(),
        (None, Some(strategy)) => provider(strategy, has_instances),
        (None, None) if cluster.has_default_strategy(name) => Ok(Capacity::Provider("FARGATE")),
        (None, None) => none(),
    }
}

/// Returns the provider that a strategy's first task gets: the one with a base, or else the one
/// with the largest weight.
fn provider(strategy: &[Value], has_instances: bool) -> Result<Capacity, ApiError> {
    let number = |item: &Value, name: &str| item.get(name).and_then(Value::as_i64).unwrap_or(0);
    let known = ["FARGATE", "FARGATE_SPOT", INSTANCES];
    let known = if has_instances { &known[..] } else { &known[..2] };
    let mut providers = Vec::with_capacity(strategy.len());
    for item in strategy {
        let name = text(item, "capacityProvider").unwrap_or_default();
        let Some(name) = known.iter().find(|known| **known == name) else {
            return Err(ApiError::parameter("The specified capacity provider was not found."));
        };
        providers.push((number(item, "base"), number(item, "weight"), *name));
    }
    let of_fargate = providers.iter().filter(|(_, _, name)| *name != INSTANCES).count();
    if of_fargate > 0 && of_fargate < providers.len() {
        let message = "The specified capacity provider strategy cannot contain both Fargate and Auto Scaling group capacity providers.";
        return Err(ApiError::parameter(message));
    }
    let first = providers.into_iter().filter(|(_, weight, _)| *weight > 0).max();
    first.map(|(_, _, name)| Capacity::Provider(name)).ok_or_else(|| {
        ApiError::parameter("The specified capacity provider strategy cannot contain only capacity providers with a weight of 0.")
    })
}

/// Checks what depends on the launch type.
fn check_launch_type(
    definition: &Definition,
    capacity: Capacity,
    public: bool,
    parameters: &Value,
) -> Result<(), ApiError> {
    let launch_type = capacity.launch_type();
    let compatible = definition.field("requiresCompatibilities").and_then(Value::as_array);
    if compatible.is_some_and(|all| !all.iter().any(|name| name == launch_type)) {
        return Err(ApiError::parameter(format!(
            "Task definition does not support launch_type {launch_type}."
        )));
    }
    if launch_type == "FARGATE" {
        return Ok(());
    }
    let is_given = |pointer: &str| parameters.pointer(pointer).is_some_and(|v| !v.is_null());
    if is_given("/platformVersion") {
        let message = "The platform version must be null when specifying an EC2 launch type.";
        return Err(ApiError::parameter(message));
    }
    if public {
        let message = "Assign public IP is not supported for this launch type.";
        return Err(ApiError::parameter(message));
    }
    if is_given("/overrides/ephemeralStorage") {
        let message = "Ephemeral storage can only be specified for the Fargate launch type.";
        return Err(ApiError::parameter(message));
    }
    Ok(())
}

/// Whether the task gets a public address.
fn check_network(parameters: &Value) -> Result<bool, ApiError> {
    let vpc = parameters.pointer("/networkConfiguration/awsvpcConfiguration");
    let message = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
    let vpc = vpc.ok_or_else(|| ApiError::parameter(message))?;
    if vpc.get("subnets").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(ApiError::parameter("subnets can not be empty."));
    }
    Ok(text(vpc, "assignPublicIp") == Some("ENABLED"))
}

/// Checks the overrides. Returns those of containers, by name.
fn check_overrides(
    definition: &Definition,
    capacity: Capacity,
    parameters: &Value,
) -> Result<BTreeMap<String, ContainerOverride>, ApiError> {
    let Some(overrides) = parameters.get("overrides") else { return Ok(BTreeMap::new()) };
    if overrides.to_string().chars().count() > LONGEST_OVERRIDES {
        return Err(ApiError::parameter("Container Overrides length must be at most 8192"));
    }
    check_size(definition, capacity, overrides)?;
    let mut by_name: BTreeMap<String, ContainerOverride> = BTreeMap::new();
    for container in
        overrides.get("containerOverrides").and_then(Value::as_array).into_iter().flatten()
    {
        let name = text(container, "name").unwrap_or_default();
        if definition.container(name).is_none() {
            return Err(ApiError::parameter(format!(
                "Override for container named {name} is not a container in the TaskDefinition."
            )));
        }
        let one = by_name.entry(name.to_owned()).or_default();
        one.environment.extend(pairs(container, "environment"));
        if let Some(command) = strings(container, "command").filter(|words| !words.is_empty()) {
            one.command = Some(command);
        }
    }
    Ok(by_name)
}

/// Checks the task's size: what the overrides say, and the definition where they say nothing.
fn check_size(
    definition: &Definition,
    capacity: Capacity,
    overrides: &Value,
) -> Result<(), ApiError> {
    let given = |name: &str| overrides.get(name).filter(|value| !value.is_null());
    let in_words_of_run_task = |error: ApiError| ApiError::parameter(error.message);
    if given("cpu").is_some() || given("memory").is_some() {
        let part = |name: &str| given(name).or_else(|| definition.field(name));
        let (Some(cpu), Some(memory)) = (part("cpu"), part("memory")) else {
            return Err(ApiError::parameter(
                "Task CPU and memory must both be given: in the task definition, or in the overrides.",
            ));
        };
        // On instances, a task has any size.
        if capacity.launch_type() == "FARGATE" {
            check_pair(cpu, memory).map_err(in_words_of_run_task)?;
        }
    }
    check_storage(given("ephemeralStorage")).map_err(in_words_of_run_task)?;
    for role in ["taskRoleArn", "executionRoleArn"] {
        if let Some(arn) = text(overrides, role)
            && !(arn.starts_with("arn:") && arn.contains(":role/"))
        {
            return Err(ApiError::parameter(format!("Invalid role: {role} {arn}")));
        }
    }
    Ok(())
}

fn check_started_by(parameters: &Value) -> Result<(), ApiError> {
    match text(parameters, "startedBy") {
        Some(by)
            if by.len() > 128
                || !by.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_".contains(&b)) =>
        {
            Err(ApiError::parameter("startedBy: at most 128 letters, digits, '-', '/' or '_'."))
        }
        _ => Ok(()),
    }
}

/// Returns the task's tags: those of the call, the task definition's if they are propagated, and
/// ECS's own.
fn tags(name: &str, definition: &Definition, parameters: &Value) -> Result<Value, ApiError> {
    let mut tags: Vec<Value> =
        parameters.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    check_tags(&tags)?;
    match text(parameters, "propagateTags") {
        None | Some("NONE") => {}
        Some("TASK_DEFINITION") => {
            let own = |tag: &Value| tags.iter().any(|other| other["key"] == tag["key"]);
            let more: Vec<Value> =
                definition.tags.iter().filter(|tag| !own(tag)).cloned().collect();
            tags.extend(more);
        }
        Some(other) => {
            return Err(ApiError::parameter(format!(
                "propagateTags {other} is not valid for RunTask."
            )));
        }
    }
    check_count(&tags)?;
    if parameters.get("enableECSManagedTags").and_then(Value::as_bool) == Some(true) {
        tags.push(json!({ "key": "aws:ecs:clusterName", "value": name }));
    }
    Ok(Value::from(tags))
}
