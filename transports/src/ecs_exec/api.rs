//! What the transport needs of AWS's APIs: sessions, signatures, keys. Implemented where the AWS SDK is.

use std::future::Future;

use states::{ConnectError, HostIdentity, Target};

use super::channel::DataKey;

/// The calls behind a session.
pub trait ExecApi: Send + Sync + 'static {
    /// `ExecuteCommand` in the target's container: a new session that runs `command`, and who the container is.
    /// Not idempotent: an answer that is lost leaves a session behind.
    fn open(&self, target: &Target, command: &str) -> impl Future<Output = Result<OpenedSession, ConnectError>> + Send;

    /// Headers that sign the WebSocket's upgrade request, a GET of this URL (SigV4, service `ssmmessages`).
    fn sign(&self, url: &str) -> impl Future<Output = Result<Vec<(String, String)>, String>> + Send;

    /// KMS's `GenerateDataKey` of [`super::KEY_BYTES`] bytes, with this encryption context.
    fn data_key(&self, key: &str, context: &[(&str, &str)]) -> impl Future<Output = Result<DataKey, String>> + Send;

    /// `TerminateSession`, as far as it is allowed: a session that is of no use should not hold one of the container's slots.
    fn terminate(&self, session: &str) -> impl Future<Output = ()> + Send;
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
    /// The container's runtime id.
    pub identity: HostIdentity,
    /// How Session Manager calls the container: `ecs:<cluster>_<task>_<runtime id>`.
    pub target: String,
}
