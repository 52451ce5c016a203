//! What the transport needs of AWS's APIs: sessions, signatures, keys. Implemented where the AWS
//! SDK is.

use std::future::Future;

use states::{ConnectError, HostIdentity, Target, Timestamp};

use super::channel::{DataKey, NoKey};

/// The calls behind a session.
pub trait ExecApi: Send + Sync + 'static {
    /// `DescribeTasks`: who the target's container is. While nothing is pinned, an agent that does
    /// not run yet is an error: asking it for a session would be in vain.
    fn identify(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Container, ConnectError>> + Send;

    /// `ExecuteCommand` in the target's container: a new session that runs `command`.
    /// Not idempotent: an answer that is lost leaves a session behind.
    fn execute(
        &self,
        target: &Target,
        command: &str,
    ) -> impl Future<Output = Result<OpenedSession, NotOpened>> + Send;

    /// Headers that sign the WebSocket's upgrade request, a GET of this URL (SigV4, service
    /// `ssmmessages`).
    fn sign(&self, url: &str)
    -> impl Future<Output = Result<Vec<(String, String)>, String>> + Send;

    /// KMS's `GenerateDataKey` of [`super::KEY_BYTES`] bytes, with this encryption context.
    fn data_key(
        &self,
        key: &str,
        context: &[(&str, &str)],
    ) -> impl Future<Output = Result<DataKey, NoKey>> + Send;

    /// `TerminateSession`: a session that is of no use should not hold one of the container's
    /// slots.
    fn terminate(&self, session: &str) -> impl Future<Output = Result<(), NotDone>> + Send;

    /// `DescribeSessions`: the sessions that are open in a container, by what Session Manager calls
    /// it ([`Container::target`]).
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
    /// Whether it may have opened one all the same: there was no answer, or none that tells.
    pub perhaps: bool,
}

/// A call of Session Manager that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDone {
    /// Why, for the log.
    pub why: String,
    /// Whether it may be done if it is called again.
    pub transient: bool,
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSession {
    /// `ecs-execute-command-…`.
    pub id: String,
    /// Since when it is open, by AWS's clock.
    pub began: Timestamp,
}

/// An open session.
#[derive(Clone)]
pub struct OpenedSession {
    /// `ecs-execute-command-…`.
    pub id: String,
    /// Where its data channel is, to be dialled as it is.
    pub url: String,
    /// What opens the data channel: a secret.
    pub token: String,
}

/// A container, as AWS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its runtime id.
    pub identity: HostIdentity,
    /// How Session Manager calls it: `ecs:<cluster>_<task>_<runtime id>`.
    pub target: String,
}
