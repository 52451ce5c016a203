//! Formats clusters and tasks for the API.

use serde_json::{Value, json};

use super::{Cluster, Status, Task, TaskState};
use crate::{
    definitions::{ContainerDefinition, Definition},
    exec::keys::KEY,
    settings::{Handshake, INSTANCES},
};

impl Cluster {
    /// Formats the configuration for `include = CONFIGURATIONS`.
    pub(crate) fn configuration(&self) -> Value {
        let mut command = json!({ "logging": "NONE" });
        if self.settings.exec.handshake == Handshake::Kms {
            command["kmsKeyId"] = json!(KEY);
        }
        json!({ "executeCommandConfiguration": command })
    }

    pub(crate) fn describe_cluster(&self, name: &str) -> Value {
        let strategy = if self.has_default_strategy(name) {
            json!([{ "capacityProvider": "FARGATE", "weight": 1, "base": 0 }])
        } else {
            json!([])
        };
        let of = |status: fn(Status) -> bool| {
            self.all()
                .iter()
                .filter(|t| t.launch.cluster == name && status(t.state().status))
                .count()
        };
        json!({
            "clusterArn": self.arn(&format!("cluster/{name}")),
            "clusterName": name,
            "status": "ACTIVE",
            "runningTasksCount": of(|status| status == Status::Running),
            "pendingTasksCount": of(|status| status < Status::Running),
            "capacityProviders": if self.settings.instances {
                json!(["FARGATE", "FARGATE_SPOT", INSTANCES])
            } else {
                json!(["FARGATE", "FARGATE_SPOT"])
            },
            "defaultCapacityProviderStrategy": strategy,
        })
    }

    /// Formats a task for the API.
    pub(crate) fn shown(&self, task: &Task) -> Value {
        let state = task.state();
        let definition = &task.launch.definition;
        let has_interface = state.status >= Status::Pending;
        let mut details = vec![json!({ "name": "subnetId", "value": "subnet-local" })];
        if has_interface {
            details.push(json!({ "name": "networkInterfaceId", "value": task.interface }));
            details
                .push(json!({ "name": "privateIPv4Address", "value": task.address.to_string() }));
        }
        let attachment = json!({
            "id": task.interface.replace("eni-", "attachment-"),
            "type": "ElasticNetworkInterface",
            "status": if state.status >= Status::Deprovisioning { "DELETED" } else if has_interface { "ATTACHED" } else { "PRECREATED" },
            "details": details,
        });
        let containers: Vec<Value> = definition
            .containers
            .iter()
            .map(|container| self.shown_container(task, &state, container))
            .collect();
        let mut shown = json!({
            "taskArn": self.task_arn(task),
            "clusterArn": self.arn(&format!("cluster/{}", task.launch.cluster)),
            "taskDefinitionArn": self.arn(&format!("task-definition/{}", definition.name())),
            "group": task.launch.group.clone().unwrap_or_else(|| format!("family:{}", definition.family)),
            "lastStatus": state.status.name(),
            "desiredStatus": if state.stop.is_some() { "STOPPED" } else { "RUNNING" },
            "launchType": task.launch.capacity.launch_type(),
            "attributes": [{ "name": "ecs.cpu-architecture", "value": architecture(definition) }],
            "platformVersion": "1.4.0",
            "availabilityZone": format!("{}a", self.settings.region),
            "enableExecuteCommand": task.launch.exec,
            "overrides": task.launch.overrides,
            "tags": task.tags(),
            "attachments": [attachment],
            "containers": containers,
            "version": 1,
        });
        for name in ["cpu", "memory", "ephemeralStorage"] {
            let size = task.launch.overrides.get(name).filter(|size| !size.is_null());
            if let Some(size) = size.or_else(|| definition.field(name)) {
                shown[name] = size.clone();
            }
        }
        if let Some(provider) = task.launch.capacity.provider() {
            shown["capacityProviderName"] = json!(provider);
        }
        if let Some(by) = &task.launch.started_by {
            shown["startedBy"] = json!(by);
        }
        if let Some(stop) = &state.stop {
            shown["stopCode"] = json!(stop.code);
            shown["stoppedReason"] = json!(stop.reason);
        }
        for (name, at) in &state.times {
            shown[*name] = json!(at);
        }
        shown
    }

    fn shown_container(
        &self,
        task: &Task,
        state: &TaskState,
        container: &ContainerDefinition,
    ) -> Value {
        let name = &container.name;
        let own = task.runtime.states.get(name);
        let status = match state.status {
            _ if own.is_stopped => "STOPPED",
            Status::Pending | Status::Activating if own.is_started => "RUNNING",
            Status::Provisioning | Status::Pending | Status::Activating => "PENDING",
            Status::Running | Status::Deactivating | Status::Stopping => "RUNNING",
            Status::Deprovisioning | Status::Stopped => "STOPPED",
        };
        let mut shown = json!({
            "containerArn": self.container_arn(task, name),
            "taskArn": self.task_arn(task),
            "name": name,
            "image": container.image,
            "lastStatus": status,
            "networkInterfaces": [],
        });
        if own.is_started {
            shown["runtimeId"] = json!(task.runtime_id(name));
            shown["networkInterfaces"] =
                json!([{ "privateIpv4Address": task.address.to_string() }]);
        }
        if task.launch.exec {
            shown["managedAgents"] = json!([task.agent.shown()]);
        }
        if status == "STOPPED" {
            let stop = state.stop.as_ref();
            if let Some(code) = own.exit_code.or(stop.and_then(|stop| stop.exit_code)) {
                shown["exitCode"] = json!(code);
            }
            let reason = own.reason.or(stop.and_then(|stop| stop.container_reason.clone()));
            if let Some(reason) = reason {
                shown["reason"] = json!(reason);
            }
        }
        shown
    }
}

/// Returns the architecture of a task of this definition, as ECS's attribute has it.
fn architecture(definition: &Definition) -> &'static str {
    let platform = definition.field("runtimePlatform");
    match platform.and_then(|platform| platform.get("cpuArchitecture")).and_then(Value::as_str) {
        Some("ARM64") => "arm64",
        _ => "x86_64",
    }
}
