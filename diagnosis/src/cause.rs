//! The causes that diagnoses name.

/// A problem as a word, to count and filter by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "said by `Cause::words`")]
pub enum Cause {
    Nothing,
    Capacity,
    AccountLimit,
    Throttled,
    Credentials,
    Denied,
    WrongSetting,
    NoCapacityProvider,
    ApiUnavailable,
    ImagePull,
    Initialisation,
    NetworkInterface,
    FargateFailed,
    ContainerExited,
    OutOfMemory,
    SpotInterruption,
    StoppedByOthers,
    TaskVanished,
    NeverRan,
    ConnectionTimedOut,
    ConnectionRefused,
    KeyRefused,
    HostKeyChanged,
    HostKeyUnproven,
    NotUsable,
    ExecAgent,
    ConnectionLost,
    ScriptSilent,
    ScriptFailed,
    ScriptLost,
    Cancelled,
    DriverGone,
    StopUnfinished,
    DiskFull,
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::Nothing,
        Self::Capacity,
        Self::AccountLimit,
        Self::Throttled,
        Self::Credentials,
        Self::Denied,
        Self::WrongSetting,
        Self::NoCapacityProvider,
        Self::ApiUnavailable,
        Self::ImagePull,
        Self::Initialisation,
        Self::NetworkInterface,
        Self::FargateFailed,
        Self::ContainerExited,
        Self::OutOfMemory,
        Self::SpotInterruption,
        Self::StoppedByOthers,
        Self::TaskVanished,
        Self::NeverRan,
        Self::ConnectionTimedOut,
        Self::ConnectionRefused,
        Self::KeyRefused,
        Self::HostKeyChanged,
        Self::HostKeyUnproven,
        Self::NotUsable,
        Self::ExecAgent,
        Self::ConnectionLost,
        Self::ScriptSilent,
        Self::ScriptFailed,
        Self::ScriptLost,
        Self::Cancelled,
        Self::DriverGone,
        Self::StopUnfinished,
        Self::DiskFull,
        Self::Unknown,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> String {
        // A unit variant serializes as a string.
        serde_json::to_value(self)
            .ok()
            .and_then(|value| Some(value.as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// What it means.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is wrong",
            Self::Capacity => "Fargate has no capacity for the task",
            Self::AccountLimit => "a quota of the AWS account is used up",
            Self::Throttled => "the AWS API throttles the driver",
            Self::Credentials => "AWS does not accept the credentials",
            Self::Denied => "the runner manager's role lacks a permission",
            Self::WrongSetting => "the cluster, task definition, subnet or group is wrong",
            Self::NoCapacityProvider => "the cluster has no default capacity provider strategy",
            Self::ApiUnavailable => "the AWS API does not answer",
            Self::ImagePull => "the container's image cannot be pulled",
            Self::Initialisation => "secrets, logs or volumes cannot be prepared",
            Self::NetworkInterface => "the task's network interface cannot be made",
            Self::FargateFailed => "Fargate failed internally",
            Self::ContainerExited => "the container exited",
            Self::OutOfMemory => "out of memory",
            Self::SpotInterruption => "Spot capacity was taken back",
            Self::StoppedByOthers => "somebody or AWS stopped the task",
            Self::TaskVanished => "ECS does not know the task any more",
            Self::NeverRan => "the task did not come to RUNNING in time",
            Self::ConnectionTimedOut => "the container's address does not answer",
            Self::ConnectionRefused => "nothing listens in the container",
            Self::KeyRefused => "the container refuses the job's key",
            Self::HostKeyChanged => "another container answers at the address",
            Self::HostKeyUnproven => "the container does not prove its host key",
            Self::NotUsable => "the container answers, but cannot be used",
            Self::ExecAgent => "ECS Exec's agent is not connected",
            Self::ConnectionLost => "the connection was lost while the task lives",
            Self::ScriptSilent => "the script has been silent for long",
            Self::ScriptFailed => "the job's own script failed",
            Self::ScriptLost => "the script's outcome was lost",
            Self::Cancelled => "the job was cancelled or timed out",
            Self::DriverGone => "no driver works on the job",
            Self::StopUnfinished => "the task has not stopped yet",
            Self::DiskFull => "a disk is full",
            Self::Unknown => "unknown",
        }
    }
}
