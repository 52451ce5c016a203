//! The cluster's settings.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{AgentRules, Credentials, Profile, Times};

/// The capacity provider of the container instances.
pub const INSTANCES: &str = "instances";

/// The cluster's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The API's address, on loopback. Port 0: any free one.
    pub listen: SocketAddr,
    /// The port of the tasks' SSH servers. 0: any free one.
    pub ssh_port: u16,
    /// The region in ARNs.
    pub region: String,
    /// The account in ARNs.
    pub account: String,
    /// The name of the cluster that exists at the start.
    pub cluster: String,
    /// Whether that cluster has a default capacity provider strategy.
    pub default_strategy: bool,
    /// Whether it has container instances: then tasks run with the launch type `EC2`, and by the
    /// capacity provider [`INSTANCES`].
    pub instances: bool,
    /// The durations of a task's phases.
    pub times: Times,
    /// The tasks' exec agents.
    pub exec: ExecSettings,
    /// How often task definitions may be registered. `None`: as often as wanted.
    pub registrations: Option<RegistrationRate>,
    /// The directory of images: root file systems that containers run in. `None`: only the image
    /// `local` runs, as processes of the host, and whatever image `ci-coordinator` has is taken as
    /// that one.
    pub images: Option<PathBuf>,
    /// The credentials of calls. By default, new ones for each cluster.
    pub credentials: Credentials,
}

impl Settings {
    /// Returns the default settings with a profile's times and exec agents. Times are multiplied by
    /// `scale`, and drawn from `seed`.
    #[must_use]
    pub fn of(profile: Profile, scale: f64, seed: u64) -> Self {
        let mut agent = match profile {
            Profile::Quick => AgentRules::quick(),
            Profile::Fargate => AgentRules::real(),
        };
        for time in [&mut agent.release, &mut agent.start, &mut agent.first_output] {
            *time = time.mul_f64(scale);
        }
        let times = Times { scale, seed, ..Times::of(profile) };
        let aws = RegistrationRate::default();
        let registrations = RegistrationRate { per_second: aws.per_second / scale, ..aws };
        Self {
            times,
            exec: ExecSettings { agent, ..ExecSettings::default() },
            registrations: Some(registrations),
            ..Self::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ssh_port: 0,
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
            cluster: "local".to_owned(),
            default_strategy: true,
            instances: false,
            times: Times::default(),
            exec: ExecSettings::default(),
            registrations: Some(RegistrationRate::default()),
            images: None,
            credentials: Credentials::random(),
        }
    }
}

/// The rate of RegisterTaskDefinition: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegistrationRate {
    /// The calls per second that it is refilled by.
    pub per_second: f64,
    /// The calls that a full bucket admits at once.
    pub burst: u32,
}

impl Default for RegistrationRate {
    /// The rate of AWS.
    fn default() -> Self {
        Self { per_second: 1.0, burst: 20 }
    }
}

/// The tasks' exec agents, and the service between them and their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecSettings {
    /// How a session begins.
    pub handshake: Handshake,
    /// The agents' strictness and pace.
    pub agent: AgentRules,
    /// A session ends after this time without input (AWS: 20 min). Output does not count.
    pub idle_timeout: Duration,
    /// How long a token opens a connection.
    pub token_lifetime: Duration,
}

impl Default for ExecSettings {
    fn default() -> Self {
        Self {
            handshake: Handshake::None,
            agent: AgentRules::quick(),
            idle_timeout: Duration::from_secs(20 * 60),
            token_lifetime: Duration::from_secs(60),
        }
    }
}

/// How a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With the first output, as ECS Exec does without a key.
    None,
    /// With a handshake.
    Plain,
    /// With a handshake that agrees on a data key of KMS, as with a key in the cluster's
    /// `executeCommandConfiguration`. The local cluster answers KMS's `GenerateDataKey`.
    Kms,
}
