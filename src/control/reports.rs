//! Converts the SDK's types to the machine's.

use aws_sdk_ecs::{
    primitives::DateTime,
    types::{Container, Task},
};
use states::{
    Architecture, Billing, ContainerReport, ControlError, InterfaceId, NetworkInterface, Stopped,
    TaskArn, TaskReport, TaskSize, TaskStatus, Timestamp, foreign_text::clipped,
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
        billing: Some(billing(task)).filter(|b| *b != Billing::default()).map(Box::new),
    })
}

fn billing(task: &Task) -> Billing {
    let units = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let at = |time: Option<&DateTime>| {
        let millis = u64::try_from(time?.to_millis().ok()?).ok()?;
        Some(Timestamp::from_millis(millis))
    };
    let storage = task.ephemeral_storage().and_then(|of| u32::try_from(of.size_in_gib()).ok());
    Billing {
        size: TaskSize {
            cpu: units(task.cpu()),
            memory: units(task.memory()),
            ephemeral_storage: storage,
        },
        architecture: architecture(task),
        launch_type: task.launch_type().map(|launch_type| clipped(launch_type.as_str())),
        capacity_provider: task.capacity_provider_name().map(clipped),
        pull_started: at(task.pull_started_at()),
        started: at(task.started_at()),
        execution_stopped: at(task.execution_stopped_at()),
        stopped: at(task.stopped_at()),
    }
}

/// ECS reports the architecture as an attribute of the task.
fn architecture(task: &Task) -> Option<Architecture> {
    let of = task.attributes().iter().find(|of| of.name() == "ecs.cpu-architecture")?;
    match of.value()? {
        "x86_64" => Some(Architecture::X86),
        "arm64" => Some(Architecture::Arm),
        _ => None,
    }
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
    use aws_sdk_ecs::types::{
        Attachment, Attribute, EphemeralStorage, KeyValuePair, LaunchType,
        NetworkInterface as ContainerInterface,
    };

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
    fn what_a_bill_depends_on_is_read() {
        let of_architecture =
            Attribute::builder().name("ecs.cpu-architecture").value("arm64").build().unwrap();
        let shown = Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:1:task/ci/00000000000000000000000000000001")
            .cpu("1024")
            .memory("2048")
            .ephemeral_storage(EphemeralStorage::builder().size_in_gib(30).build())
            .attributes(of_architecture)
            .launch_type(LaunchType::Fargate)
            .capacity_provider_name("FARGATE_SPOT")
            .pull_started_at(DateTime::from_millis(1_790_000_000_250))
            .stopped_at(DateTime::from_millis(1_790_000_060_000))
            .build();
        let billing = *task("DescribeTasks", &shown).unwrap().billing.unwrap();
        let expected = Billing {
            size: TaskSize { cpu: Some(1024), memory: Some(2048), ephemeral_storage: Some(30) },
            architecture: Some(Architecture::Arm),
            launch_type: Some("FARGATE".into()),
            capacity_provider: Some("FARGATE_SPOT".into()),
            pull_started: Some(Timestamp::from_millis(1_790_000_000_250)),
            started: None,
            execution_stopped: None,
            stopped: Some(Timestamp::from_millis(1_790_000_060_000)),
        };
        assert_eq!(billing, expected);
    }

    #[test]
    fn the_address_in_an_ipv6_only_subnet_is_the_containers() {
        assert_eq!(address(None, Some("2001:db8::1")).as_deref(), Some("2001:db8::1"));
        assert_eq!(address(Some("10.0.0.1"), Some("2001:db8::1")).as_deref(), Some("10.0.0.1"));
        assert_eq!(address(None, Some("")), None, "not attached yet");
        assert_eq!(address(None, None), None);
    }
}
