//! What a job asks of its task, and what of that the administrator grants. Without I/O.

mod size;

use states::{
    Additions, Architecture, Capacity, ContainerImage, JobContainer, ServiceContainer,
    SharedVolume, TaskSize, foreign_text::clipped,
};
use wildmatch::WildMatch;

use self::size::Unfit;
use crate::{
    config::{Images, Sizes},
    definition::{ImageName, is_host_name},
    runner::{Variable, WishedContainer, Wishes},
};

/// The directories that the job's container shares with the coordinator.
const SHARED: [&str; 3] = ["/fargate", "/builds", "/cache"];
/// Containers that a task definition may have (Amazon ECS service quotas), less the coordinator and
/// the job's.
const MOST_SERVICES: usize = 8;
/// The variable of a service that names the port to wait for, as in GitLab's Docker executor.
const PORT_VARIABLE: &str = "HEALTHCHECK_TCP_PORT";
/// The longest list of variables that a launch may carry, in bytes of JSON. RunTask's overrides may
/// have 8192 characters (Amazon ECS API reference, `TaskOverride`). The coordinator's are among
/// them.
const LONGEST_OVERRIDES: usize = 6500;

/// A job's requests beside its image and services: values of its variables, empty ones absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// `FARGATE_CPU`.
    pub cpu: Option<String>,
    /// `FARGATE_MEMORY`.
    pub memory: Option<String>,
    /// `FARGATE_EPHEMERAL_STORAGE`.
    pub ephemeral_storage: Option<String>,
    /// `FARGATE_TASK_ROLE`.
    pub task_role: Option<String>,
    /// `FARGATE_ARCHITECTURE`.
    pub architecture: Option<String>,
}

impl Requests {
    /// Takes them from the job's variables.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| variable(name).filter(|value| !value.trim().is_empty());
        Self {
            cpu: get("FARGATE_CPU"),
            memory: get("FARGATE_MEMORY"),
            ephemeral_storage: get("FARGATE_EPHEMERAL_STORAGE"),
            task_role: get("FARGATE_TASK_ROLE"),
            architecture: get("FARGATE_ARCHITECTURE"),
        }
    }
}

/// Environment variables of containers, by container.
pub type ContainerEnvironment = Vec<(String, Vec<(String, String)>)>;

/// What a job gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// Containers beyond the base definition's.
    pub additions: Option<Box<Additions>>,
    /// The task's size.
    pub size: TaskSize,
    /// The task's role.
    pub task_role: Option<String>,
    /// The variables of services, by container. They may be secret.
    pub service_environment: ContainerEnvironment,
    /// Lines for the job log: what is ignored, and why.
    pub notes: Vec<String>,
}

/// The job asks for something that it cannot have. It is the job's own failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error(
        "this runner does not allow the {what} {:?}. Allowed: {}. Choose one of these, or ask the runner's administrator to extend {setting} in fargate.toml.",
        clipped(wanted),
        if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") }
    )]
    NotAllowed { what: &'static str, wanted: String, allowed: Vec<String>, setting: &'static str },
    #[error("{:?} is not the name of an image: expected registry/path:tag, for example node:22.", clipped(.0))]
    ImageName(String),
    #[error(
        "the services {} and {} both use port {port}, and the containers of a task share their ports. Give one of them another port (most images have a variable for it), and say it with HEALTHCHECK_TCP_PORT in the service's variables.",
        clipped(first),
        clipped(second)
    )]
    Port { first: String, second: String, port: u16 },
    #[error(
        "the service {} has HEALTHCHECK_TCP_PORT {:?}: expected a port from 1 to 65535.",
        clipped(service),
        clipped(value)
    )]
    HealthPort { service: String, value: String },
    #[error("the job has {0} services: a Fargate task has room for {MOST_SERVICES}.")]
    TooManyServices(usize),
    #[error(
        "the variables of the job's services have {0} bytes, and ECS takes {LONGEST_OVERRIDES} at a launch. Move large values into the image, or into files that the job's script writes."
    )]
    LargeVariables(usize),
    #[error("{name} is {:?}: expected {expected}.", clipped(value))]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error(
        "Fargate has no task with {}. The nearest is FARGATE_CPU={cpu} with FARGATE_MEMORY={memory}.",
        asked.join(" and ")
    )]
    Pair { asked: Vec<String>, cpu: u32, memory: u32 },
    #[error(
        "{name} {wanted} is more than this runner allows: at most {most} ({setting} in fargate.toml)."
    )]
    TooMuch { name: &'static str, wanted: u32, most: u32, setting: &'static str },
}

/// Which sizes tasks may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// Those of Fargate's table.
    OfFargate,
    /// Any that fit on an instance. The storage is the instance's.
    OfInstances,
}

