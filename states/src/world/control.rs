//! Task control: launches, describes and stops ECS tasks.

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    additions::{Additions, JobContainer, TaskSize},
    billing::Billing,
    causes::{ControlCause, is_general},
};
use crate::{ClientToken, InterfaceId, StartedBy, StopReason, TaskArn};

/// The longest time from the start of a call until it has an answer or is given up. The machine
/// relies on it. A RunTask without an answer, whose process may have been killed, has reached ECS
/// by then or never will.
pub const LONGEST_CALL: Duration = Duration::from_secs(20);

/// Launches, describes and stops tasks. One implementation calls ECS, or any service with its API.
///
/// Implementations make one logical attempt per call, without long internal retries. The machine
/// decides when to try again, so that this can be seen and replayed. A call is given up after
/// [`LONGEST_CALL`]. The engine enforces this for a launch if the implementation does not.
pub trait TaskControl: Send + Sync + 'static {
    /// Launches the task that `spec` describes (ECS: RunTask). Repeated calls with the same token
    /// and spec return the same task.
    fn launch(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
    ) -> impl Future<Output = Result<TaskReport, ControlError>> + Send;

    /// Describes at most 100 tasks of one cluster (ECS: DescribeTasks). The answer has one entry
    /// for each of them.
    fn describe(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> impl Future<Output = Result<Vec<Described>, ControlError>> + Send;

    /// Lists the tasks with this `startedBy` whose desired status is RUNNING (ECS: ListTasks).
    /// Tasks that are stopping may be among them.
    fn find(
        &self,
        cluster: &str,
        started_by: &StartedBy,
    ) -> impl Future<Output = Result<Vec<TaskArn>, ControlError>> + Send;

    /// Stops the task (ECS: StopTask), with a reason for ECS's records. Succeeds for a task that
    /// has stopped already.
    fn stop(
        &self,
        cluster: &str,
        task: &TaskArn,
        reason: &StopReason,
    ) -> impl Future<Output = Result<StopAnswer, ControlError>> + Send;

    /// Adds tags to a task, and replaces those of the same names (ECS: TagResource). No decision
    /// depends on tags.
    fn tag(
        &self,
        task: &TaskArn,
        tags: &[(String, String)],
    ) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// Returns the public address of a task's network interface (EC2: DescribeNetworkInterfaces);
    /// `None` while it has none.
    fn public_address(
        &self,
        interface: &InterfaceId,
    ) -> impl Future<Output = Result<Option<String>, ControlError>> + Send;
}

/// The variable of [`LaunchSpec::environment`] with the public half of the job's key.
pub const PUBLIC_KEY_VARIABLE: &str = "SSH_PUBLIC_KEY";

/// ECS's answer to StopTask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAnswer {
    /// The task has stopped or will stop: its desired status is STOPPED, and stays so.
    Accepted,
    /// ECS does not know the task: it has forgotten it, or does not show it yet.
    Missing,
}

