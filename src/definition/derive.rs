//! The task definition that is derived from a base for a job's containers: a pure function from both
//! to the request that registers it.

use aws_sdk_ecs::{
    operation::register_task_definition::RegisterTaskDefinitionInput,
    types::{
        ContainerDefinition, CpuArchitecture, LinuxParameters, LogConfiguration, MountPoint,
        NetworkMode, RepositoryCredentials, RuntimePlatform, Tag, TaskDefinition, Volume,
    },
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use states::{
    Additions, Architecture, ContainerImage, JOB_CONTAINER, JobContainer, ServiceContainer,
    SharedVolume, foreign_text::clipped,
};
use transports::delivery::job_container_command;

/// The tag of every derived definition. Its value is the base's name.
pub(crate) const BASE_TAG: &str = "fargate-driver:base";
/// Between the base's family and the digest in a derived family.
const SEPARATOR: &str = "--";
/// Raise it when the same additions are to give another definition.
const VERSION: u32 = 1;
/// The longest family that ECS admits, in bytes.
const LONGEST_FAMILY: usize = 255;
/// Hexadecimal digits of the digest in a family. Projects choose a part of what is digested, so it
/// is long enough that none finds another's.
const DIGEST_DIGITS: usize = 32;
/// Containers that a task definition may have (Amazon ECS service quotas).
const MOST_CONTAINERS: usize = 10;

/// A base definition with what a job adds to it.
#[derive(Debug, Clone, Copy)]
pub struct Derivation<'a> {
    /// `family:revision` of the base.
    pub base: &'a str,
    /// What is added.
    pub additions: &'a Additions,
    /// The container that the transport reaches.
    pub coordinator: &'a str,
}

/// The base cannot have such containers beside its own: the administrator's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task definition {base} cannot be extended for jobs with images or services: {why}")]
pub struct Unsuitable {
    base: String,
    why: String,
}

/// Everything that makes a difference to a derived definition beside the base's own content, which
/// a revision fixes.
#[derive(Serialize)]
struct Digested<'a> {
    version: u32,
    base: &'a str,
    coordinator: &'a str,
    command: Option<[String; 3]>,
    architecture: Option<Architecture>,
    job: Option<&'a JobContainer>,
    services: Vec<(&'a str, &'a ContainerImage, Option<&'a [String]>)>,
}

impl Derivation<'_> {
    /// Returns the family of the derived definition. Equal additions to the same revision have the
    /// same one, so a definition is registered once, whichever manager needs it first.
    #[must_use]
    pub fn family(&self) -> String {
        let Additions { architecture, job, services } = self.additions;
        let digested = Digested {
            version: VERSION,
            base: self.base,
            coordinator: self.coordinator,
            command: job.as_ref().map(|job| job_container_command(&job.shared.run)),
            architecture: *architecture,
            job: job.as_ref(),
            services: services
                .iter()
                .map(|service| {
                    let ServiceContainer { name, image, command, aliases: _, port: _ } = service;
                    (name.as_str(), image, command.as_deref())
                })
                .collect(),
        };
        // Strings and numbers can always be serialized.
        let text = serde_json::to_vec(&digested).unwrap_or_else(|e| unreachable!("{e}"));
        let digest = hex::encode(Sha256::digest(text));
        format!("{}{}", family_prefix(self.base), &digest[..DIGEST_DIGITS])
    }

    /// Returns the request that registers the derived definition. Its new containers have nothing
    /// of the base's secrets and environment.
    ///
    /// # Errors
    /// When the base has no room for the containers, or other ones of their names.
    pub fn request(
        &self,
        base: &TaskDefinition,
        tags: &[(&str, &str)],
    ) -> Result<RegisterTaskDefinitionInput, Unsuitable> {
        let unsuitable = |why: String| Unsuitable { base: clipped(self.base), why };
        if base.network_mode.as_ref().is_some_and(|mode| *mode != NetworkMode::Awsvpc) {
            return Err(unsuitable("its network mode is not awsvpc".to_owned()));
        }
        // The job's processes would see those of the coordinator, with their environment.
        if base.pid_mode.is_some() {
            return Err(unsuitable("its containers share their processes (pidMode)".to_owned()));
        }
        // On Fargate, tasks always have one.
        if base.memory.is_none() {
            return Err(unsuitable(
                "it has no memory of the task as a whole, and on instances its containers have no other"
                    .to_owned(),
            ));
        }
        let mut containers = base.container_definitions().to_vec();
        let new = usize::from(self.additions.job.is_some()) + self.additions.services.len();
        if containers.len() + new > MOST_CONTAINERS {
            return Err(unsuitable(format!(
                "with {new} more containers it has more than {MOST_CONTAINERS}"
            )));
        }
        let names = self.additions.services.iter().map(|service| service.name.as_str());
        for name in names.chain(self.additions.job.is_some().then_some(JOB_CONTAINER)) {
            if containers.iter().any(|container| container.name() == Some(name)) {
                return Err(unsuitable(format!("it has a container {name:?} of its own")));
            }
        }
        let Some(coordinator) =
            containers.iter_mut().find(|container| container.name() == Some(self.coordinator))
        else {
            return Err(unsuitable(format!("it has no container {:?}", self.coordinator)));
        };
        let logs = coordinator.log_configuration().and_then(without_secrets);
        let mut volumes = base.volumes().to_vec();
        let mut added = Vec::with_capacity(new);
        if let Some(job) = &self.additions.job {
            let mounts = share(&job.shared, coordinator, &mut volumes);
            added.push(job_container(job, mounts, logs.clone()));
        }
        added.extend(self.additions.services.iter().map(|s| service_container(s, logs.clone())));
        containers.extend(added);
        let base_tag = [(BASE_TAG, self.base)];
        let tags = base_tag
            .iter()
            .chain(tags)
            .map(|(key, value)| Tag::builder().key(*key).value(crate::tags::value(value)).build());
        let request = RegisterTaskDefinitionInput::builder()
            .family(self.family())
            .set_task_role_arn(base.task_role_arn.clone())
            .set_execution_role_arn(base.execution_role_arn.clone())
            .set_network_mode(base.network_mode.clone())
            .set_container_definitions(Some(containers))
            .set_volumes(Some(volumes))
            .set_placement_constraints(base.placement_constraints.clone())
            .set_requires_compatibilities(base.requires_compatibilities.clone())
            .set_cpu(base.cpu.clone())
            .set_memory(base.memory.clone())
            .set_proxy_configuration(base.proxy_configuration.clone())
            .set_ephemeral_storage(base.ephemeral_storage.clone())
            .set_runtime_platform(self.platform(base))
            .set_enable_fault_injection(base.enable_fault_injection)
            .set_tags(Some(tags.collect()));
        request.build().map_err(|e| unsuitable(e.to_string()))
    }

    fn platform(&self, base: &TaskDefinition) -> Option<RuntimePlatform> {
        let own = base.runtime_platform.clone();
        let Some(architecture) = self.additions.architecture else { return own };
        let name = match architecture {
            Architecture::X86 => CpuArchitecture::X8664,
            Architecture::Arm => CpuArchitecture::Arm64,
        };
        let system = own.and_then(|platform| platform.operating_system_family);
        Some(
            RuntimePlatform::builder()
                .cpu_architecture(name)
                .set_operating_system_family(system)
                .build(),
        )
    }
}