impl Sizing {
    /// The sizes of tasks with this capacity.
    #[must_use]
    pub fn of(capacity: &Capacity) -> Self {
        if capacity.is_on_instances() { Self::OfInstances } else { Self::OfFargate }
    }
}

/// Decides what a job gets. `wishes` are `None` if gitlab-runner does not tell them in a way that
/// could be trusted.
///
/// # Errors
/// What the job asks for and cannot have.
pub fn grant(
    images: &Images,
    sizes: &Sizes,
    sizing: Sizing,
    wishes: Option<&Wishes>,
    requests: &Requests,
) -> Result<Granted, Refusal> {
    let mut granted = Granted::default();
    let mut additions = Additions::default();
    let nothing = Wishes::default();
    let is_known = wishes.is_some();
    let wishes = wishes.unwrap_or(&nothing);
    match (&images.allowed, images.allowed_services()) {
        (Some(allowed), Some(for_services)) if is_known => {
            if let Some(image) = &wishes.image {
                additions.job = Some(job_container(images, allowed, image)?);
                granted.notes.extend(unheeded("image", image));
            }
            additions.services = services(images, for_services, wishes, &mut granted)?;
        }
        (Some(_), _) => granted.notes.push(
            "image: and services: are ignored: this gitlab-runner names no file with the job's response (JOB_RESPONSE_FILE), as 14.1 and newer do.".to_owned(),
        ),
        (None, _) => granted.notes.extend(wishes.image.as_ref().map(ignored)),
    }
    architecture(images, wishes.image.as_ref(), requests, &mut additions, &mut granted)?;
    granted.size = task_size(sizes, sizing, requests, &mut granted.notes)?;
    granted.task_role = task_role(sizes, requests, &mut granted.notes)?;
    granted.additions = Some(additions).filter(|a| *a != Additions::default()).map(Box::new);
    Ok(granted)
}

/// Says that the image is ignored.
fn ignored(image: &WishedContainer) -> String {
    format!(
        "image: {} is ignored: the scripts run in the runner's own task definition. The runner's administrator can allow images with Allowed in [Images] of fargate.toml.",
        clipped(&image.name)
    )
}

fn job_container(
    images: &Images,
    allowed: &[String],
    image: &WishedContainer,
) -> Result<JobContainer, Refusal> {
    Ok(JobContainer {
        image: container_image(images, ("image", "Allowed in [Images]"), allowed, image)?,
        user: image.user().map(clipped),
        shared: shared_volume(),
    })
}

/// What the container of a job's image shares with the coordinator.
pub(crate) fn shared_volume() -> SharedVolume {
    let [run, builds, cache] = SHARED.map(str::to_owned);
    SharedVolume { run, builds, cache }
}

fn container_image(
    images: &Images,
    (what, setting): (&'static str, &'static str),
    allowed: &[String],
    wished: &WishedContainer,
) -> Result<ContainerImage, Refusal> {
    let name =
        ImageName::parse(&wished.name).ok_or_else(|| Refusal::ImageName(wished.name.clone()))?;
    if !allowed.iter().any(|pattern| name.matches(pattern)) {
        let (wanted, allowed) = (wished.name.clone(), allowed.to_vec());
        return Err(Refusal::NotAllowed { what, wanted, allowed, setting });
    }
    let pulled = name.pulled_from(images.mirror.as_deref());
    Ok(ContainerImage {
        credentials: ImageName::parse(&pulled)
            .and_then(|pulled| pulled.credentials(&images.credentials)),
        name: pulled,
        entry_point: wished.entrypoint.clone().filter(|words| !words.is_empty()),
    })
}

fn services(
    images: &Images,
    allowed: &[String],
    wishes: &Wishes,
    granted: &mut Granted,
) -> Result<Vec<ServiceContainer>, Refusal> {
    if wishes.services.len() > MOST_SERVICES {
        return Err(Refusal::TooManyServices(wishes.services.len()));
    }
    let mut services: Vec<ServiceContainer> = Vec::new();
    for (number, wished) in wishes.services.iter().enumerate() {
        let image = container_image(images, ("service", "Services in [Images]"), allowed, wished)?;
        let port = port(wished)?;
        let same = |other: &ServiceContainer| port.is_some() && other.port == port;
        if let (Some(at), Some(port)) = (services.iter().position(same), port) {
            let first = wishes.services[at].name.clone();
            return Err(Refusal::Port { first, second: wished.name.clone(), port });
        }
        if let Some(user) = wished.user() {
            granted.notes.push(format!(
                "The service {} runs as its image's user: user: {} of services is ignored.",
                clipped(&wished.name),
                clipped(user)
            ));
        }
        granted.notes.extend(unheeded("service", wished));
        services.push(ServiceContainer {
            name: format!("service-{number}"),
            image,
            command: wished.command.clone().filter(|words| !words.is_empty()),
            aliases: aliases(wished, &mut granted.notes),
            port,
        });
    }
    granted.service_environment = service_environment(wishes, &services, &mut granted.notes)?;
    Ok(services)
}

