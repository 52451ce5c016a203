//! The engine: performs the machine's actions through the traits in [`crate::world`], reports what
//! it observed, and saves the snapshot before anything that the world would remember.
//!
//! One engine hosts any number of jobs: [`Engine::drive`] is a future per job, and all of them
//! share one describer, which asks ECS about many tasks in one call.

mod claim;
mod clock;
mod describer;
mod drive;
mod follow;
mod piggyback;
mod signal;
mod watch;

use std::{future::Future, io, path::PathBuf, sync::Arc};

use bytes::Bytes;

pub use claim::Claiming;
pub use clock::Clock;
use describer::Describer;
pub use piggyback::Concluded;
use piggyback::Piggyback;

use crate::{
    ConnectError, Finished, Greeting, Header, JobId, LaunchSpec, Session, Snapshot, SnapshotStore,
    StateName, StopReason, StoreError, TaskControl, Transport,
};

/// Performs the machine's actions for any number of jobs, which share it by reference.
pub struct Engine<C, T, S> {
    control: Arc<C>,
    transport: T,
    store: S,
    describer: Describer,
    piggyback: Piggyback,
    clock: Clock,
    keys: KeyPath,
    secrets: Secrets,
}

type KeyPath = Box<dyn Fn(&JobId) -> PathBuf + Send + Sync>;
type Secrets = Box<dyn Fn(&Header, &mut LaunchSpec) -> Result<(), ConnectError> + Send + Sync>;

/// A job that this process drives.
pub struct Work<N, L> {
    /// The job and its journal.
    pub snapshot: Snapshot,
    /// The right to work on it.
    pub lease: L,
    /// This process's connection, with the container's greeting.
    session: Option<(N, Greeting)>,
    /// The script that is to run, when this process has it.
    script: Option<Script>,
    /// The promise that is known to be on disk.
    saved: Option<drive::Promise>,
    saved_at: Option<crate::Timestamp>,
    /// The journal's end when it was saved last.
    saved_end: Option<(usize, crate::Timestamp)>,
    /// Whether [`Engine::settle`] saves a run's end.
    settles: bool,
}

/// A script that gitlab-runner wants run.
#[derive(Debug, Clone)]
pub struct Script {
    /// The text to run: gitlab-runner's script, with the driver's additions.
    pub text: Bytes,
    /// SHA-256 of gitlab-runner's script, hexadecimal. It identifies a repeated stage, as the
    /// driver's additions differ between processes.
    pub digest: String,
}

/// How far to drive a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Until it waits in `Reachable`; if it must end, until its task is stopping.
    Reach,
    /// Until the requested run is over, or the job must end.
    Run,
    /// Until ECS has accepted to stop all its tasks, or they have ended and its snapshot is
    /// archived.
    Stop,
    /// Until its tasks have ended and its snapshot is archived.
    End,
}

/// How a drive ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The job waits in `Reachable`. Holds its last run, if there was one.
    Reachable(Option<Finished>),
    /// The job must end, for this reason. `cleanup` finishes it.
    MustEnd(StopReason),
    /// ECS has accepted to stop the job's tasks. The process that sees them ended archives the
    /// snapshot.
    Stopping(StopReason),
    /// The job is over and archived.
    Ended(StopReason),
    /// The time is up, and a task of the job may still run. The state says which.
    Unfinished,
}

/// How the engine reports to its caller and learns of cancels.
pub trait JobIo: Send {
    /// Hands on the next bytes of output, as many as one write takes, and returns how many. These
    /// count as delivered when this returns. They are marked before the rest follows.
    fn output(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<usize>> + Send;

    /// Reports something that may interest people.
    fn note(&mut self, note: Note<'_>);

    /// Completes when gitlab-runner wants the stage to end: once, then never again. Cancel-safe.
    fn cancelled(&mut self) -> impl Future<Output = ()> + Send;
}

/// What may interest people while a job is driven.
#[derive(Debug)]
pub enum Note<'a> {
    /// The job changed its state.
    Entered {
        /// The new state.
        state: StateName,
        /// The job.
        snapshot: &'a Snapshot,
    },
    /// An observation did not change the state.
    Observed(&'a crate::Observation),
    /// The connection was lost while a script runs.
    ConnectionLost(String),
    /// The connection is back.
    Reconnected {
        /// The next byte of the output.
        offset: u64,
    },
    /// A connection attempt failed.
    Unreachable(&'a ConnectError),
    /// What the present connection attempt waits for.
    Waiting(&'a str),
}

/// Why the engine cannot drive a job.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The snapshot could not be saved, so nothing more was begun.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output could not be handed on.
    #[error("the script's output cannot be written: {0}")]
    Output(io::Error),
    /// The job's state does not admit the request.
    #[error("{0}")]
    Unsuitable(String),
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// An engine. `keys` returns the path of a job's private key.
    pub fn new(
        control: C,
        transport: T,
        store: S,
        keys: impl Fn(&JobId) -> PathBuf + Send + Sync + 'static,
    ) -> Self {
        let control = Arc::new(control);
        Self {
            describer: Describer::new(),
            piggyback: Piggyback::default(),
            transport,
            store,
            clock: Clock::start(),
            keys: Box::new(keys),
            secrets: Box::new(|_, _| Ok(())),
            control,
        }
    }

    /// The same engine with secrets for a job's containers, which no snapshot may hold. `secrets`
    /// is called at each launch, and must add the same to the specification each time.
    #[must_use]
    pub fn with_secrets(
        self,
        secrets: impl Fn(&Header, &mut LaunchSpec) -> Result<(), ConnectError> + Send + Sync + 'static,
    ) -> Self {
        Self { secrets: Box::new(secrets), ..self }
    }

    /// The same engine on another clock: the processes of a simulation share one.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The task control.
    pub fn control(&self) -> &C {
        &self.control
    }

    /// The engine's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Begins to work on a job, under its lease.
    pub fn work(&self, snapshot: Snapshot, lease: S::Lease) -> Work<T::Session, S::Lease> {
        Work {
            snapshot,
            lease,
            session: None,
            script: None,
            saved: None,
            saved_at: None,
            saved_end: None,
            settles: false,
        }
    }
}

impl<N, L> Work<N, L> {
    /// Says that [`Engine::settle`] follows each [`Engine::drive`]. So the success of a run need not
    /// wait until it is saved: if the process dies before that, the next one finds the same end in
    /// the container. A failure is saved first, because gitlab-runner may repeat the stage, and then
    /// the script has to run again.
    pub fn settle_later(&mut self) {
        self.settles = true;
    }

    /// Takes the connection from a job that nothing is done with, to use it later.
    pub fn take_connection(&mut self) -> Option<(N, Greeting)> {
        self.session.take()
    }

    /// Uses a connection to the job's task that was made before.
    pub fn use_connection(&mut self, connection: (N, Greeting)) {
        self.session = Some(connection);
    }
}

impl<N: Session, L> Work<N, L> {
    /// Closes the connection and returns the lease.
    pub async fn close(mut self) -> L {
        if let Some((session, _)) = self.session.take() {
            session.close().await;
        }
        self.lease
    }
}
