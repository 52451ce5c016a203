//! What a job launches: from the configuration, the job's choices and its tags.
//!
//! - `key` — the job's key for transports that log in;
//! - [`pool`] — what a pool's tasks are, which are launched likewise, and the pool that a job fits.

pub(crate) mod key;
pub mod pool;

use rand::Rng as _;
use states::{
    ClientToken, ConnectTo, Header, LaunchSpec, Login, StartedBy, Timestamp, foreign_text,
};

use crate::{
    config::{Chosen, Config, NotAllowed, Overrides},
    control::{DIRECTORY_TAG, JOB_TAG, MANAGER_TAG, STARTED_BY},
    grant::{Granted, Refusal, Requests, Sizing, grant},
    ownership::manager,
    runner::{Identity, StageEnvironment, Wishes, WishesError},
    tags,
};

/// The variable by which a job chooses its platform version.
const PLATFORM_VERSION: &str = "FARGATE_PLATFORM_VERSION";

/// The command line's overrides: the administrator's, from gitlab-runner's `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Flags {
    /// `--task-def`.
    pub task_definition: Option<String>,
    /// `--platform-version`.
    pub platform_version: Option<String>,
}

/// What a job launches: the definition that is chosen for it, and what it gets beyond that.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Definition and platform version.
    chosen: Chosen,
    /// Containers, size, role.
    pub(crate) granted: Granted,
}

/// Why a job has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It must not choose this definition or platform version.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// It cannot have what it asks for.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What it asks for is not known. This is not its own failure.
    #[error(transparent)]
    Unknown(#[from] WishesError),
}

impl Plan {
    /// Plans the launch of the job of this environment.
    pub(crate) fn of(
        config: &Config,
        flags: &Flags,
        environment: &StageEnvironment,
    ) -> Result<Self, PlanError> {
        let chosen = choose(config, flags, environment)?;
        let mut granted = granted(config, environment)?;
        granted.notes.extend(ignored_platform(config, environment));
        Ok(Self { chosen, granted })
    }
}

/// Chooses the task definition and platform version of this job.
fn choose(
    config: &Config,
    flags: &Flags,
    environment: &StageEnvironment,
) -> Result<Chosen, NotAllowed> {
    let overrides = Overrides {
        flag_task_definition: flags.task_definition.clone(),
        flag_platform_version: flags.platform_version.clone(),
        // They are recorded, and shown in refusals.
        variable_task_definition: environment
            .job_variable("FARGATE_TASK_DEFINITION")
            .as_deref()
            .map(foreign_text::clipped),
        variable_platform_version: environment
            .job_variable(PLATFORM_VERSION)
            .as_deref()
            .map(foreign_text::clipped)
            .filter(|_| !config.fargate.capacity.is_on_instances()),
    };
    overrides.choose(&config.fargate)
}

/// Says that the job's choice of a platform version is ignored, if it is.
fn ignored_platform(config: &Config, environment: &StageEnvironment) -> Option<String> {
    let is_given =
        environment.job_variable(PLATFORM_VERSION).is_some_and(|text| !text.trim().is_empty());
    (is_given && config.fargate.capacity.is_on_instances()).then(|| {
        format!("{PLATFORM_VERSION} is ignored: jobs of this runner run on instances, and platform versions are Fargate's.")
    })
}

/// Decides what the job of this environment gets beyond the base definition.
pub(crate) fn granted(
    config: &Config,
    environment: &StageEnvironment,
) -> Result<Granted, PlanError> {
    let wishes = Wishes::of(environment)?;
    let requests = Requests::from_variables(|name| environment.job_variable(name));
    Ok(grant_by(config, wishes.as_ref(), &requests)?)
}

/// Decides what a task gets that has these wishes and requests.
fn grant_by(
    config: &Config,
    wishes: Option<&Wishes>,
    requests: &Requests,
) -> Result<Granted, Refusal> {
    grant(&config.images, &config.sizes, Sizing::of(&config.fargate.capacity), wishes, requests)
}

/// Returns which of the task's addresses the driver connects to.
fn connect_to(config: &Config) -> ConnectTo {
    match (config.transport.needs_address, config.fargate.use_public_ip) {
        (false, _) => ConnectTo::NoAddress,
        (true, true) => ConnectTo::PublicAddress,
        (true, false) => ConnectTo::PrivateAddress,
    }
}

/// Returns the header of a job that begins `now`. Its launch lacks the public key, which transports
/// that log in need. The header belongs to no trace and to no pool.
pub(crate) fn header(config: &Config, identity: &Identity, plan: Plan, now: Timestamp) -> Header {
    let (started_by, logs_in, ssh) =
        (started_by(identity), config.transport.needs_login, &config.ssh);
    Header {
        id: identity.id.clone(),
        about: identity.about.clone(),
        created: now,
        token: token(&started_by),
        definition_from_project: plan.chosen.from_project,
        connect_to: connect_to(config),
        transport: Some(config.transport.record.clone()),
        // A job keeps both when the file changes.
        login: logs_in.then(|| Login { user: ssh.username.clone(), port: ssh.port }),
        host_proof: logs_in.then_some(ssh.verify_host),
        limits: config.limits,
        trace: None,
        pool: None,
        spec: spec(config, identity, plan, started_by),
    }
}

/// The `job_id` of a warm task's `startedBy`.
const WARM: &str = "warm";