/// The port to wait for: what the service says, or the first port that it declares.
fn port(wished: &WishedContainer) -> Result<Option<u16>, Refusal> {
    let Some(value) = wished.variable(PORT_VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(wished.ports.first().map(|port| port.number));
    };
    match value.parse() {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(Refusal::HealthPort { service: wished.name.clone(), value: value.to_owned() }),
    }
}

fn aliases(wished: &WishedContainer, notes: &mut Vec<String>) -> Vec<String> {
    let own = wished.alias.split([' ', ',']).filter(|alias| !alias.is_empty());
    let (own, bad): (Vec<&str>, Vec<&str>) = own.partition(|alias| is_host_name(alias));
    for alias in bad {
        notes.push(format!(
            "The service {} cannot be called {:?}: that is not a host name.",
            clipped(&wished.name),
            clipped(alias)
        ));
    }
    let by_image = ImageName::parse(&wished.name).map(|name| name.aliases()).unwrap_or_default();
    let mut aliases: Vec<String> = own.into_iter().map(str::to_owned).collect();
    aliases.extend(by_image.into_iter().filter(|alias| is_host_name(alias)));
    let mut seen = std::collections::HashSet::new();
    aliases.retain(|alias| seen.insert(alias.clone()));
    aliases
}

/// The services' own variables, and the job's public ones, which services get from GitLab's Docker
/// executor, too. The latter are left out if there is no room.
fn service_environment(
    wishes: &Wishes,
    services: &[ServiceContainer],
    notes: &mut Vec<String>,
) -> Result<ContainerEnvironment, Refusal> {
    let pairs = |variables: &mut dyn Iterator<Item = &Variable>| -> Vec<(String, String)> {
        let named = variables.filter(|variable| !variable.key.is_empty());
        named.map(|variable| (variable.key.clone(), variable.value.clone())).collect()
    };
    let own: Vec<_> = wishes.services.iter().map(|s| pairs(&mut s.variables.iter())).collect();
    let size = |lists: &[Vec<(String, String)>]| {
        lists.iter().map(|list| serde_json::json!(list).to_string().len() + 16 * list.len()).sum()
    };
    let least: usize = size(&own);
    if least > LONGEST_OVERRIDES {
        return Err(Refusal::LargeVariables(least));
    }
    let public = pairs(&mut wishes.variables.public());
    let with_public: Vec<Vec<(String, String)>> = own
        .iter()
        .map(|own| {
            let inherited = public.iter().filter(|(key, _)| own.iter().all(|(k, _)| k != key));
            inherited.chain(own).cloned().collect()
        })
        .collect();
    let lists = if size(&with_public) <= LONGEST_OVERRIDES {
        with_public
    } else {
        notes.push(format!(
            "The job's variables are too large to pass them on to services ({LONGEST_OVERRIDES} bytes in all): services get their own variables only. Name what a service needs in its variables:."
        ));
        own
    };
    let names = services.iter().map(|service| service.name.clone());
    Ok(names.zip(lists).filter(|(_, list)| !list.is_empty()).collect())
}

/// Says which options of an image have no effect here.
fn unheeded(what: &str, wished: &WishedContainer) -> Option<String> {
    let is_always = wished.pull_policy.iter().any(|policy| policy == "always");
    (!wished.pull_policy.is_empty() && !is_always).then(|| {
        format!(
            "pull_policy of the {what} {} is ignored: Fargate pulls images for every task.",
            clipped(&wished.name)
        )
    })
}

fn architecture(
    images: &Images,
    image: Option<&WishedContainer>,
    requests: &Requests,
    additions: &mut Additions,
    granted: &mut Granted,
) -> Result<(), Refusal> {
    let platform = image.map_or("", |image| &image.executor_opts.docker.platform);
    let wanted = match (&requests.architecture, platform) {
        (Some(name), _) => match name.trim() {
            "X86_64" => Some(Architecture::X86),
            "ARM64" => Some(Architecture::Arm),
            other => {
                return Err(Refusal::Value {
                    name: "FARGATE_ARCHITECTURE",
                    value: other.to_owned(),
                    expected: "X86_64 or ARM64",
                });
            }
        },
        (None, "") => None,
        (None, "linux/amd64") => Some(Architecture::X86),
        (None, platform) if platform.starts_with("linux/arm64") => Some(Architecture::Arm),
        (None, other) => {
            granted.notes.push(format!(
                "platform: {} is ignored: Fargate has linux/amd64 and linux/arm64.",
                clipped(other)
            ));
            None
        }
    };
    if wanted.is_some() && images.allowed.is_none() {
        granted.notes.push(
            "FARGATE_ARCHITECTURE is ignored: the runner's administrator can allow it with Allowed in [Images] of fargate.toml.".to_owned(),
        );
        return Ok(());
    }
    additions.architecture = wanted;
    Ok(())
}

