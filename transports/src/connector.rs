//! The interface of a transport: its declaration, how it connects, and the list of a process's
//! transports.

use async_trait::async_trait;
use states::{
    ConnectCause, ConnectError, ConnectErrorKind, Greeting, Target, TaskArn, Transport,
    TransportRecord,
};

use crate::{Interactive, delivery::Session};

/// A transport's declaration.
#[derive(Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The part that jobs record: its name, and the pacing of its attempts.
    pub record: TransportRecord,
    /// One line about it, for people who choose a transport.
    pub about: &'static str,
    /// The table of `fargate.toml` that is enough to choose it.
    pub table: Option<&'static str>,
    /// Whether help and messages list it. A transport for tests can be named, but is not listed.
    pub is_offered: bool,
    /// Whether it connects to the task's address, which then has to be known.
    pub needs_address: bool,
    /// Whether it logs in. Then the job gets a key of its own, whose public half goes to the
    /// container in `SSH_PUBLIC_KEY`. It also records `[SSH]`'s login and host proof.
    pub needs_login: bool,
    /// Whether the task has to be launched with `enableExecuteCommand`.
    pub needs_execute_command: bool,
}

impl Declaration {
    /// The transport's name, as in `fargate.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }
}

/// Connects to containers. Made once per process, used for every job.
#[async_trait]
pub trait Connector: Send + Sync {
    /// As [`Transport::connect`], with a [`Session`] of this transport.
    async fn connect(&self, target: &Target) -> Result<(Session, Greeting), ConnectError>;

    /// As [`Transport::waits_for`].
    async fn waits_for(&self, task: &TaskArn) -> String {
        let _ = task;
        std::future::pending().await
    }

    /// Returns interactive access to containers, if this transport supports it.
    fn interactive(&self) -> Option<&dyn Interactive> {
        None
    }
}

/// The transports of a process. A job's target names the one to use.
pub struct Transports(Vec<(&'static Declaration, Box<dyn Connector>)>);

impl Transports {
    /// Returns a set of these transports. Their names must differ.
    #[must_use]
    pub fn new(transports: Vec<(&'static Declaration, Box<dyn Connector>)>) -> Self {
        Self(transports)
    }

    /// Returns the transport of this target.
    ///
    /// # Errors
    /// When the job began with a transport that this driver does not have.
    pub fn of(&self, target: &Target) -> Result<&dyn Connector, ConnectError> {
        self.named(&target.transport).ok_or_else(|| ConnectError {
            kind: ConnectErrorKind::Denied,
            message: format!(
                "the container of task {} is reached by the transport {:?}, which this fargate does not have",
                target.task, target.transport
            ),
            cause: ConnectCause::UnknownTransport,
        })
    }

    fn named(&self, name: &str) -> Option<&dyn Connector> {
        let named = self.0.iter().find(|(declaration, _)| declaration.name() == name);
        named.map(|(_, connector)| &**connector)
    }
}

impl Transport for Transports {
    type Session = Session;

    async fn connect(&self, target: &Target) -> Result<(Session, Greeting), ConnectError> {
        self.of(target)?.connect(target).await
    }

    async fn waits_for(&self, transport: &str, task: &TaskArn) -> String {
        match self.named(transport) {
            Some(connector) => connector.waits_for(task).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use super::*;

    #[test]
    fn an_unknown_transport_is_refused_for_good() {
        let target = Target {
            transport: Cow::Borrowed("carrier-pigeon"),
            destination: states::Destination::Task,
            cluster: "ci".to_owned(),
            task: TaskArn::new("arn:aws:ecs:eu-west-1:111122223333:task/ci/1").unwrap(),
            container: "ci-coordinator".to_owned(),
            key: "/none".into(),
            pinned: None,
            host_proof: None,
            facts: None,
            shared: None,
            connect_timeout: Duration::ZERO,
            attempt_timeout: Duration::ZERO,
        };
        let error = Transports::new(Vec::new()).of(&target).err().unwrap();
        assert!(!error.kind.is_transient(), "{error:?}");
        assert!(
            error.message.contains("task/ci/1") && error.message.contains("\"carrier-pigeon\"")
        );
        assert_eq!(error.cause, ConnectCause::UnknownTransport);
    }
}
