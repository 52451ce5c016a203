//! The engine: performs the machine's actions through the traits in [`crate::world`], reports what
//! it observed, and saves the snapshot before anything that the world would remember.
//!
//! One engine hosts any number of jobs: [`Engine::drive`] is a future per job, and all of them
//! share one describer, which asks ECS about many tasks in one call.

mod clock;
mod describer;
mod drive;
mod follow;
mod piggyback;
mod signal;
mod watch;

use std::{future::Future, io, path::PathBuf, sync::Arc};

use bytes::Bytes;

pub use clock::Clock;
use describer::Describer;
pub use piggyback::Concluded;
use piggyback::Piggyback;

use crate::{
    ConnectError, Finished, Greeting, Header, JobId, Session, Snapshot, SnapshotStore, StateName,
    StopReason, StoreError, TaskControl, Transport,
};

/// Performs what machines decide. Cheap to share by reference between many jobs.
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
type Secrets = Box<dyn Fn(&Header) -> Result<Vec<(String, String)>, ConnectError> + Send + Sync>;

/// One job that is being driven by this process.
pub struct Work<N, L> {
    /// The job and its journal.
    pub snapshot: Snapshot,
    /// The right to work on it.
    pub lease: L,
    /// The connection of this process, with who answered.
    session: Option<(N, Greeting)>,
    /// The script that is to run, when this process has it.
    script: Option<Script>,
    /// What is known to be on disk.
    saved: Option<drive::Promise>,
    saved_at: Option<crate::Timestamp>,
    /// What the journal ended with when it was saved last.
    saved_end: Option<(usize, crate::Timestamp)>,
}

/// A script that gitlab-runner wants run.
#[derive(Debug, Clone)]
pub struct Script {
    /// What is run: gitlab-runner's script, with whatever the driver has added to it.
    pub text: Bytes,
    /// SHA-256 of gitlab-runner's script, hexadecimal. What the driver adds differs from process
    /// to process, and a stage that is repeated is known by it.
    pub digest: String,
}

/// How far to drive a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Until it waits in `Reachable`; or, when it has to end, until its task's end is under way.
    Reach,
    /// Until the run that was requested is over; or the job has to end.
    Run,
    /// Until ECS has accepted to stop all of its tasks, or they are over and its snapshot is
    /// archived.
    Stop,
    /// Until its tasks are over and its snapshot is archived.
    End,
}

/// How a drive ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The job waits in `Reachable`. With its last run, if there was one.
    Reachable(Option<Finished>),
    /// The job has to end, for this reason; `cleanup` finishes it.
    MustEnd(StopReason),
    /// ECS has accepted to stop the job's tasks. Its snapshot waits for a process that sees them
    /// ended and archives it.
    Stopping(StopReason),
    /// The job is over and archived.
    Ended(StopReason),
    /// The time is up, and a task of the job is not known to be over: the state says which.
    Unfinished,
}

/// What the engine tells and asks whoever called it.
pub trait JobIo: Send {
    /// Hands on the next bytes of output, as many of them as go at once, and says how many: those
    /// count as delivered when this returns, and are put on record before the rest follows.
    fn output(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<usize>> + Send;

    /// Something that may interest people.
    fn note(&mut self, note: Note<'_>);

    /// Completes when gitlab-runner wants the stage to end. Once only; pending for ever afterwards.
    /// Cancel-safe.
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
    /// Something was observed that did not change the state.
    Observed(&'a crate::Observation),
    /// The connection was lost while a script runs.
    ConnectionLost(String),
    /// It is back.
    Reconnected {
        /// Byte of the output that comes next.
        offset: u64,
    },
    /// A connection attempt failed.
    Unreachable(&'a ConnectError),
    /// What the connection attempt that is under way waits for.
    Waiting(&'a str),
}

/// Why a job could not be driven on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The snapshot could not be kept: nothing more was begun.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output could not be handed on.
    #[error("the script's output cannot be written: {0}")]
    Output(io::Error),
    /// The job is in a state in which this cannot be asked of it.
    #[error("{0}")]
    Unsuitable(String),
}

impl<C: TaskControl, T: Transport, S: SnapshotStore> Engine<C, T, S> {
    /// An engine. `keys` tells where a job's private key lies.
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
            secrets: Box::new(|_| Ok(Vec::new())),
            control,
        }
    }

    /// The same engine, with environment variables that a job's container gets and that no snapshot
    /// may hold. They are asked for at each launch, and must be the same each time.
    #[must_use]
    pub fn with_secrets(
        self,
        secrets: impl Fn(&Header) -> Result<Vec<(String, String)>, ConnectError> + Send + Sync + 'static,
    ) -> Self {
        Self { secrets: Box::new(secrets), ..self }
    }

    /// The same engine on another clock: in a simulation, processes that follow one another share
    /// one.
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

    /// Takes a job up: what follows is done on its snapshot, under its lease.
    pub fn work(&self, snapshot: Snapshot, lease: S::Lease) -> Work<T::Session, S::Lease> {
        Work {
            snapshot,
            lease,
            session: None,
            script: None,
            saved: None,
            saved_at: None,
            saved_end: None,
        }
    }
}

impl<N: Session, L> Work<N, L> {
    /// Ends the connection politely.
    pub async fn close(mut self) -> L {
        if let Some((session, _)) = self.session.take() {
            session.close().await;
        }
        self.lease
    }
}