fn task_size(
    sizes: &Sizes,
    sizing: Sizing,
    requests: &Requests,
    notes: &mut Vec<String>,
) -> Result<TaskSize, Refusal> {
    let mut take = |name: &'static str,
                    setting,
                    value: &Option<String>,
                    most: Option<u32>,
                    read: fn(&str) -> Result<u32, Unfit>,
                    expected| {
        let Some(value) = value else { return Ok(None) };
        let Some(most) = most else {
            notes.push(format!("{name} is ignored: the runner's administrator can allow it with {setting} of fargate.toml."));
            return Ok(None);
        };
        let wrong = || Refusal::Value { name, value: value.clone(), expected };
        let wanted = read(value).map_err(|_| wrong())?;
        if wanted > most {
            return Err(Refusal::TooMuch { name, wanted, most, setting });
        }
        Ok(Some(wanted))
    };
    let cpu = take(
        "FARGATE_CPU",
        "MaxCpu in [Sizes]",
        &requests.cpu,
        sizes.max_cpu,
        size::cpu,
        "CPU units or vCPUs, for example 1024 or \"1 vCPU\"",
    )?;
    let memory = take(
        "FARGATE_MEMORY",
        "MaxMemory in [Sizes]",
        &requests.memory,
        sizes.max_memory,
        size::memory,
        "MiB or GB, for example 2048 or \"2 GB\"",
    )?;
    if sizing == Sizing::OfInstances {
        let ignored = requests.ephemeral_storage.as_ref().map(|_| {
            "FARGATE_EPHEMERAL_STORAGE is ignored: jobs of this runner run on instances, whose storage they share.".to_owned()
        });
        notes.extend(ignored);
        return Ok(TaskSize { cpu, memory, ephemeral_storage: None });
    }
    let storage = take(
        "FARGATE_EPHEMERAL_STORAGE",
        "MaxEphemeralStorage in [Sizes]",
        &requests.ephemeral_storage,
        sizes.max_ephemeral_storage,
        size::storage,
        "GiB from 21 to 200",
    )?;
    if let (Some(wanted), Some(value)) = (storage, &requests.ephemeral_storage)
        && !size::STORAGE.contains(&wanted)
    {
        return Err(Refusal::Value {
            name: "FARGATE_EPHEMERAL_STORAGE",
            value: value.clone(),
            expected: "GiB from 21 to 200",
        });
    }
    let asked = || {
        let cpu = cpu.map(|cpu| format!("FARGATE_CPU={cpu}"));
        cpu.into_iter().chain(memory.map(|memory| format!("FARGATE_MEMORY={memory}"))).collect()
    };
    let pair = size::pair(cpu, memory).map_err(|unfit| match unfit {
        Unfit::NoSuchPair { cpu, memory } => Refusal::Pair { asked: asked(), cpu, memory },
        Unfit::TooLarge | Unfit::Unreadable => {
            Refusal::Pair { asked: asked(), cpu: 16_384, memory: 122_880 }
        }
    })?;
    // The other half of the pair is the driver's choice, but it costs, too.
    for (name, setting, half, most) in [
        ("FARGATE_CPU", "MaxCpu in [Sizes]", pair.cpu, sizes.max_cpu),
        ("FARGATE_MEMORY", "MaxMemory in [Sizes]", pair.memory, sizes.max_memory),
    ] {
        if let (Some(wanted), Some(most)) = (half, most)
            && wanted > most
        {
            return Err(Refusal::TooMuch { name, wanted, most, setting });
        }
    }
    Ok(TaskSize { ephemeral_storage: storage, ..pair })
}

fn task_role(
    sizes: &Sizes,
    requests: &Requests,
    notes: &mut Vec<String>,
) -> Result<Option<String>, Refusal> {
    let Some(role) = &requests.task_role else { return Ok(None) };
    let Some(allowed) = &sizes.allowed_task_roles else {
        notes.push(
            "FARGATE_TASK_ROLE is ignored: the runner's administrator can allow roles with AllowedTaskRoles in [Sizes] of fargate.toml.".to_owned(),
        );
        return Ok(None);
    };
    if !allowed.iter().any(|pattern| WildMatch::new(pattern).matches(role)) {
        return Err(Refusal::NotAllowed {
            what: "task role",
            wanted: role.clone(),
            allowed: allowed.clone(),
            setting: "AllowedTaskRoles in [Sizes]",
        });
    }
    Ok(Some(role.clone()))
}

#[cfg(test)]
#[path = "grant/tests.rs"]
mod tests;
