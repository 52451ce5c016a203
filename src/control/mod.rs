//! Task control on ECS (and on anything that speaks its API: the local cluster, moto).
//!
//! Each call is one attempt without the SDK's retries: the machine decides when to try again. The
//! SDK's clients are built at the first call, because the `run` stage normally makes none.

mod account;
mod call;
mod counts;
mod definition_cache;
mod definitions;
mod ec2;
mod endpoint;
mod errors;
mod exec;
mod kms_key;
mod listing;
mod recording;
mod reports;
mod retirement;
mod service_logs;
mod sharing;

pub(crate) use account::{
    EcrImage, Endpoint, Exit, Identity, Permission, RouteTable, SecurityGroup, Subnet,
};
pub use counts::{CallCount, calls};
pub use definition_cache::{DefinitionCache, KnownDefinition};
pub(crate) use definitions::NewestDefinition;
#[doc(hidden)]
pub use ec2::read as read_public_address;
pub use exec::ExecCalls;
pub use listing::Launched;
pub use retirement::DerivedDefinition;

use std::{sync::Arc, time::Duration};

use aws_config::{
    AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_ecs::{
    Client,
    types::{
        AssignPublicIp, AwsVpcConfiguration, CapacityProviderStrategyItem, ContainerOverride,
        EphemeralStorage, Failure, KeyValuePair, LaunchType, NetworkConfiguration, PropagateTags,
        Tag, TaskOverride,
    },
};
use states::{
    Capacity, ClientToken, ControlError, ControlErrorKind, Described, InterfaceId, LaunchSpec,
    Seen, StartedBy, StopAnswer, StopReason, TaskArn, TaskControl, TaskReport,
};
use tokio::sync::Mutex;

use self::sharing::Sharing;

pub use states::task_tags::{DIRECTORY_TAG, JOB_TAG, MANAGER_TAG, POOL_TAG};

/// The prefix of every driver's `startedBy`.
pub const STARTED_BY: &str = "gitlab-";

/// How long a connection to an endpoint may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long one attempt of a call may take.
const CALL_TIMEOUT: Duration = states::LONGEST_CALL;

/// Task control on ECS.
#[derive(Debug, Clone)]
pub struct EcsControl {
    region: Option<String>,
    clients: Arc<Mutex<Option<Arc<Clients>>>>,
    definitions: Option<Arc<DefinitionCache>>,
    sharing: Arc<Sharing>,
}

#[derive(Debug)]
struct Clients {
    shared: SdkConfig,
    ecs: Client,
}

impl EcsControl {
    /// Returns task control for this region, or else the environment's. It connects on demand.
    #[must_use]
    pub fn new(region: Option<String>) -> Self {
        Self { region, clients: Arc::default(), definitions: None, sharing: Arc::default() }
    }

    /// The same task control, which remembers derived task definitions.
    #[must_use]
    pub fn with_definitions(self, definitions: DefinitionCache) -> Self {
        Self { definitions: Some(Arc::new(definitions)), ..self }
    }

    /// Returns task control with this configuration of region, credentials and HTTP.
    #[must_use]
    pub fn with_config(shared: SdkConfig) -> Self {
        let clients = Clients { ecs: Client::new(&shared), shared };
        let clients = Arc::new(Mutex::new(Some(Arc::new(clients))));
        Self { region: None, clients, definitions: None, sharing: Arc::default() }
    }

    /// Returns the clients. Without a region they are not kept: a service may begin before the
    /// instance or a file says which one it is.
    async fn clients(&self) -> Arc<Clients> {
        let mut kept = self.clients.lock().await;
        if let Some(clients) = &*kept {
            return Arc::clone(clients);
        }
        let clients = Arc::new(self.make_clients().await);
        *kept = clients.shared.region().is_some().then(|| Arc::clone(&clients));
        clients
    }

    async fn make_clients(&self) -> Clients {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        // CloudTrail shows this name with the calls.
        if let Ok(name) = AppName::new("fargate-driver") {
            loader = loader.app_name(name);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let shared = loader.load().await;
        let settings =
            aws_sdk_ecs::config::Builder::from(&shared).interceptor(recording::Recording).build();
        Clients { ecs: Client::from_conf(settings), shared }
    }

    /// Returns the configuration of its clients, for a transport of the tests.
    #[cfg(feature = "pipes")]
    pub(crate) async fn configuration(&self) -> SdkConfig {
        self.clients().await.shared.clone()
    }

    async fn run_task(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
        definition: &str,
    ) -> Result<TaskReport, ControlError> {
        const OPERATION: &str = "RunTask";
        let mut call = self
            .clients()
            .await
            .ecs
            .run_task()
            .cluster(&spec.cluster)
            .task_definition(definition)
            .count(1)
            .client_token(token.as_str())
            .started_by(spec.started_by.as_str())
            .set_platform_version(spec.platform_version.clone())
            .enable_execute_command(spec.enable_execute_command)
            .set_enable_ecs_managed_tags(spec.enable_ecs_managed_tags.then_some(true))
            .set_propagate_tags(spec.propagate_tags.then_some(PropagateTags::TaskDefinition))
            .network_configuration(network(spec).map_err(|e| errors::unbuildable(OPERATION, &e))?)
            .overrides(overrides(spec))
            .set_tags(Some(
                spec.tags.iter().map(|(k, v)| Tag::builder().key(k).value(v).build()).collect(),
            ));
        match &spec.capacity {
            Capacity::ClusterDefault => {}
            Capacity::LaunchType(launch_type) => {
                call = call.launch_type(LaunchType::from(launch_type.as_str()))
            }
            Capacity::Strategy(providers) => {
                for provider in providers {
                    let item = CapacityProviderStrategyItem::builder()
                        .capacity_provider(&provider.name)
                        .weight(provider.weight)
                        .base(provider.base)
                        .build()
                        .map_err(|e| errors::unbuildable(OPERATION, &e))?;
                    call = call.capacity_provider_strategy(item);
                }
            }
        }
        let answer = call.send().await.map_err(|e| {
            errors::refused(OPERATION, &e, &errors::Subject::launch(spec, definition))
        })?;
        match (answer.tasks().first(), answer.failures().first()) {
            (Some(task), _) => reports::task(OPERATION, task),
            (None, Some(failure)) => {
                Err(errors::launch_failure(spec, failure.reason(), failure.detail()))
            }
            (None, None) => Err(errors::nonsense(OPERATION, "it has neither a task nor a failure")),
        }
    }

    /// As [`TaskControl::describe`], with the ARN of each task's definition, where ECS knows the task.
    pub(crate) async fn describe_with_definitions(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> Result<Vec<(Described, Option<String>)>, ControlError> {
        const OPERATION: &str = "DescribeTasks";
        let call = self
            .clients()
            .await
            .ecs
            .describe_tasks()
            .cluster(cluster)
            .set_tasks(Some(tasks.iter().map(ToString::to_string).collect()));
        let answer = call
            .send()
            .await
            .map_err(|e| errors::refused(OPERATION, &e, &errors::Subject::cluster(cluster)))?;
        let mut described = Vec::with_capacity(tasks.len());
        for task in answer.tasks() {
            let report = reports::task(OPERATION, task)?;
            let definition = task.task_definition_arn().map(str::to_owned);
            let seen = Described { task: report.task.clone(), seen: Seen::Task(report) };
            described.push((seen, definition));
        }
        for task in tasks {
            if described.iter().all(|(seen, _)| seen.task != *task) {
                let failure = answer
                    .failures()
                    .iter()
                    .find(|f| f.arn().is_some_and(|arn| arn.ends_with(task.task_id())));
                match failure.and_then(Failure::reason) {
                    None | Some("MISSING") => {
                        let missing = Described { task: task.clone(), seen: Seen::Missing };
                        described.push((missing, None));
                    }
                    // This is not an answer about one task; the engine describes all again.
                    Some(reason) => {
                        return Err(errors::nonsense(
                            OPERATION,
                            &format!("task {}: {reason}", task.task_id()),
                        ));
                    }
                }
            }
        }
        Ok(described)
    }

    /// Calls DescribeTasks once, for at most 100 tasks.
    async fn describe_now(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> Result<Vec<Described>, ControlError> {
        let described = self.describe_with_definitions(cluster, tasks).await?;
        Ok(described.into_iter().map(|(described, _)| described).collect())
    }
}

impl TaskControl for EcsControl {
    async fn launch(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
    ) -> Result<TaskReport, ControlError> {
        let definition = self.definition(spec).await?;
        match (self.run_task(token, spec, &definition.name).await, &definition.remembered) {
            // It was retired since: the next attempt registers it anew.
            (Err(error), Some(family)) if error.kind == ControlErrorKind::TaskDefinition => {
                self.definitions.iter().for_each(|known| known.forget(family));
                let definition = self.definition(spec).await?;
                self.run_task(token, spec, &definition.name).await
            }
            (answer, _) => answer,
        }
    }

    async fn describe(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> Result<Vec<Described>, ControlError> {
        let call = async |tasks: Vec<TaskArn>| self.describe_now(cluster, &tasks).await;
        // In a box, as the compiler's limit for the depth of nested futures is near.
        Box::pin(self.sharing.describe(cluster, tasks, call)).await
    }

    async fn find(
        &self,
        cluster: &str,
        started_by: &StartedBy,
    ) -> Result<Vec<TaskArn>, ControlError> {
        self.started_by(cluster, started_by).await
    }

    async fn stop(
        &self,
        cluster: &str,
        task: &TaskArn,
        reason: &StopReason,
    ) -> Result<StopAnswer, ControlError> {
        const OPERATION: &str = "StopTask";
        let call = self
            .clients()
            .await
            .ecs
            .stop_task()
            .cluster(cluster)
            .task(task.as_str())
            .reason(diagnosis::stop_note(reason));
        match call.send().await {
            Ok(_) => Ok(StopAnswer::Accepted),
            Err(e) => match errors::refused(OPERATION, &e, &errors::Subject::cluster(cluster)) {
                // "The referenced task was not found."
                error
                    if error.kind == ControlErrorKind::WrongSetting
                        && error.message.contains("task was not found") =>
                {
                    Ok(StopAnswer::Missing)
                }
                error => Err(error),
            },
        }
    }

    async fn tag(&self, task: &TaskArn, tags: &[(String, String)]) -> Result<(), ControlError> {
        const OPERATION: &str = "TagResource";
        let cluster = task.cluster_arn().unwrap_or_default();
        let call = self.clients().await.ecs.tag_resource().resource_arn(task.as_str());
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
        match call.set_tags(Some(tags.collect())).send().await {
            Ok(_) => Ok(()),
            Err(e) => Err(errors::refused(OPERATION, &e, &errors::Subject::cluster(&cluster))),
        }
    }

    async fn public_address(
        &self,
        interface: &InterfaceId,
    ) -> Result<Option<String>, ControlError> {
        ec2::public_address(&self.clients().await.shared, interface).await
    }
}

fn network(spec: &LaunchSpec) -> Result<NetworkConfiguration, aws_sdk_ecs::error::BuildError> {
    let assign =
        if spec.assign_public_ip { AssignPublicIp::Enabled } else { AssignPublicIp::Disabled };
    let vpc = AwsVpcConfiguration::builder()
        .set_subnets(Some(spec.subnets.clone()))
        .set_security_groups(Some(spec.security_groups.clone()).filter(|groups| !groups.is_empty()))
        .assign_public_ip(assign)
        .build()?;
    Ok(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
}

fn overrides(spec: &LaunchSpec) -> TaskOverride {
    let storage = spec.size.ephemeral_storage.map(|gibibytes| {
        EphemeralStorage::builder()
            .size_in_gib(i32::try_from(gibibytes).unwrap_or(i32::MAX))
            .build()
    });
    let container = |name: &str, variables: &[(String, String)]| {
        let pair = |(name, value): &(String, String)| {
            KeyValuePair::builder().name(name).value(value).build()
        };
        let environment = variables.iter().map(pair).collect();
        ContainerOverride::builder().name(name).set_environment(Some(environment)).build()
    };
    let mut overrides = TaskOverride::builder()
        .container_overrides(container(&spec.container, &spec.environment))
        .set_cpu(spec.size.cpu.map(|units| units.to_string()))
        .set_memory(spec.size.memory.map(|mebibytes| mebibytes.to_string()))
        .set_ephemeral_storage(storage)
        .set_task_role_arn(spec.task_role.clone());
    for (name, variables) in &spec.service_environment {
        overrides = overrides.container_overrides(container(name, variables));
    }
    overrides.build()
}
