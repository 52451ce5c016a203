//! DescribeTasks, ListTasks, StopTask.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ApiError, cluster_name, clusters::includes, text};
use crate::cluster::{Cluster, Status, Stop};

/// Most tasks per DescribeTasks, and per page of ListTasks (ECS API reference).
const MOST: usize = 100;

pub(super) fn describe(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let name = cluster_name(cluster, parameters)?;
    let asked: Vec<&str> = parameters
        .get("tasks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if asked.is_empty() {
        return Err(ApiError::parameter("Tasks cannot be empty."));
    }
    if asked.len() > MOST {
        return Err(ApiError::parameter("Tasks cannot have more than 100 elements."));
    }
    let includes_tags = includes(parameters, "TAGS");
    let mut tasks = Vec::new();
    let mut failures = Vec::new();
    for given in asked {
        match cluster.task(given).filter(|task| task.launch.cluster == name && task.is_described())
        {
            Some(task) => {
                let mut shown = cluster.shown(&task);
                if !includes_tags {
                    shown["tags"] = json!([]);
                }
                tasks.push(shown);
            }
            None => {
                let id = given.rsplit('/').next().unwrap_or(given);
                failures.push(json!({ "arn": cluster.arn(&format!("task/{name}/{id}")), "reason": "MISSING" }));
            }
        }
    }
    Ok(json!({ "tasks": tasks, "failures": failures }))
}

pub(super) fn list(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let name = cluster_name(cluster, parameters)?;
    // ECS API reference, ListTasks: "When you specify startedBy as the filter, it must be the only
    // filter that you use."
    let others = ["desiredStatus", "family", "containerInstance", "serviceName", "launchType"];
    if text(parameters, "startedBy").is_some()
        && others.iter().any(|filter| text(parameters, filter).is_some())
    {
        return Err(ApiError::parameter("startedBy cannot be combined with another filter."));
    }
    let stopped = text(parameters, "desiredStatus") == Some("STOPPED");
    let most = parameters
        .get("maxResults")
        .and_then(Value::as_u64)
        .map_or(MOST, |n| usize::try_from(n).unwrap_or(MOST).clamp(1, MOST));
    let start: usize = match text(parameters, "nextToken") {
        Some(token) => token.parse().map_err(|_| ApiError::parameter("Invalid token."))?,
        None => 0,
    };
    let matching: Vec<String> = cluster
        .all()
        .into_iter()
        .filter(|task| task.launch.cluster == name && task.is_listed())
        .filter(|task| task.state().stop.is_some() == stopped)
        .filter(|task| {
            text(parameters, "startedBy")
                .is_none_or(|by| task.launch.started_by.as_deref() == Some(by))
        })
        .filter(|task| {
            text(parameters, "family").is_none_or(|family| task.launch.definition.family == family)
        })
        .map(|task| cluster.task_arn(&task))
        .collect();
    let page: Vec<&String> = matching.iter().skip(start).take(most).collect();
    let end = start + page.len();
    let mut answer = json!({ "taskArns": page });
    if end < matching.len() {
        answer["nextToken"] = json!(end.to_string());
    }
    Ok(answer)
}

pub(super) fn stop(cluster: &Arc<Cluster>, parameters: &Value) -> Result<Value, ApiError> {
    let name = cluster_name(cluster, parameters)?;
    let given = text(parameters, "task").unwrap_or_default();
    let task = cluster.task(given).filter(|task| task.launch.cluster == name);
    let task = task.ok_or_else(|| ApiError::parameter("The referenced task was not found."))?;
    if !cluster.faults().stop_ignored && task.state().status != Status::Stopped {
        let reason = text(parameters, "reason").unwrap_or("Task stopped by user").to_owned();
        task.request_stop(Stop {
            code: "UserInitiated".to_owned(),
            reason,
            container_reason: None,
            exit_code: None,
        });
    }
    Ok(json!({ "task": cluster.shown(&task) }))
}
