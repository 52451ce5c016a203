//! The AWS calls of the transport: sessions, signatures, keys. The root package implements them
//! with the AWS SDK.

use std::future::Future;

use states::{ConnectError, HostIdentity, Target, Timestamp};

use super::channel::{DataKey, NoKey};

/// The calls behind a session.
pub trait ExecApi: Send + Sync + 'static {
    /// `DescribeTasks`: identifies the target's container. While no identity is pinned, an agent
    /// that does not run yet is an error, as no session could start.
    fn identify(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Container, ConnectError>> + Send;

    /// `ExecuteCommand` in the target's container: opens a session that runs `command`. Not
    /// idempotent: a lost answer leaves a session open.
    fn execute(
        &self,
        target: &Target,
        command: &str,
    ) -> impl Future<Output = Result<OpenedSession, NotOpened>> + Send;

    /// Returns headers that sign the WebSocket's upgrade request, a GET of this URL (SigV4, service
    /// `ssmmessages`).
    fn sign(&self, url: &str)
    -> impl Future<Output = Result<Vec<(String, String)>, String>> + Send;

    /// KMS's `GenerateDataKey` of [`super::KEY_BYTES`] bytes, with this encryption context.
    fn data_key(
        &self,
        key: &str,
        context: &[(&str, &str)],
    ) -> impl Future<Output = Result<DataKey, NoKey>> + Send;

    /// `TerminateSession`: frees the container's slot of a session that is not needed.
    fn terminate(&self, session: &str) -> impl Future<Output = Result<(), NotDone>> + Send;

    /// `DescribeSessions`: lists the open sessions of a container by its Session Manager target
    /// ([`Container::target`]).
    fn sessions(
        &self,
        container: &str,
    ) -> impl Future<Output = Result<Vec<ListedSession>, NotDone>> + Send;
}

/// ExecuteCommand did not answer with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOpened {
    /// Why.
    pub error: ConnectError,
    /// Whether it may have opened one: there was no answer, or an ambiguous one.
    pub perhaps: bool,
}

/// A call of Session Manager that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDone {
    /// Why, for the log.
    pub why: String,
    /// Whether the call may succeed if it is repeated.
    pub transient: bool,
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSession {
    /// `ecs-execute-command-…`.
    pub id: String,
    /// When it was opened, by AWS's clock.
    pub began: Timestamp,
}

/// An open session.
#[derive(Clone)]
pub struct OpenedSession {
    /// `ecs-execute-command-…`.
    pub id: String,
    /// The URL of its data channel, to be dialled unchanged.
    pub url: String,
    /// The token that opens the data channel: a secret.
    pub token: String,
}

/// A container, as AWS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its runtime id.
    pub identity: HostIdentity,
    /// Its Session Manager target: `ecs:<cluster>_<task>_<runtime id>`.
    pub target: String,
}