/// The parameters of RunTask. They are in the snapshot, so they contain no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The cluster's name or ARN.
    pub cluster: String,
    /// `family`, `family:revision` or ARN.
    pub task_definition: String,
    /// Fargate platform version; `None` leaves it to ECS (`LATEST`).
    pub platform_version: Option<String>,
    /// Subnets for the task's network interface, at least one.
    pub subnets: Vec<String>,
    /// Security groups of the network interface.
    pub security_groups: Vec<String>,
    /// Whether the interface gets a public address.
    pub assign_public_ip: bool,
    /// Where the task's capacity comes from.
    pub capacity: Capacity,
    /// The container that runs the scripts, by name (`ci-coordinator` unless configured).
    pub container: String,
    /// Environment variables of that container: `SSH_PUBLIC_KEY` for the SSH transport. Secrets are
    /// added at the launch only: see [`Engine::with_secrets`](crate::Engine::with_secrets).
    pub environment: Vec<(String, String)>,
    /// Short, and unique per job. ListTasks finds the task by it if RunTask's answer was lost.
    pub started_by: StartedBy,
    /// Tags: project, pipeline, job, runner, and the user's own.
    pub tags: Vec<(String, String)>,
    /// Whether ECS Exec is enabled on the task (only at RunTask).
    pub enable_execute_command: bool,
    /// Whether ECS copies the task definition's tags to the task (RunTask: `propagateTags`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub propagate_tags: bool,
    /// Whether ECS adds its own tags (`aws:ecs:…`) to the task.
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable_ecs_managed_tags: bool,
    /// What the task has beyond `task_definition`, which is then the base of a derived one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additions: Option<Box<Additions>>,
    /// The task's size, where the job chose one.
    #[serde(default, skip_serializing_if = "TaskSize::is_default")]
    pub size: TaskSize,
    /// The task's IAM role, where the job chose one: name or ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_role: Option<String>,
    /// Environment variables of services, by container. They may be secret, so they are added at
    /// the launch only: see [`Engine::with_secrets`](crate::Engine::with_secrets).
    #[serde(skip)]
    pub service_environment: Vec<(String, Vec<(String, String)>)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl LaunchSpec {
    /// The container with the job's image, in tasks that have one.
    #[must_use]
    pub fn job_container(&self) -> Option<&JobContainer> {
        self.additions.as_ref()?.job.as_ref()
    }

    /// The launch to try after `refusals` launches found no capacity. It tries one subnet after the
    /// other, as each is in one availability zone. If the strategy names Spot and other providers,
    /// each subnet is tried with the others first, and then with the whole strategy: a strategy
    /// does not fall back by itself.
    #[must_use]
    pub fn after_refusals(&self, refusals: u32) -> Self {
        let mut spec = self.clone();
        let Some(turn) = refusals.checked_sub(1).and_then(|turn| usize::try_from(turn).ok()) else {
            return spec;
        };
        let falls_back = match &self.capacity {
            Capacity::Strategy(providers) => {
                providers.iter().any(CapacityProvider::is_spot)
                    && providers.iter().any(|provider| !provider.is_spot())
            }
            _ => false,
        };
        let (subnet, without_spot) =
            if falls_back { (turn / 2, turn % 2 == 0) } else { (turn, false) };
        if let Some(subnet) = self.subnets.get(subnet % self.subnets.len().max(1)) {
            spec.subnets = vec![subnet.clone()];
        }
        if without_spot && let Capacity::Strategy(providers) = &mut spec.capacity {
            providers.retain(|provider| !provider.is_spot());
            // A strategy with only zero weights places no task (Amazon ECS API reference,
            // CapacityProviderStrategyItem).
            if providers.iter().all(|provider| provider.weight == 0) {
                providers.iter_mut().for_each(|provider| provider.weight = 1);
            }
        }
        spec
    }
}

impl Capacity {
    /// Whether tasks run on instances: with another launch type than Fargate, or by another
    /// capacity provider than Fargate's. A cluster's default strategy is not known, and counts as
    /// Fargate's.
    #[must_use]
    pub fn is_on_instances(&self) -> bool {
        match self {
            Self::ClusterDefault => false,
            Self::LaunchType(name) => name != "FARGATE",
            Self::Strategy(providers) => providers.iter().any(|provider| !provider.is_of_fargate()),
        }
    }
}

impl CapacityProvider {
    /// Whether it is one of Fargate's.
    #[must_use]
    pub fn is_of_fargate(&self) -> bool {
        self.is_spot() || self.name == "FARGATE"
    }

    fn is_spot(&self) -> bool {
        self.name == "FARGATE_SPOT"
    }
}

/// Where a task's capacity comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capacity {
    /// The cluster's default capacity provider strategy, as with the Go driver.
    ClusterDefault,
    /// A launch type: `FARGATE`, `EC2` or `EXTERNAL`.
    LaunchType(String),
    /// A capacity provider strategy: at most 20 entries.
    Strategy(Vec<CapacityProvider>),
}

