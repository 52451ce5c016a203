//! Why a call or a connection failed, beyond its kind. `diagnosis` chooses remedies by these facts;
//! no decision depends on them.

use serde::{Deserialize, Serialize};

/// Why a call failed, beyond its [`ControlErrorKind`](super::ControlErrorKind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ControlCause {
    /// The kind says it all.
    #[default]
    General,
    /// The service sent no answer, or another host answered in its place.
    NoAnswer,
    /// The role may not pass the task's roles to ECS (`iam:PassRole`).
    PassRole,
    /// AWS has blocked the account.
    AccountBlocked,
    /// The cluster does not exist.
    NoSuchCluster,
    /// The cluster has no instances that fit the launch.
    NoInstances,
    /// The platform version does not exist.
    NoSuchPlatform,
    /// The task definition does not fit the platform version.
    PlatformMismatch,
    /// The service has no such endpoint in the region.
    NoEndpoint,
    /// No region is configured.
    NoRegion,
    /// The configuration gives the SDK no valid request.
    Configuration,
    /// The environment gives the SDK no valid request.
    Environment,
    /// RunTask answered with a failure and no task.
    LaunchFailure,
    /// The job's private key cannot be read.
    JobKey,
    /// The base task definition cannot be extended for a job.
    BaseDefinition,
    /// A directory of the runner manager cannot be used.
    Directory,
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
    /// The SSH server, or a host in front of it, ended the connection.
    ServerClosed,
    /// The SSH server ended the connection during the handshake.
    HandshakeClosed,
    /// The SSH server has no host key of a type that the driver supports.
    HostKeyKind,
    /// The SSH server has no algorithm in common with the driver.
    Algorithms,
    /// No SSH server answers.
    NotSsh,
    /// The SSH server violated the protocol as no honest server does.
    Abuse,
    /// The SSH server does not prove its host key.
    NoHostProof,
    /// The SSH server's proof is for a different host key.
    OtherHostProof,
    /// The SSH server refuses a terminal.
    NoTerminal,
    /// The job was launched for a transport that needs no address.
    OtherTransport,
    /// The job was launched for a transport that this driver does not have.
    UnknownTransport,
    /// The connection ended before or during the first command.
    FirstCommandLost,
    /// No directory in the container can be written to.
    NoDirectory,
    /// The coordinator cannot prepare the volume that it shares with the job's container.
    SharedVolume,
    /// The coordinator's image lacks programs that scripts in another container need.
    NoJobPrograms,
    /// The runtime id belongs to another container.
    OtherContainer,
    /// The attempt waited for other sessions in the container.
    SessionQueued,
    /// A terminal's session was not ready in time.
    TerminalSlow,
    /// The session was not ready in time.
    SessionSlow,
    /// The session sent nothing at all.
    SessionSilent,
    /// The `ssmmessages` endpoint cannot be reached.
    EndpointUnreachable,
    /// The `ssmmessages` endpoint, or a host in front of it, ended the connection.
    EndpointClosed,
    /// ECS returned an invalid address.
    SessionAddress,
    /// The role may not open the session's data channel.
    DataChannelDenied,
    /// An async task of the driver ended early.
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
    /// The exec agent violates the protocol.
    AgentProtocol,
    /// ECS shows no container of the configured name.
    NoSuchContainer,
    /// The exec agent was connected before.
    AgentDisconnected,
    /// The role may not call ExecuteCommand.
    ExecuteDenied,
    /// ECS runs no commands in the container.
    ExecuteRefused,
    /// ECS reports that the task does not run.
    TaskNotRunning,
    /// ECS does not report the container's runtime id yet.
    NoRuntimeId,
}

/// For serde: a cause that adds nothing to the kind is left out.
pub(super) fn is_general<T: Default + PartialEq>(cause: &T) -> bool {
    *cause == T::default()
}
