//! Why a call or a connection failed, where its kind alone does not say what would help. Facts
//! that `diagnosis` chooses a remedy by; nothing is decided by them.

use serde::{Deserialize, Serialize};

/// Why a call failed, beyond its [`ControlErrorKind`](super::ControlErrorKind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ControlCause {
    /// The kind says it all.
    #[default]
    General,
    /// The service sent no answer, or none of its own.
    NoAnswer,
    /// The role may not pass the task's roles to ECS (`iam:PassRole`).
    PassRole,
    /// AWS has blocked the account.
    AccountBlocked,
    /// The cluster does not exist.
    NoSuchCluster,
    /// The cluster has no instances for what was asked for.
    NoInstances,
    /// The platform version does not exist.
    NoSuchPlatform,
    /// The task definition does not fit the platform version.
    PlatformMismatch,
    /// The service has no such endpoint in the region.
    NoEndpoint,
    /// No region is configured.
    NoRegion,
    /// The SDK cannot make a request of the configuration.
    Configuration,
    /// The SDK cannot make a request of the environment.
    Environment,
    /// RunTask answered with a failure and no task.
    LaunchFailure,
    /// The job's private key cannot be read.
    JobKey,
}

/// Why an attempt to reach a container failed, beyond its
/// [`ConnectErrorKind`](super::ConnectErrorKind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ConnectCause {
    /// The kind says it all.
    #[default]
    General,
    /// A call of AWS's API failed.
    Api(super::ControlErrorKind, ControlCause),
    /// The SSH server accepted the connection and was too slow.
    ServerSlow,
    /// The SSH server, or what is before it, ended the connection.
    ServerClosed,
    /// The SSH server ended the connection during the handshake.
    HandshakeClosed,
    /// The SSH server has no host key of a kind that the driver checks.
    HostKeyKind,
    /// The SSH server has no algorithm in common with the driver.
    Algorithms,
    /// No SSH server answers.
    NotSsh,
    /// The SSH server did what no honest one does.
    Abuse,
    /// The SSH server does not prove its host key.
    NoHostProof,
    /// The SSH server proves another host key than its own.
    OtherHostProof,
    /// The SSH server gives no terminal.
    NoTerminal,
    /// The job was launched for another transport, one that needs no address.
    OtherTransport,
    /// The job was launched for a transport that this driver does not have.
    UnknownTransport,
    /// The connection ended before or during the first command.
    FirstCommandLost,
    /// No directory in the container can be written to.
    NoDirectory,
    /// The runtime id is that of another container.
    OtherContainer,
    /// The attempt waited for other sessions in the container.
    SessionQueued,
    /// A terminal's session was not ready in time.
    TerminalSlow,
    /// The session was not ready in time.
    SessionSlow,
    /// The session said nothing at all.
    SessionSilent,
    /// The `ssmmessages` endpoint cannot be reached.
    EndpointUnreachable,
    /// The `ssmmessages` endpoint, or what is before it, ended the connection.
    EndpointClosed,
    /// ECS named an address that is none.
    SessionAddress,
    /// The role may not open the session's data channel.
    DataChannelDenied,
    /// A task of the driver's own ended early.
    DriverFault,
    /// The image lacks programs that ECS Exec needs.
    NoPrograms,
    /// The session's KMS key cannot be used.
    SessionKey,
    /// The container's root file system is read-only.
    ReadOnlyRoot,
    /// The exec agent has no room on the container's disk.
    AgentDiskFull,
    /// The session's log cannot be written.
    SessionLog,
    /// The exec agent does not speak as the driver expects.
    AgentProtocol,
    /// ECS shows no container of the configured name.
    NoSuchContainer,
    /// The exec agent was connected before.
    AgentDisconnected,
    /// The role may not call ExecuteCommand.
    ExecuteDenied,
    /// ECS runs no commands in the container.
    ExecuteRefused,
    /// The task does not run, says ECS.
    TaskNotRunning,
    /// ECS does not tell the container's runtime id yet.
    NoRuntimeId,
}

/// For serde: what says no more than the kind is left out.
pub(super) fn is_general<T: Default + PartialEq>(cause: &T) -> bool {
    *cause == T::default()
}
