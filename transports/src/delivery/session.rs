//! An open connection to a container: the protocol's verbs over any [`Exec`](super::Exec).

use bytes::Bytes;
use states::{
    ConnectError, Greeting, HostIdentity, RunContainer, RunError, RunOrder, ShellFacts, Signal,
    Target,
};

use super::{Exec, Followed, standby::Standby};

/// An open connection to a container, the same over every transport.
pub struct Session {
    exec: Box<dyn Exec>,
    facts: ShellFacts,
    standby: Option<Standby>,
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
        Ok((Self { exec: Box::new(exec), facts, standby: None }, greeting))
    }

    /// Makes the next runs start sooner, if the transport and the container can do that: opens a
    /// standby over this connection, unless there is one.
    pub async fn stand_by(&mut self) {
        let is_wanted = self.standby.as_mut().is_none_or(Standby::is_to_be_replaced);
        if is_wanted && self.exec.sends_later() {
            self.standby = Standby::open(&*self.exec, &self.facts).await;
        }
    }

    /// Whether the connection has not ended, as far as that is known here.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.exec.is_open()
    }

    /// The standby, if it can start this run.
    fn standby_for(&self, order: &RunOrder) -> Option<&Standby> {
        self.standby.as_ref().filter(|_| order.container == RunContainer::Coordinator)
    }
}

impl states::Session for Session {
    type Run = Followed;

    fn send_ahead(&self, order: &RunOrder, script: &Bytes) {
        if let Some(standby) = self.standby_for(order) {
            standby.send_ahead(order, script);
        }
    }

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<Followed, RunError> {
        let span = super::start_span(order, &script);
        if let Some(standby) = self.standby_for(order)
            && let Some(run) = standby.start(order, &script, &span).await
        {
            return Ok(run);
        }
        super::start_within(span, &*self.exec, &self.facts, order, script).await
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
