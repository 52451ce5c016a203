//! An open connection to a container: the protocol's verbs over any [`Exec`](super::Exec).

use bytes::Bytes;
use states::{
    ConnectError, Greeting, HostIdentity, RunError, RunOrder, ShellFacts, Signal, Target,
};

use super::{Exec, Followed};

/// An open connection to a container, the same over every transport.
pub struct Session {
    exec: Box<dyn Exec>,
    facts: ShellFacts,
}

impl Session {
    /// Opens a session over `exec` to the container `identity`. Probes the container's shell if
    /// `target` does not hold its facts.
    ///
    /// # Errors
    /// As [`super::probe`].
    pub async fn open(
        exec: impl Exec + 'static,
        identity: HostIdentity,
        target: &Target,
    ) -> Result<(Self, Greeting), ConnectError> {
        let facts = match &target.facts {
            Some(facts) => facts.clone(),
            None => super::probe(&exec, target.shared.as_ref()).await?,
        };
        let greeting = Greeting { identity, facts: facts.clone() };
        Ok((Self { exec: Box::new(exec), facts }, greeting))
    }
}

impl states::Session for Session {
    type Run = Followed;

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<Followed, RunError> {
        super::start(&*self.exec, &self.facts, order, script).await
    }

    async fn attach(&self, order: &RunOrder, from: u64) -> Result<Followed, RunError> {
        super::attach(&*self.exec, &self.facts, order, from).await
    }

    async fn signal(&self, order: &RunOrder, signal: Signal) -> Result<(), RunError> {
        super::signal(&*self.exec, &self.facts, order, signal).await
    }

    async fn answers(&self) -> bool {
        self.exec.answers().await
    }

    async fn close(self) {
        self.exec.close().await;
    }
}