/// One entry of a capacity provider strategy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityProvider {
    /// `FARGATE`, `FARGATE_SPOT`, or a provider's name.
    pub name: String,
    /// Relative share, 0 to 1000.
    pub weight: i32,
    /// Tasks placed here before weights count, 0 to 100000.
    pub base: i32,
}

/// ECS's report on one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskArn,
    /// ECS's `lastStatus`.
    pub status: TaskStatus,
    /// Whether ECS's `desiredStatus` is STOPPED: the task will stop, in any `status`.
    pub stop_desired: bool,
    /// The network interface, from PROVISIONING or PENDING on.
    pub interface: Option<NetworkInterface>,
    /// All containers that ECS reports.
    pub containers: Vec<ContainerReport>,
    /// Why it stops or stopped, once ECS reports it.
    pub stopped: Option<Stopped>,
    /// What its bill depends on. Older drivers did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing: Option<Box<Billing>>,
}

impl TaskReport {
    /// Returns the container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerReport> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether the report shows why the task stops: a code or a reason, and an exit code if a
    /// container's exit stops it.
    #[must_use]
    pub fn tells_why(&self) -> bool {
        let Some(Stopped { code, reason }) = &self.stopped else { return false };
        let by_exit = code.as_deref() == Some("EssentialContainerExited");
        (code.is_some() || reason.is_some())
            && (!by_exit
                || self.containers.iter().any(|c| c.exit_code.is_some() || c.reason.is_some()))
    }
}

/// A task's elastic network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// `eni-…`.
    pub id: Option<InterfaceId>,
    /// Its private IPv4 (or, in IPv6-only subnets, IPv6) address.
    pub private_address: Option<String>,
    /// Its subnet.
    pub subnet: Option<String>,
}

/// ECS's report on one container of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// The container's name in the task definition.
    pub name: String,
    /// `PENDING`, `RUNNING`, `STOPPED` …
    pub status: Option<String>,
    /// Its exit code, once it exited.
    pub exit_code: Option<i32>,
    /// ECS's reason, e.g. `OutOfMemoryError: …` or `CannotPullContainerError: …`.
    pub reason: Option<String>,
    /// Status of its ECS Exec agent (`managedAgents`, `ExecuteCommandAgent`).
    pub exec_agent: Option<String>,
    /// Its id in the container runtime. A different id means a different container.
    pub runtime_id: Option<String>,
}

/// Why a task stopped, in Quotes ECS's codes and reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// `stopCode`: `TaskFailedToStart`, `EssentialContainerExited`, `UserInitiated`,
    /// `SpotInterruption` …
    pub code: Option<String>,
    /// `stoppedReason`.
    pub reason: Option<String>,
}

/// ECS's `lastStatus` (Amazon ECS Developer Guide, "Amazon ECS task lifecycle").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskStatus {
    /// The network interface is being created.
    Provisioning,
    /// Images are pulled, containers created.
    Pending,
    /// Last steps before RUNNING.
    Activating,
    /// Its containers run.
    Running,
    /// Steps before it stops.
    Deactivating,
    /// Containers get SIGTERM, then SIGKILL.
    Stopping,
    /// The network interface is being removed.
    Deprovisioning,
    /// It has stopped.
    Stopped,
    /// It has stopped, and ECS is about to forget it.
    Deleted,
    /// A status this version does not know.
    Other(String),
}

