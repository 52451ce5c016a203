//! Waits for several things at once: ECS, EC2, the container, time.

use std::{future::Future, pin::Pin, time::Duration};

use super::{Engine, Work};
use crate::{
    AnyJob, ConnectError, ControlError, Described, Destination, Greeting, Observation, Seen,
    SnapshotStore, Target, TaskArn, TaskControl, Timestamp, Transport, Watch, trace,
};

/// How long one attempt waits for TCP. A host that is up answers in milliseconds; another one is
/// tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// The same, once a script runs: the host is known to be up, and the network may be slow.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Attempt<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Attempts that outlast one observation: an answer of ECS does not abandon a connection attempt.
pub(super) struct Pendings<'a, N> {
    probe: Option<Attempt<'a, (N, Greeting), ConnectError>>,
    /// When the probe begins, or began.
    probed_at: Timestamp,
    describe: Option<Attempt<'a, Described, ControlError>>,
    described_for: Option<Timestamp>,
}

impl<N> Pendings<'_, N> {
    pub(super) fn none() -> Self {
        Self {
            probe: None,
            probed_at: Timestamp::from_millis(0),
            describe: None,
            described_for: None,
        }
    }
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// Performs [`crate::Action::Watch`], and returns the first observation.
    pub(super) async fn watch<'a>(
        &'a self,
        watch: Watch,
        work: &mut Work<T::Session, S::Lease>,
        pending: &mut Pendings<'a, T::Session>,
    ) -> Observation {
        let now = self.clock.now();
        if watch.probe.is_some()
            && let Some((_, greeting)) = &work.session
        {
            return Observation::Answered(greeting.clone());
        }
        if let Some((destination, at)) = &watch.probe {
            // A probe that has begun is not abandoned. One that has not begun can be moved.
            if pending.probe.is_none() || (now < pending.probed_at && *at != pending.probed_at) {
                let target = self.target(&work.snapshot.job, destination.clone());
                let at = *at;
                pending.probed_at = at;
                pending.probe = Some(Box::pin(async move {
                    self.clock.until(at).await;
                    trace::connect(&self.transport, &target).await
                }));
            }
        } else {
            pending.probe = None;
        }
        match &watch.describe {
            Some((task, at)) => {
                if pending.describe.is_none() || pending.described_for != Some(*at) {
                    let (cluster, task, at) =
                        (work.snapshot.job.header().spec.cluster.clone(), task.clone(), *at);
                    pending.described_for = Some(at);
                    pending.describe =
                        Some(Box::pin(async move { self.describe(&cluster, &task, at).await }));
                }
            }
            None => pending.describe = None,
        }
        let address = async {
            match &watch.address {
                Some((interface, at)) => {
                    self.clock.until(*at).await;
                    self.control.public_address(interface).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // ECS's answer first: a dead task is to be noticed before its refused connections.
            biased;
            described = optional(&mut pending.describe) => {
                pending.describe = None;
                match described {
                    Ok(Described { seen: Seen::Task(report), .. }) => Observation::Described(report.into()),
                    Ok(Described { seen: Seen::Missing, .. }) => Observation::Missing,
                    Err(error) => Observation::DescribeFailed(error),
                }
            }
            probed = optional(&mut pending.probe) => {
                pending.probe = None;
                match probed {
                    Ok((session, greeting)) => {
                        work.session = Some((session, greeting.clone()));
                        Observation::Answered(greeting)
                    }
                    Err(error) => Observation::Unreachable(error),
                }
            }
            address = address => match address {
                Ok(address) => Observation::Addressed(address),
                Err(error) => Observation::AddressFailed(error),
            },
            () = self.clock.until(watch.until.max(now)) => Observation::TimePassed,
        }
    }

    /// Describes the task when it is due.
    pub(super) async fn describe(
        &self,
        cluster: &str,
        task: &TaskArn,
        due: Timestamp,
    ) -> Result<Described, ControlError> {
        let (asking, along) = ((&*self.control, &self.clock), (&self.piggyback, &self.store));
        self.describer.describe(asking, along, cluster, task, due).await
    }

    /// How to reach the job's container at `destination`.
    pub fn target(&self, job: &AnyJob, destination: Destination) -> Target {
        let header = job.header();
        let transport = header.transport();
        let place = match job {
            AnyJob::Reachable(job) => Some(&job.state),
            AnyJob::Executing(job) => Some(&job.state.place),
            _ => None,
        };
        Target {
            transport: transport.name.clone(),
            destination,
            cluster: header.spec.cluster.clone(),
            // The machine probes only tasks that exist.
            task: job
                .task()
                .cloned()
                .unwrap_or_else(|| unreachable!("a connection was wanted without a task")),
            container: header.spec.container.clone(),
            key: (self.keys)(&header.id),
            pinned: place.map(|p| p.identity.clone()),
            host_proof: header.host_proof,
            facts: place.map(|p| p.facts.clone()),
            shared: header.spec.job_container().map(|container| container.shared.clone()),
            connect_timeout: if place.is_some() { RECONNECT_TIMEOUT } else { CONNECT_TIMEOUT },
            attempt_timeout: transport.attempt_timeout,
        }
    }
}

/// Awaits the future; if there is none, never completes.
async fn optional<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