fn job_container(
    job: &JobContainer,
    mounts: Vec<MountPoint>,
    logs: Option<LogConfiguration>,
) -> ContainerDefinition {
    let [shell, option, program] = job_container_command(&job.shared.run);
    // ECS knows no empty entry point, so the shell becomes it.
    let (entry_point, command) = match &job.image.entry_point {
        Some(none) if is_none(none) => (Some(vec![shell, option]), vec![program]),
        own => (own.clone(), vec![shell, option, program]),
    };
    // An init process reaps what scripts leave behind, and forwards SIGTERM.
    let init = LinuxParameters::builder().init_process_enabled(true).build();
    container(JOB_CONTAINER, &job.image, logs)
        .essential(true)
        .set_entry_point(entry_point)
        .set_command(Some(command))
        .set_user(job.user.clone())
        .set_mount_points(Some(mounts))
        .linux_parameters(init)
        .build()
}

/// Returns what all families begin with that are derived from this base: a name or ARN.
#[must_use]
pub(crate) fn family_prefix(base: &str) -> String {
    let name = base.rsplit('/').next().unwrap_or(base);
    let family = name.split(':').next().unwrap_or(name);
    let room = LONGEST_FAMILY - SEPARATOR.len() - DIGEST_DIGITS;
    // ECS admits letters, digits, hyphens and underscores: one byte each.
    format!("{}{SEPARATOR}", family.get(..room).unwrap_or(family))
}

fn service_container(
    service: &ServiceContainer,
    logs: Option<LogConfiguration>,
) -> ContainerDefinition {
    let (entry_point, command) = match (&service.image.entry_point, &service.command) {
        // The command alone, as by Docker.
        (Some(none), command) if is_none(none) => (command.clone(), None),
        (own, command) => (own.clone(), command.clone()),
    };
    container(&service.name, &service.image, logs)
        .essential(false)
        .set_entry_point(entry_point)
        .set_command(command)
        .build()
}

/// Whether an entry point is none at all: `[""]` in `.gitlab-ci.yml`.
fn is_none(entry_point: &[String]) -> bool {
    entry_point.iter().all(String::is_empty)
}

fn container(
    name: &str,
    image: &ContainerImage,
    logs: Option<LogConfiguration>,
) -> aws_sdk_ecs::types::builders::ContainerDefinitionBuilder {
    let credentials = image.credentials.as_ref().and_then(|secret| {
        RepositoryCredentials::builder().credentials_parameter(secret).build().ok()
    });
    ContainerDefinition::builder()
        .name(name)
        .image(&image.name)
        .set_repository_credentials(credentials)
        .set_log_configuration(logs)
}

/// Makes the coordinator mount what it shares. Returns the mount points of the job's container. A
/// volume that the administrator mounts at such a path is shared instead of a new one.
fn share(
    shared: &SharedVolume,
    coordinator: &mut ContainerDefinition,
    volumes: &mut Vec<Volume>,
) -> Vec<MountPoint> {
    let SharedVolume { run, builds, cache } = shared;
    let mut mounts = Vec::new();
    for (name, path) in [("fargate-run", run), ("fargate-builds", builds), ("fargate-cache", cache)]
    {
        let own = coordinator
            .mount_points()
            .iter()
            .find(|mount| mount.container_path().is_some_and(|p| p.trim_end_matches('/') == path));
        if let Some(own) = own {
            mounts.push(own.clone());
            continue;
        }
        let mount = MountPoint::builder().source_volume(name).container_path(path).build();
        volumes.push(Volume::builder().name(name).build());
        coordinator.mount_points.get_or_insert_default().push(mount.clone());
        mounts.push(mount);
    }
    mounts
}

/// The log configuration for containers of the job, which may not have the base's secrets.
fn without_secrets(logs: &LogConfiguration) -> Option<LogConfiguration> {
    logs.secret_options().is_empty().then(|| logs.clone())
}

#[cfg(test)]
#[path = "derive_tests.rs"]
mod tests;
