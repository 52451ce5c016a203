//! What can be set.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::exec::AgentRules;

/// The cluster's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the API listens: a loopback address. Port 0: any free one.
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
    /// How long things take.
    pub times: Times,
    /// The tasks' exec agents.
    pub exec: ExecSettings,
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
            times: Times::default(),
            exec: ExecSettings::default(),
        }
    }
}

/// How long the phases of a task take: quick, but long enough to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long DescribeTasks and ListTasks do not know a new task yet.
    pub invisible: Duration,
    /// PROVISIONING.
    pub provisioning: Duration,
    /// PENDING.
    pub pending: Duration,
    /// ACTIVATING.
    pub activating: Duration,
    /// From RUNNING until the SSH server accepts connections.
    pub ssh_server: Duration,
    /// From RUNNING until the exec agent's `lastStatus` is RUNNING: before, ExecuteCommand is refused
    /// with `InvalidParameterException`.
    pub exec_agent: Duration,
    /// From then until it is connected: before, with `TargetNotConnectedException`.
    pub exec_connects: Duration,
    /// From SIGTERM to SIGKILL when a task is stopped (ECS: `stopTimeout`, 30 s).
    pub stop_timeout: Duration,
    /// DEPROVISIONING.
    pub deprovisioning: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            invisible: ms(50),
            provisioning: ms(200),
            pending: ms(300),
            activating: ms(100),
            ssh_server: ms(150),
            exec_agent: ms(100),
            exec_connects: ms(50),
            stop_timeout: ms(1000),
            deprovisioning: ms(50),
        }
    }
}

/// The tasks' exec agents, and the service between them and their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecSettings {
    /// How a session begins.
    pub handshake: Handshake,
    /// How strict and how slow the agents are.
    pub agent: AgentRules,
    /// A session ends that got no input for so long (AWS: 20 min). Output does not count.
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
