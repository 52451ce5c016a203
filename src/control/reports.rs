//! From the SDK's types to the machine's vocabulary.

use aws_sdk_ecs::types::{Container, Task};
use states::{
    ContainerReport, ControlError, InterfaceId, NetworkInterface, Stopped, TaskArn, TaskReport, TaskStatus, foreign_text::clipped,
};

use super::errors;

/// A task as ECS described it.
pub(super) fn task(operation: &'static str, task: &Task) -> Result<TaskReport, ControlError> {
    let arn = task.task_arn().ok_or_else(|| errors::nonsense(operation, "a task without an ARN"))?;
    let code = task.stop_code().map(|code| code.as_str().to_owned());
    let reason = task.stopped_reason().map(clipped);
    Ok(TaskReport {
        task: TaskArn::new(arn).map_err(|e| errors::nonsense(operation, &e.to_string()))?,
        status: TaskStatus::parse(task.last_status().unwrap_or_default()),
        stop_desired: task.desired_status() == Some("STOPPED"),
        interface: interface(task),
        containers: task.containers().iter().map(container).collect(),
        stopped: (code.is_some() || reason.is_some()).then_some(Stopped { code, reason }),
    })
}

fn interface(task: &Task) -> Option<NetworkInterface> {
    let attachment = task.attachments().iter().find(|a| a.r#type() == Some("ElasticNetworkInterface"))?;
    let detail = |name: &str| {
        let found = attachment.details().iter().find(|d| d.name() == Some(name))?;
        found.value().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Some(NetworkInterface {
        id: detail("networkInterfaceId").and_then(|id| InterfaceId::new(id).ok()),
        private_address: detail("privateIPv4Address").or_else(|| detail("privateIPv6Address")),
        subnet: detail("subnetId"),
    })
}

fn container(container: &Container) -> ContainerReport {
    let agent = container.managed_agents().iter().find(|a| a.name().is_some_and(|name| name.as_str() == "ExecuteCommandAgent"));
    ContainerReport {
        name: container.name().unwrap_or_default().to_owned(),
        status: container.last_status().map(clipped),
        exit_code: container.exit_code(),
        reason: container.reason().map(clipped),
        exec_agent: agent.and_then(|a| a.last_status()).map(str::to_owned),
        runtime_id: container.runtime_id().map(str::to_owned),
    }
}
