//! A container of a task definition.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::api::{ApiError, strings, text};

/// A container of a task definition: what running it needs. The rest of its definition is kept as
/// it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ContainerDefinition {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) is_essential: bool,
    pub(crate) entry_point: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) depends_on: Vec<Dependency>,
    pub(crate) user: Option<String>,
    pub(crate) working_directory: Option<String>,
    pub(crate) has_init: bool,
    pub(crate) has_read_only_root: bool,
    pub(crate) stop_timeout: Option<Duration>,
    pub(crate) log: Option<LogStream>,
}

/// A volume's place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) volume: String,
    pub(crate) path: String,
    pub(crate) is_read_only: bool,
}

/// A container that must have got somewhere before another starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) container: String,
    pub(crate) condition: Condition,
}

/// How far a container must have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It was started. `HEALTHY` is taken as this: health checks are not run here.
    Start,
    /// It has exited.
    Complete,
    /// It has exited with 0.
    Success,
}

/// Where the `awslogs` driver sends a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogStream {
    pub(crate) group: String,
    pub(crate) prefix: String,
}

/// Parses and checks a definition's containers.
pub(super) fn parse_all(
    given: &[Value],
    volumes: &BTreeSet<&str>,
) -> Result<Vec<ContainerDefinition>, ApiError> {
    let mut containers = Vec::new();
    let mut names = BTreeSet::new();
    for container in given {
        let parsed = parse(container, volumes)?;
        if !names.insert(parsed.name.clone()) {
            return Err(ApiError::client(format!(
                "Container names must be unique: '{}' is used twice.",
                parsed.name
            )));
        }
        containers.push(parsed);
    }
    if !containers.iter().any(|container| container.is_essential) {
        return Err(ApiError::client("At least one container should be marked as essential."));
    }
    check_dependencies(&containers)?;
    Ok(containers)
}

/// Fills in what ECS adds to a container's definition.
pub(super) fn with_defaults(container: &Value) -> Value {
    let mut shown = container.clone();
    if let Some(object) = shown.as_object_mut() {
        for (name, value) in [
            ("cpu", json!(0)),
            ("essential", json!(true)),
            ("environment", json!([])),
            ("mountPoints", json!([])),
            ("portMappings", json!([])),
            ("volumesFrom", json!([])),
        ] {
            object.entry(name).or_insert(value);
        }
    }
    shown
}

fn parse(given: &Value, volumes: &BTreeSet<&str>) -> Result<ContainerDefinition, ApiError> {
    let name = text(given, "name")
        .ok_or_else(|| ApiError::client("Container.name should not be null or empty."))?;
    if !super::is_name(name) {
        return Err(ApiError::client("Container.name contains invalid characters."));
    }
    let image = text(given, "image")
        .ok_or_else(|| ApiError::client("Container.image should not be null or empty."))?;
    if image.len() > 255 || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ApiError::client("Container.image contains invalid characters."));
    }
    if given.get("extraHosts").and_then(Value::as_array).is_some_and(|hosts| !hosts.is_empty()) {
        return Err(ApiError::client("Extra hosts are not supported when networkMode=awsvpc."));
    }
    if given.get("links").and_then(Value::as_array).is_some_and(|links| !links.is_empty()) {
        return Err(ApiError::client("Links are not supported when networkMode=awsvpc."));
    }
    for port in list(given, "portMappings") {
        let host = port.get("hostPort").filter(|host| **host != json!(0));
        if host.is_some_and(|host| Some(host) != port.get("containerPort")) {
            return Err(ApiError::client(
                "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
            ));
        }
    }
    Ok(ContainerDefinition {
        name: name.to_owned(),
        image: image.to_owned(),
        is_essential: given.get("essential").and_then(Value::as_bool).unwrap_or(true),
        entry_point: strings(given, "entryPoint").filter(|words| !words.is_empty()),
        command: strings(given, "command").filter(|words| !words.is_empty()),
        environment: pairs(given, "environment"),
        mounts: mounts(given, volumes)?,
        depends_on: dependencies(given)?,
        user: text(given, "user").map(str::to_owned),
        working_directory: text(given, "workingDirectory").map(str::to_owned),
        has_init: given.pointer("/linuxParameters/initProcessEnabled") == Some(&json!(true)),
        has_read_only_root: given.get("readonlyRootFilesystem") == Some(&json!(true)),
        stop_timeout: stop_timeout(given)?,
        log: log_stream(given)?,
    })
}

