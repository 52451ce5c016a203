//! ExecuteCommand and the related calls of other services: SSM's TerminateSession, ResumeSession
//! and DescribeSessions, KMS's GenerateDataKey.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{ApiError, cluster_name, text};
use crate::{
    cluster::{Cluster, Status},
    exec::{Session, Stage},
};

pub(super) fn execute_command(
    cluster: &Arc<Cluster>,
    parameters: &Value,
) -> Result<Value, ApiError> {
    let name = cluster_name(cluster, parameters)?;
    let given = text(parameters, "task")
        .ok_or_else(|| ApiError::parameter("Task Identifier can not be empty."))?;
    let id = given.rsplit('/').next().unwrap_or(given);
    if !matches!(id.len(), 32 | 36) {
        return Err(ApiError::parameter("taskId length should be one of [32,36]"));
    }
    let command = text(parameters, "command")
        .ok_or_else(|| ApiError::parameter("Command can not be empty."))?;
    if parameters.get("interactive").and_then(Value::as_bool) != Some(true) {
        return Err(ApiError::parameter("Interactive is the only mode supported currently."));
    }
    let task = cluster.task(id).filter(|task| task.launch.cluster == name && task.is_described());
    let task = task.ok_or_else(|| ApiError::parameter("The referenced task was not found."))?;
    let definition = &task.launch.definition;
    let container = match (text(parameters, "container"), definition.containers.as_slice()) {
        (Some(container), _) if definition.container(container).is_some() => container,
        (Some(container), _) => {
            return Err(ApiError::parameter(format!(
                "The container {container} was not found in the task."
            )));
        }
        (None, [only]) => &only.name,
        (None, _) => {
            return Err(ApiError::parameter(
                "Container name must be given: the task has several containers.",
            ));
        }
    };
    let state = task.state();
    let is_stopped = task.runtime.states.get(container).is_stopped;
    if state.stop.is_some() || state.status > Status::Running || is_stopped {
        return Err(ApiError::parameter(
            "The execute command failed because the task is not running. Run a new task and try again.",
        ));
    }
    if !task.launch.exec
        || state.status < Status::Running
        || matches!(task.agent.stage(), Stage::Pending | Stage::Gone)
    {
        return Err(ApiError::parameter(
            "The execute command failed because execute command was not enabled when the task was run or the execute command agent \
             isn’t running. Wait and try again or run a new task with execute command enabled and try again.",
        ));
    }
    let unreachable = || {
        let message = "The execute command failed due to an internal error. Try again later.";
        ApiError::new(400, "TargetNotConnectedException", message)
    };
    if task.agent.stage() != Stage::Connected || cluster.faults().exec.takes_slots() {
        return Err(unreachable());
    }
    let session = task.agent.open(cluster, &task, container, command).map_err(|_| unreachable())?;
    Ok(json!({
        "clusterArn": cluster.arn(&format!("cluster/{name}")),
        "containerArn": cluster.container_arn(&task, container),
        "containerName": session.container,
        "interactive": true,
        "session": {
            "sessionId": session.id,
            "streamUrl": cluster.stream_url(&session),
            "tokenValue": session.token(cluster.settings.exec.token_lifetime),
        },
        "taskArn": cluster.task_arn(&task),
    }))
}

/// Performs an action of Systems Manager.
pub(crate) fn ssm(
    cluster: &Arc<Cluster>,
    action: &str,
    parameters: &Value,
) -> Result<Value, ApiError> {
    match action {
        "ResumeSession" => {
            let session = session(cluster, parameters)?;
            // An answer without a token means that the session is over.
            if session.ended().is_some() || cluster.faults().exec.never_resumes {
                return Ok(json!({ "SessionId": session.id }));
            }
            session.resume();
            Ok(json!({
                "SessionId": session.id,
                "StreamUrl": cluster.stream_url(&session),
                "TokenValue": session.token(cluster.settings.exec.token_lifetime),
            }))
        }
        "DescribeSessions" => describe_sessions(cluster, parameters),
        "TerminateSession" => {
            let session = session(cluster, parameters)?;
            session.terminate();
            Ok(json!({ "SessionId": session.id }))
        }
        _ => Err(super::unknown(action)),
    }
}

/// Lists all sessions on one page. Supports the filters `Target` and `SessionId`.
fn describe_sessions(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let active = match text(parameters, "State") {
        Some("Active") => true,
        Some("History") => false,
        _ => {
            return Err(ApiError::new(
                400,
                "ValidationException",
                "State must be Active or History",
            ));
        }
    };
    let mut sessions = cluster.sessions.all();
    sessions.retain(|session| session.ended().is_none() == active);
    for filter in parameters.get("Filters").and_then(Value::as_array).into_iter().flatten() {
        let value = text(filter, "value").unwrap_or_default();
        match text(filter, "key") {
            Some("Target") => sessions.retain(|session| session.target == value),
            Some("SessionId") => sessions.retain(|session| session.id == value),
            key => {
                return Err(ApiError::new(
                    400,
                    "InvalidFilterKey",
                    format!("the local cluster has no filter {key:?}"),
                ));
            }
        }
    }
    let shown = sessions.iter().map(|session| {
        json!({
            "SessionId": session.id,
            "Target": session.target,
            "Status": if active { "Connected" } else { "Terminated" },
            "StartDate": session.began,
            "Owner": format!("arn:aws:iam::{}:root", cluster.settings.account),
        })
    });
    Ok(json!({ "Sessions": shown.collect::<Vec<_>>() }))
}

fn session(cluster: &Cluster, parameters: &Value) -> Result<Arc<Session>, ApiError> {
    let id = text(parameters, "SessionId").unwrap_or_default();
    cluster.sessions.find(id).ok_or_else(|| {
        ApiError::new(400, "DoesNotExistException", format!("Session {id:.96} does not exist"))
    })
}

/// Performs an action of the Key Management Service.
pub(crate) fn kms(
    cluster: &Arc<Cluster>,
    action: &str,
    parameters: &Value,
) -> Result<Value, ApiError> {
    if action != "GenerateDataKey" {
        return Err(super::unknown(action));
    }
    let key = text(parameters, "KeyId")
        .ok_or_else(|| ApiError::new(400, "ValidationException", "KeyId must not be null"))?;
    if parameters.get("NumberOfBytes").and_then(Value::as_u64) != Some(64) {
        return Err(ApiError::new(
            400,
            "ValidationException",
            "the local cluster makes data keys of 64 bytes",
        ));
    }
    let context =
        parameters.get("EncryptionContext").and_then(Value::as_object).into_iter().flatten();
    let context: BTreeMap<String, String> = context
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let made = cluster.keys.make(context);
    Ok(
        json!({ "KeyId": key, "Plaintext": STANDARD.encode(made.key), "CiphertextBlob": STANDARD.encode(&made.blob) }),
    )
}