impl TaskStatus {
    /// Parses `lastStatus`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "PROVISIONING" => Self::Provisioning,
            "PENDING" => Self::Pending,
            "ACTIVATING" => Self::Activating,
            "RUNNING" => Self::Running,
            "DEACTIVATING" => Self::Deactivating,
            "STOPPING" => Self::Stopping,
            "DEPROVISIONING" => Self::Deprovisioning,
            "STOPPED" => Self::Stopped,
            "DELETED" => Self::Deleted,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether the task has stopped, and ECS has reported all that it will.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::Deleted)
    }

    /// Whether no container of the task runs or will run: from DEPROVISIONING on, when only its
    /// network interface remains to be removed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.is_over() || *self == Self::Deprovisioning
    }

    /// Whether the task is past RUNNING: stopping or stopped.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(
            self,
            Self::Deactivating
                | Self::Stopping
                | Self::Deprovisioning
                | Self::Stopped
                | Self::Deleted
        )
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Stopped => "STOPPED",
            Self::Deleted => "DELETED",
            Self::Other(other) => other,
        })
    }
}

/// One entry of DescribeTasks' answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The task.
    pub task: TaskArn,
    /// What ECS shows of it.
    pub seen: Seen,
}

/// What DescribeTasks shows of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are tasks")]
pub enum Seen {
    /// A task.
    Task(TaskReport),
    /// `MISSING`: not visible yet (seconds after RunTask), or forgotten (about an hour after it
    /// stopped).
    Missing,
}

/// Why a call of task control failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct ControlError {
    /// The API operation: `RunTask`, `DescribeTasks` …
    pub operation: String,
    /// The kind of failure. It decides whether another attempt may succeed.
    pub kind: ControlErrorKind,
    /// The API's error code or failure reason, if it answered.
    pub code: Option<String>,
    /// What failed, on what, in the API's words if it answered.
    pub message: String,
    /// The details of `kind` that a remedy depends on. Older drivers recorded the remedy itself.
    #[serde(default, skip_serializing_if = "is_general")]
    pub cause: ControlCause,
}

/// The kinds of failed calls that lead to different behaviour or advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControlErrorKind {
    /// Rate exceeded: ask again, more slowly.
    Throttled,
    /// No capacity now (`RESOURCE:*`, "Capacity is unavailable"): another subnet, or later.
    Capacity,
    /// A quota of the account is used up (vCPUs, tasks that wait for capacity): later; another
    /// subnet does not help.
    AccountLimit,
    /// The service could not be reached, or failed (5xx, time-out, connection).
    Unavailable,
    /// The credentials were refused or have expired. New ones may come, as from an instance
    /// profile.
    Credentials,
    /// There are no credentials, so nothing was sent.
    NoCredentials,
    /// The credentials do not allow it (`AccessDenied`, `iam:PassRole`).
    Denied,
    /// Cluster, subnet, security group or platform version is wrong.
    WrongSetting,
    /// The task definition does not exist, is inactive, or does not fit.
    TaskDefinition,
    /// There is neither a launch type nor a capacity provider strategy: "No Container Instances
    /// were found in your cluster".
    NoCapacityProvider,
    /// The client token was used for an earlier launch, which may have succeeded without an answer.
    Conflict,
    /// The answer is invalid.
    BadAnswer,
    /// Anything else that is permanent.
    Other,
}

impl ControlErrorKind {
    /// Its name in telemetry. Dashboards and alerts depend on it, so it stays when the variant is
    /// renamed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Capacity => "capacity",
            Self::AccountLimit => "account_limit",
            Self::Unavailable => "unavailable",
            Self::Credentials => "credentials",
            Self::NoCredentials => "no_credentials",
            Self::Denied => "denied",
            Self::WrongSetting => "wrong_setting",
            Self::TaskDefinition => "task_definition",
            Self::NoCapacityProvider => "no_capacity_provider",
            Self::Conflict => "conflict",
            Self::BadAnswer => "bad_answer",
            Self::Other => "other",
        }
    }

    /// Whether the same call may succeed later without a change of settings.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Capacity
                | Self::AccountLimit
                | Self::Unavailable
                | Self::Credentials
                | Self::NoCredentials
                | Self::BadAnswer
        )
    }
}