/// Returns `startedBy`: readable in the ECS console, unique per job, at most 36 characters.
pub(crate) fn started_by(identity: &Identity) -> StartedBy {
    use sha2::{Digest, Sha256};
    let job = if identity.id.is_warm() { WARM } else { &identity.about.job_id };
    let digits: String = job.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let hash = hex::encode(Sha256::digest(identity.id.as_str()));
    StartedBy::new(format!("{STARTED_BY}{digits}-{}", &hash[..10]))
        // 7 + 16 + 1 + 10 characters, all of them allowed.
        .unwrap_or_else(|e| unreachable!("{e}"))
}

/// Returns the stem of this attempt's idempotency tokens. Another attempt of the same job is
/// another task.
fn token(started_by: &StartedBy) -> ClientToken {
    let mut random = [0_u8; 8];
    rand::rng().fill_bytes(&mut random);
    ClientToken::new(format!("{started_by}-{}", hex::encode(random)))
        // 34 + 1 + 16 characters, all of them printable.
        .unwrap_or_else(|e| unreachable!("{e}"))
}

/// Returns RunTask's parameters.
fn spec(
    config: &Config,
    identity: &Identity,
    Plan { chosen, granted }: Plan,
    started_by: StartedBy,
) -> LaunchSpec {
    let fargate = &config.fargate;
    LaunchSpec {
        cluster: fargate.cluster.clone(),
        task_definition: chosen.task_definition,
        platform_version: chosen.platform_version,
        subnets: fargate.subnets.clone(),
        security_groups: fargate.security_groups.clone(),
        assign_public_ip: fargate.enable_public_ip,
        capacity: fargate.capacity.clone(),
        container: fargate.container.clone(),
        environment: Vec::new(),
        started_by,
        tags: task_tags(config, identity),
        enable_execute_command: config.transport.needs_execute_command,
        propagate_tags: fargate.propagate_tags,
        enable_ecs_managed_tags: fargate.enable_ecs_managed_tags,
        additions: granted.additions,
        size: granted.size,
        task_role: granted.task_role,
        service_environment: Vec::new(),
    }
}

/// Returns tags that name the task's owner, for the console and the bill. The administrator's own
/// tags override them. The configuration refuses those of the driver itself.
pub(crate) fn task_tags(config: &Config, identity: &Identity) -> Vec<(String, String)> {
    let about = &identity.about;
    let (manager, directory) = (manager(config), config.metadata.directory.display().to_string());
    let mut tags: Vec<(String, String)> = [
        (JOB_TAG, identity.id.as_str()),
        (MANAGER_TAG, &manager),
        (DIRECTORY_TAG, &directory),
        ("gitlab:project", &about.project_url),
        ("gitlab:pipeline", &about.pipeline_id),
        ("gitlab:job", &about.job_id),
        ("gitlab:job-name", &about.job_name),
        ("gitlab:runner", &about.runner),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), tags::value(value)))
    .filter(|(_, value)| !value.is_empty())
    .collect();
    for (key, value) in &config.fargate.tags {
        tags.retain(|(other, _)| other != key);
        tags.push((key.clone(), value.clone()));
    }
    tags
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use states::{About, JobId};

    use super::*;

    fn identity() -> Identity {
        let about = About {
            project_url: "https://gitlab.example/g/p".into(),
            pipeline_id: "1".into(),
            job_id: "2".into(),
            job_name: "build [linux, x86]\u{7}".into(),
            runner: "tok".into(),
        };
        Identity { id: JobId::new("tok-abc").unwrap(), about, trace_id: None }
    }

    fn config(more: &str) -> Config {
        let text = format!(
            "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n{more}\n[TaskMetadata]\nDirectory = '/m'\n"
        );
        Config::parse(&text, Path::new("fargate.toml")).unwrap().0
    }

    #[test]
    fn tags_name_the_owner_in_valid_characters() {
        let tags = task_tags(&config(""), &identity());
        let value = |key: &str| tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!(value("fargate-driver:job"), Some("tok-abc"));
        assert_eq!(value("gitlab:project"), Some("https://gitlab.example/g/p"));
        assert_eq!(value("gitlab:job-name"), Some("build _linux_ x86__"));
    }

    #[test]
    fn the_administrators_tags_win() {
        let tags =
            task_tags(&config("Tags = { 'gitlab:job' = 'hidden', team = 'infra' }"), &identity());
        assert_eq!(
            tags.iter()
                .filter(|(k, _)| k == "gitlab:job")
                .map(|(_, v)| v.as_str())
                .collect::<Vec<_>>(),
            ["hidden"]
        );
        assert!(tags.contains(&("team".to_owned(), "infra".to_owned())));
    }

    #[test]
    fn the_key_goes_to_the_configured_container() {
        let chosen =
            Chosen { task_definition: "t".into(), platform_version: None, from_project: false };
        let plan = Plan { chosen, granted: Granted::default() };
        let now = Timestamp::from_millis(1);
        let mut header = header(&config("ContainerName = 'build'"), &identity(), plan, now);
        key::add_public(&mut header, "ssh-ed25519 AAAA".to_owned());
        assert_eq!(header.spec.container, "build");
        assert_eq!(
            header.spec.environment,
            [("SSH_PUBLIC_KEY".to_owned(), "ssh-ed25519 AAAA".to_owned())]
        );
    }
}
