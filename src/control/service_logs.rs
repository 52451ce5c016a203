//! The last lines of a container's log, from CloudWatch Logs: its one call, as in `ec2`.

use aws_sdk_ecs::types::LogDriver;
use serde::Deserialize;
use serde_json::Value;
use states::{ControlError, TaskArn, foreign_text};

use super::{EcsControl, call, errors};

/// Where a container's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stream {
    group: String,
    stream: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    message: String,
}

impl EcsControl {
    /// Returns at most `most` of the last lines that a container of a task has logged, oldest
    /// first, made harmless. Empty if its log is not in CloudWatch Logs.
    ///
    /// # Errors
    /// As the calls.
    pub async fn last_lines(
        &self,
        cluster: &str,
        task: &TaskArn,
        container: &str,
        most: u32,
    ) -> Result<Vec<String>, ControlError> {
        let Some(stream) = self.log_stream(cluster, task, container).await? else {
            return Ok(Vec::new());
        };
        let body = serde_json::json!({
            "logGroupName": stream.group,
            "logStreamName": stream.stream,
            "limit": most,
            "startFromHead": false,
        });
        let clients = self.clients().await;
        let config = &clients.shared;
        lines(call::json(config, "logs", "Logs_20140328.GetLogEvents", &body).await)
    }

    async fn log_stream(
        &self,
        cluster: &str,
        task: &TaskArn,
        container: &str,
    ) -> Result<Option<Stream>, ControlError> {
        let subject = errors::Subject::cluster(cluster);
        let call = self.clients().await.ecs.describe_tasks().cluster(cluster);
        let answer = call
            .tasks(task.as_str())
            .send()
            .await
            .map_err(|e| errors::refused("DescribeTasks", &e, &subject))?;
        let name = answer.tasks().first().and_then(|task| task.task_definition_arn());
        let Some(name) = name else { return Ok(None) };
        let definition = self.describe_definition(name).await?;
        let logs = definition
            .container_definitions()
            .iter()
            .find(|definition| definition.name() == Some(container))
            .and_then(|definition| definition.log_configuration())
            .filter(|logs| *logs.log_driver() == LogDriver::Awslogs);
        let option = |key: &str| logs?.options()?.get(key).cloned();
        Ok(option("awslogs-group").zip(option("awslogs-stream-prefix")).map(|(group, prefix)| {
            // Amazon ECS Developer Guide, "Send Amazon ECS logs to CloudWatch".
            Stream { group, stream: format!("{prefix}/{container}/{}", task.task_id()) }
        }))
    }
}

fn lines(answer: Result<Value, ControlError>) -> Result<Vec<String>, ControlError> {
    let answer = match answer {
        Ok(answer) => Answer::deserialize(answer).map_err(|e| {
            errors::nonsense("GetLogEvents", &foreign_text::clipped(&e.to_string()))
        })?,
        // It has logged nothing yet.
        Err(error) if error.code.as_deref() == Some("ResourceNotFoundException") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    Ok(answer.events.iter().map(|event| foreign_text::clipped(&event.message)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &[u8]) -> Result<Vec<String>, ControlError> {
        lines(call::read_json("GetLogEvents", status, body))
    }

    #[test]
    fn lines_are_read_and_made_harmless() {
        let body = br#"{"events":[{"timestamp":1,"message":"ready\u001b[2J"},{"message":"port"}],
            "nextForwardToken":"f"}"#;
        assert_eq!(read(200, body).unwrap(), ["ready\u{fffd}[2J", "port"]);
        assert_eq!(read(200, b"{}").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_stream_without_events_is_no_error_and_a_refusal_is() {
        let none = br#"{"__type":"ResourceNotFoundException","message":"no such stream"}"#;
        assert_eq!(read(400, none).unwrap(), Vec::<String>::new());
        let denied =
            br#"{"__type":"com.amazon#AccessDeniedException","Message":"logs:GetLogEvents"}"#;
        let error = read(400, denied).unwrap_err();
        assert_eq!(error.kind, states::ControlErrorKind::Denied);
        assert!(error.message.contains("logs:GetLogEvents"), "{error:?}");
        assert!(read(200, b"<html>").is_err());
    }
}
