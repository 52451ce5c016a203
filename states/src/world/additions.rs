//! What a job asks of its task beyond the task definition that the administrator chose: containers
//! of its own, and a size.

use serde::{Deserialize, Serialize};

/// The name of the container with the job's image.
pub const JOB_CONTAINER: &str = "build";

/// What a job's task has beyond its base definition. RunTask cannot add it, so such a job has a
/// task definition that is derived from the base and from this. It holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Additions {
    /// The CPU architecture, if it is another one than the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// The container with the job's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobContainer>,
    /// The containers of the job's services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceContainer>,
}

/// A CPU architecture, by ECS's name (`runtimePlatform.cpuArchitecture`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// `X86_64`.
    X86,
    /// `ARM64`.
    Arm,
}

/// The container that runs the job's own scripts, with the job's image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobContainer {
    /// The image.
    pub image: ContainerImage,
    /// The user to run as; `None`: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it shares with the coordinator.
    pub shared: SharedVolume,
}

/// An image, and how its container starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerImage {
    /// Its name, as ECS is to pull it.
    pub name: String,
    /// The secret in AWS Secrets Manager with the registry's credentials (its ARN).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The entry point instead of the image's own. One empty string: none at all, as in
    /// `.gitlab-ci.yml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<Vec<String>>,
}

/// Directories that the coordinator and the job's container share: mount points of the task's
/// ephemeral storage, at the same paths in both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SharedVolume {
    /// For the scripts, their output and their orders.
    pub run: String,
    /// gitlab-runner's `builds_dir`.
    pub builds: String,
    /// gitlab-runner's `cache_dir`.
    pub cache: String,
}

/// A container beside the job's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceContainer {
    /// Its name in the task definition.
    pub name: String,
    /// Its image.
    pub image: ContainerImage,
    /// The command instead of the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The host names under which the job's scripts reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The TCP port that is open once it is ready, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A task's size, where it differs from its definition's. RunTask overrides these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskSize {
    /// CPU units: 1024 are one vCPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// Ephemeral storage, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<u32>,
}

impl TaskSize {
    /// Whether the size is the definition's own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The container of a task in which a script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RunContainer {
    /// The one that the transport reaches.
    #[default]
    Coordinator,
    /// The one with the job's image: [`JOB_CONTAINER`].
    Job,
}

impl RunContainer {
    /// Whether it is the one that the transport reaches.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn is_coordinator(&self) -> bool {
        *self == Self::Coordinator
    }
}
