//! Task control: launching, describing and stopping ECS tasks.

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

use super::causes::{ControlCause, is_general};
use crate::{ClientToken, InterfaceId, StartedBy, StopReason, TaskArn};

/// The longest that a call may take, from its beginning to its answer or its being given up. The
/// machine counts on it: a RunTask of which nobody knows the outcome, and whose process may have
/// been killed, has reached ECS by then or never will.
pub const LONGEST_CALL: Duration = Duration::from_secs(20);

/// Launches, describes and stops tasks. One implementation speaks to ECS (and to anything that
/// speaks its API).
///
/// Implementations make one logical attempt per call and do not hide failures behind long internal
/// retries: when to try again is the machine's decision, so that it can be seen and replayed.
/// A call is given up after [`LONGEST_CALL`]; a launch by the engine, if the implementation does
/// not.
pub trait TaskControl: Send + Sync + 'static {
    /// Launches the task that `spec` describes (ECS: RunTask). With the same token and spec it
    /// answers with the same task, however often it is called.
    fn launch(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
    ) -> impl Future<Output = Result<TaskReport, ControlError>> + Send;

    /// Describes at most 100 tasks of one cluster (ECS: DescribeTasks). The answer has one entry
    /// for each task asked for.
    fn describe(
        &self,
        cluster: &str,
        tasks: &[TaskArn],
    ) -> impl Future<Output = Result<Vec<Described>, ControlError>> + Send;

    /// The tasks that were started with this `startedBy` and are meant to run (ECS: ListTasks).
    /// Tasks that stop may be among them.
    fn find(
        &self,
        cluster: &str,
        started_by: &StartedBy,
    ) -> impl Future<Output = Result<Vec<TaskArn>, ControlError>> + Send;

    /// Asks for the task's end (ECS: StopTask), with why for ECS's records. A task that is stopped
    /// already is a success.
    fn stop(
        &self,
        cluster: &str,
        task: &TaskArn,
        reason: &StopReason,
    ) -> impl Future<Output = Result<StopAnswer, ControlError>> + Send;

    /// The public address of a task's network interface (EC2: DescribeNetworkInterfaces); `None`
    /// while it has none.
    fn public_address(
        &self,
        interface: &InterfaceId,
    ) -> impl Future<Output = Result<Option<String>, ControlError>> + Send;
}

/// What ECS answers to StopTask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAnswer {
    /// The task is stopped, or will be: its desired status is STOPPED, and nothing changes that
    /// again.
    Accepted,
    /// ECS does not know the task: it was forgotten, or is so new that this answer came too early.
    Missing,
}

/// Everything RunTask is told. Part of the snapshot, so without secrets.
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
    /// Environment for that container: `SSH_PUBLIC_KEY` for the SSH transport. In a snapshot never
    /// a secret: see [`Engine::with_secrets`](crate::Engine::with_secrets).
    pub environment: Vec<(String, String)>,
    /// Short, unique per job: ListTasks finds the task by it when RunTask's answer was lost.
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
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl LaunchSpec {
    /// What to ask for after `refusals` launches without capacity: one subnet after the other,
    /// because each is in one availability zone; and, where the strategy names Spot and others,
    /// in each the others first and then the strategy as it is, because a strategy does not
    /// fall back by itself.
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
            // Weights of zero alone place nothing (Amazon ECS API reference,
            // CapacityProviderStrategyItem).
            if providers.iter().all(|provider| provider.weight == 0) {
                providers.iter_mut().for_each(|provider| provider.weight = 1);
            }
        }
        spec
    }
}

impl CapacityProvider {
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

/// What ECS says of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskArn,
    /// ECS's `lastStatus`: where the task is.
    pub status: TaskStatus,
    /// Whether ECS's `desiredStatus` is STOPPED: the task will not run any more, whatever `status`
    /// says.
    pub stop_desired: bool,
    /// The network interface, from PROVISIONING or PENDING on.
    pub interface: Option<NetworkInterface>,
    /// All containers that ECS reports.
    pub containers: Vec<ContainerReport>,
    /// Why it stops or stopped, once ECS says so.
    pub stopped: Option<Stopped>,
}

impl TaskReport {
    /// The container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerReport> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether it says why the task stops: a code or a reason, and an exit code where a container's
    /// exit is what stops it.
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

/// What ECS says of one container of a task.
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
    /// The container runtime's id of it: another id is another container.
    pub runtime_id: Option<String>,
}

/// Why a task stopped, in ECS's own words.
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
    /// The network interface is being made.
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
    /// The network interface is taken away.
    Deprovisioning,
    /// It is over.
    Stopped,
    /// It is over and about to be forgotten.
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

    /// Whether the task's life is over, and ECS has said all that it will say about it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::Deleted)
    }

    /// Whether no container of the task runs any more, nor will: from DEPROVISIONING on, when only
    /// its network interface is still to be removed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.is_over() || *self == Self::Deprovisioning
    }

    /// Whether the task is past RUNNING, on its way to the end or there.
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
    /// The task that was asked for.
    pub task: TaskArn,
    /// What ECS knows of it.
    pub seen: Seen,
}

/// What DescribeTasks knows of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// A task.
    Task(TaskReport),
    /// `MISSING`: not visible yet (seconds after RunTask), or forgotten (about an hour after it
    /// stopped).
    Missing,
}

/// Why task control could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct ControlError {
    /// The API operation: `RunTask`, `DescribeTasks` …
    pub operation: String,
    /// What kind of failure it is: decides whether trying again can help.
    pub kind: ControlErrorKind,
    /// The API's error code or failure reason, if it answered.
    pub code: Option<String>,
    /// What happened, on what, in the API's words where it spoke.
    pub message: String,
    /// What `kind` leaves open and a remedy depends on. Older drivers recorded the remedy itself.
    #[serde(default, skip_serializing_if = "is_general")]
    pub cause: ControlCause,
}

/// The kinds of refusal that lead to different behaviour or different advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControlErrorKind {
    /// Rate exceeded: ask again, more slowly.
    Throttled,
    /// No capacity now (`RESOURCE:*`, "Capacity is unavailable"): another subnet, or later.
    Capacity,
    /// A quota of the account is used up (vCPUs, tasks that wait for capacity): later, and no other
    /// subnet helps.
    AccountLimit,
    /// The service could not be reached, or failed (5xx, time-out, connection).
    Unavailable,
    /// Credentials that are refused, or expired: others may come (an instance profile is
    /// refreshed).
    Credentials,
    /// There are no credentials anywhere, so nothing was sent.
    NoCredentials,
    /// The credentials do not allow it (`AccessDenied`, `iam:PassRole`).
    Denied,
    /// Cluster, subnet, security group or platform version is wrong.
    WrongSetting,
    /// The task definition does not exist, is inactive, or does not fit.
    TaskDefinition,
    /// Neither launch type nor any capacity provider strategy: "No Container Instances were found
    /// in your cluster".
    NoCapacityProvider,
    /// The client token belongs to an earlier launch, which may have succeeded without an answer.
    Conflict,
    /// The answer made no sense.
    BadAnswer,
    /// Anything else that is permanent.
    Other,
}

impl ControlErrorKind {
    /// Its name in telemetry. Dashboards and alerts depend on it: it stays what it is when the
    /// variant is renamed.
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

    /// Whether the same call may succeed later without anybody changing a setting.
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
