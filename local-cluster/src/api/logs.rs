//! CloudWatch Logs' GetLogEvents: the output of containers whose log driver is `awslogs`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ApiError, text};
use crate::{cluster::Cluster, containers::Line, definitions::LogStream};

/// Most events of an answer (CloudWatch Logs API reference).
const MOST: usize = 10_000;

/// Performs an action of CloudWatch Logs.
pub(crate) fn logs(
    cluster: &Arc<Cluster>,
    action: &str,
    parameters: &Value,
) -> Result<Value, ApiError> {
    if action != "GetLogEvents" {
        return Err(super::unknown(action));
    }
    let group = text(parameters, "logGroupName").unwrap_or_default();
    let stream = text(parameters, "logStreamName").unwrap_or_default();
    let lines = lines(cluster, group, stream)?;
    let invalid = |name: &str| {
        ApiError::new(400, "InvalidParameterException", format!("The specified {name} is invalid."))
    };
    let most = match parameters.get("limit").filter(|limit| !limit.is_null()) {
        None => MOST,
        Some(limit) => limit
            .as_u64()
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| invalid("limit"))?,
    };
    let from_head = parameters.get("startFromHead").and_then(Value::as_bool).unwrap_or(false);
    let all = lines.len();
    let (start, end) = match text(parameters, "nextToken") {
        Some(token) => {
            let (direction, at) = token.split_once('/').ok_or_else(|| invalid("nextToken"))?;
            let at = at.parse::<usize>().map_err(|_| invalid("nextToken"))?.min(all);
            match direction {
                "f" => (at, all.min(at + most)),
                "b" => (at.saturating_sub(most), at),
                _ => return Err(invalid("nextToken")),
            }
        }
        None if from_head => (0, all.min(most)),
        None => (all.saturating_sub(most), all),
    };
    let events: Vec<Value> = lines[start..end]
        .iter()
        .map(|line| {
            json!({ "timestamp": line.at_ms, "ingestionTime": line.at_ms, "message": line.text })
        })
        .collect();
    Ok(json!({
        "events": events,
        "nextForwardToken": format!("f/{end}"),
        "nextBackwardToken": format!("b/{start}"),
    }))
}

/// Finds the stream `prefix/container/task`.
fn lines(cluster: &Cluster, group: &str, stream: &str) -> Result<Vec<Line>, ApiError> {
    let missing = |what: &str| {
        ApiError::new(
            400,
            "ResourceNotFoundException",
            format!("The specified log {what} does not exist."),
        )
    };
    let mut has_group = false;
    for task in cluster.all() {
        for container in &task.launch.definition.containers {
            let Some(LogStream { group: own, prefix }) = &container.log else { continue };
            if own != group {
                continue;
            }
            has_group = true;
            let is_stream = stream == format!("{prefix}/{}/{}", container.name, task.id);
            if is_stream && task.runtime.states.get(&container.name).is_logged() {
                let log = task.runtime.log(&container.name);
                return Ok(log.map(|log| log.lines()).unwrap_or_default());
            }
        }
    }
    Err(missing(if has_group { "stream" } else { "group" }))
}
