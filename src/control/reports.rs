//! Converts the SDK's types to the machine's.

use aws_sdk_ecs::types::{Container, Task};
use states::{
    ContainerReport, ControlError, InterfaceId, NetworkInterface, Stopped, TaskArn, TaskReport,
    TaskStatus, foreign_text::clipped,
};

use super::errors;

/// Converts a description of a task.
pub(super) fn task(operation: &'static str, task: &Task) -> Result<TaskReport, ControlError> {
    let arn =
        task.task_arn().ok_or_else(|| errors::nonsense(operation, "a task without an ARN"))?;
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
    let attachment =
        task.attachments().iter().find(|a| a.r#type() == Some("ElasticNetworkInterface"))?;
    let detail = |name: &str| {
        let found = attachment.details().iter().find(|d| d.name() == Some(name))?;
        found.value().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Some(NetworkInterface {
        id: detail("networkInterfaceId").and_then(|id| InterfaceId::new(id).ok()),
        private_address: detail("privateIPv4Address").or_else(|| ipv6_address(task)),
        subnet: detail("subnetId"),
    })
}

/// In an IPv6-only subnet, the attachment has no address, but the containers' interfaces do.
fn ipv6_address(task: &Task) -> Option<String> {
    let mut interfaces = task.containers().iter().flat_map(Container::network_interfaces);
    interfaces
        .find_map(|interface| interface.ipv6_address().filter(|address| !address.is_empty()))
        .map(str::to_owned)
}

fn container(container: &Container) -> ContainerReport {
    let agent = container
        .managed_agents()
        .iter()
        .find(|a| a.name().is_some_and(|name| name.as_str() == "ExecuteCommandAgent"));
    ContainerReport {
        name: container.name().unwrap_or_default().to_owned(),
        status: container.last_status().map(clipped),
        exit_code: container.exit_code(),
        reason: container.reason().map(clipped),
        exec_agent: agent.and_then(|a| a.last_status()).map(str::to_owned),
        runtime_id: container.runtime_id().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::{Attachment, KeyValuePair, NetworkInterface as ContainerInterface};

    use super::*;

    fn address(attached: Option<&str>, of_container: Option<&str>) -> Option<String> {
        let detail =
            |name: &str, value: &str| KeyValuePair::builder().name(name).value(value).build();
        let mut attachment = Attachment::builder()
            .r#type("ElasticNetworkInterface")
            .details(detail("networkInterfaceId", "eni-1"));
        if let Some(address) = attached {
            attachment = attachment.details(detail("privateIPv4Address", address));
        }
        let interface =
            ContainerInterface::builder().set_ipv6_address(of_container.map(str::to_owned)).build();
        let container =
            Container::builder().name("ci-coordinator").network_interfaces(interface).build();
        let shown = Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:1:task/ci/00000000000000000000000000000001")
            .attachments(attachment.build())
            .containers(container);
        task("DescribeTasks", &shown.build()).unwrap().interface.unwrap().private_address
    }

    #[test]
    fn the_address_in_an_ipv6_only_subnet_is_the_containers() {
        assert_eq!(address(None, Some("2001:db8::1")).as_deref(), Some("2001:db8::1"));
        assert_eq!(address(Some("10.0.0.1"), Some("2001:db8::1")).as_deref(), Some("10.0.0.1"));
        assert_eq!(address(None, Some("")), None, "not attached yet");
        assert_eq!(address(None, None), None);
    }
}