/// Reads a list of names and values.
pub(crate) fn pairs(given: &Value, field: &str) -> Vec<(String, String)> {
    let pair = |pair: &Value| {
        let value = pair.get("value").and_then(Value::as_str)?;
        Some((text(pair, "name")?.to_owned(), value.to_owned()))
    };
    list(given, field).filter_map(pair).collect()
}

fn list<'a>(given: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    given.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn mounts(given: &Value, volumes: &BTreeSet<&str>) -> Result<Vec<Mount>, ApiError> {
    let mount = |point: &Value| {
        let volume = text(point, "sourceVolume").unwrap_or_default();
        if !volumes.contains(volume) {
            return Err(ApiError::client(format!("Unknown volume '{volume}'.")));
        }
        let path = text(point, "containerPath").unwrap_or_default();
        let is_plain = path.split('/').skip(1).all(|part| !matches!(part, "." | ".."));
        if !path.starts_with('/') || path.trim_matches('/').is_empty() || !is_plain {
            return Err(ApiError::client(format!("Invalid containerPath '{path}'.")));
        }
        Ok(Mount {
            volume: volume.to_owned(),
            path: path.to_owned(),
            is_read_only: point.get("readOnly") == Some(&json!(true)),
        })
    };
    list(given, "mountPoints").map(mount).collect()
}

fn dependencies(given: &Value) -> Result<Vec<Dependency>, ApiError> {
    let dependency = |item: &Value| {
        let condition = match text(item, "condition") {
            Some("START" | "HEALTHY") => Condition::Start,
            Some("COMPLETE") => Condition::Complete,
            Some("SUCCESS") => Condition::Success,
            other => {
                return Err(ApiError::client(format!(
                    "Invalid dependency condition '{}'.",
                    other.unwrap_or_default()
                )));
            }
        };
        let container = text(item, "containerName").unwrap_or_default().to_owned();
        Ok(Dependency { container, condition })
    };
    list(given, "dependsOn").map(dependency).collect()
}

/// Checks that dependencies exist, and that they are no circle.
fn check_dependencies(containers: &[ContainerDefinition]) -> Result<(), ApiError> {
    for container in containers {
        for dependency in &container.depends_on {
            if !containers.iter().any(|other| other.name == dependency.container) {
                return Err(ApiError::client(format!(
                    "Container '{}' depends on a container that does not exist: '{}'.",
                    container.name, dependency.container
                )));
            }
        }
    }
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while placed.len() < containers.len() {
        let before = placed.len();
        let ready = containers.iter().filter(|container| {
            container.depends_on.iter().all(|on| placed.contains(on.container.as_str()))
        });
        let ready: Vec<&str> = ready.map(|container| container.name.as_str()).collect();
        placed.extend(ready);
        if placed.len() == before {
            return Err(ApiError::client("Container dependencies must not be circular."));
        }
    }
    Ok(())
}

fn stop_timeout(given: &Value) -> Result<Option<Duration>, ApiError> {
    match given.get("stopTimeout").filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds @ 0..=120) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(ApiError::client(
                "Invalid 'stopTimeout' setting for container. On Fargate, it is at most 120 seconds.",
            )),
        },
    }
}

fn log_stream(given: &Value) -> Result<Option<LogStream>, ApiError> {
    let Some(log) = given.get("logConfiguration") else { return Ok(None) };
    if text(log, "logDriver") != Some("awslogs") {
        return Ok(None);
    }
    let option = |name: &str| log.get("options").and_then(|options| text(options, name));
    let missing = |name: &str| {
        ApiError::client(format!(
            "Log driver awslogs requires options: awslogs-region, awslogs-group, awslogs-stream-prefix. Missing: {name}."
        ))
    };
    let named = |name: &str| option(name).map(str::to_owned).ok_or_else(|| missing(name));
    named("awslogs-region")?;
    Ok(Some(LogStream { group: named("awslogs-group")?, prefix: named("awslogs-stream-prefix")? }))
}
