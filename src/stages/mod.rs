//! The custom executor's stages, a file each. gitlab-runner calls each in a new process; the
//! snapshot carries the job from one to the next.

mod background;
mod cleanup;
mod config;
mod connections;
mod costs;
mod job_log;
pub(crate) mod key;
pub(crate) mod launch;
mod losses;
pub(crate) mod output;
mod prelude;
mod prepare;
mod run;
mod services;
mod stage_io;
mod stage_log;
pub(crate) mod state_log;
mod work;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::replay::summary::Summary;
use states::{
    AnyJob, DirectoryStore, Engine, Fault, Header, JobId, Retention, StopReason, StoreError,
};
use transports::{Transports, delivery, ssh::proof};

use crate::{
    config::Config,
    control::{DefinitionCache, EcsControl},
    runner::{Identity, StageEnvironment, Verdict},
    transport, warm,
};

pub(crate) use crate::job_end::{has_ended, remains};
pub(crate) use background::Background;
pub use cleanup::cleanup;
pub use config::config;
pub(crate) use connections::Connections;
pub use job_log::JobLog;
pub use key::JobKeyError;
pub use launch::Flags;
pub use prepare::prepare;
pub use run::{read_script, run};
pub use stage_io::{Attempt, Pending, ProcessIo, StageIo};
pub use stage_log::StageLog;
pub use state_log::StateLog;
pub use work::StageWork;

/// How long a stage waits for another process that works on the same job. A cancelled stage ends
/// within the grace period and the time for a task's stop, both of which are shorter by default.
const LEASE_WAIT: Duration = Duration::from_secs(90);

pub(crate) type JobEngine = Engine<EcsControl, Transports, DirectoryStore>;
pub(crate) type Work = states::Work<delivery::Session, states::DirectoryLease>;

/// What the stages of a process share: one engine, and in the service also connections.
pub struct Host {
    engine: JobEngine,
    config: Config,
    environments: Environments,
    connections: Option<Arc<Connections>>,
    warm: Arc<warm::Signals>,
}

impl Host {
    /// Creates the engine. It connects on demand.
    ///
    /// # Errors
    /// When the metadata directory is missing and cannot be created.
    pub fn new(config: Config) -> Result<Self, StoreError> {
        let control = control(&config);
        Self::with_control(config, control)
    }

    /// Creates the engine with this task control.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn with_control(config: Config, control: EcsControl) -> Result<Self, StoreError> {
        let environments = Environments::default();
        let engine = engine_for(&config, control, store(&config)?, environments.clone());
        Ok(Self { engine, config, environments, connections: None, warm: Arc::default() })
    }

    /// Keeps up to `most` connections, and some snapshots, between stages of jobs, which this process
    /// hosts.
    #[must_use]
    pub(crate) fn keeping_connections(self, most: usize) -> Self {
        self.engine.store().keep_recent();
        Self { connections: Some(Arc::new(Connections::new(most))), ..self }
    }

    /// Takes the place of a host with another configuration, whose stages may still run: shares its
    /// connections, and what wakes and ends the keeper of warm tasks.
    #[must_use]
    pub(crate) fn in_place_of(self, old: &Self) -> Self {
        self.engine.store().keep_recent();
        Self { connections: old.connections.clone(), warm: Arc::clone(&old.warm), ..self }
    }

    pub(crate) fn engine(&self) -> &JobEngine {
        &self.engine
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn connections(&self) -> Option<&Connections> {
        self.connections.as_deref()
    }

    /// What wakes and ends the keeper of this process's pools.
    pub(crate) fn warm(&self) -> &warm::Signals {
        &self.warm
    }
}

/// The environments of the stages that a process hosts at this moment.
#[derive(Debug, Clone, Default)]
struct Environments(Arc<Mutex<HashMap<JobId, Vec<Arc<StageEnvironment>>>>>);

impl Environments {
    fn with<R>(&self, act: impl FnOnce(&mut HashMap<JobId, Vec<Arc<StageEnvironment>>>) -> R) -> R {
        // The map is consistent after every step.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, job: &JobId, environment: &Arc<StageEnvironment>) {
        self.with(|all| all.entry(job.clone()).or_default().push(Arc::clone(environment)));
    }

    fn leave(&self, job: &JobId, environment: &Arc<StageEnvironment>) {
        self.with(|all| {
            let stages = all.entry(job.clone()).or_default();
            stages.retain(|other| !Arc::ptr_eq(other, environment));
            if stages.is_empty() {
                all.remove(job);
            }
        });
    }

    /// Returns the environment of the job's stage. A process without stages has none.
    fn of(&self, job: &JobId) -> Arc<StageEnvironment> {
        self.with(|all| all.get(job).and_then(|stages| stages.last()).cloned()).unwrap_or_default()
    }
}

/// The context of a stage that works on a job.
pub struct Session {
    host: Arc<Host>,
    identity: Identity,
    environment: Arc<StageEnvironment>,
    flags: Flags,
    state_log: StateLog,
    continues: Option<Attempt>,
    /// The work of the stage, until it is settled.
    left: Mutex<Option<Work>>,
}

impl Session {
    /// Begins a stage of the job `identity`.
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        flags: Flags,
        identity: Identity,
        environment: Arc<StageEnvironment>,
        state_log: Option<PathBuf>,
    ) -> Self {
        host.environments.enter(&identity.id, &environment);
        let state_log = StateLog::new(state_log);
        let left = Mutex::default();
        Self { host, identity, environment, flags, state_log, continues: None, left }
    }

    /// Continues what another process has begun for the same stage.
    pub fn continue_from(&mut self, attempt: Option<Attempt>) {
        self.continues = attempt;
    }

    /// Returns the job's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the configuration.
    #[must_use]
    pub fn configuration(&self) -> &Config {
        &self.host.config
    }

    /// Returns the trace that the job's snapshot names, if any. A job that has ended has none: its
    /// trace was exported.
    #[must_use]
    pub fn kept_trace(&self) -> Option<String> {
        let snapshot = self.engine().store().read(&self.identity.id).ok().flatten()?;
        if has_ended(&snapshot) { None } else { snapshot.job.header().trace.clone() }
    }

    /// Returns the log of entered states.
    #[must_use]
    pub fn state_log(&self) -> &StateLog {
        &self.state_log
    }

    fn engine(&self) -> &JobEngine {
        &self.host.engine
    }

    fn environment(&self) -> &StageEnvironment {
        &self.environment
    }

    /// Takes the job's connection, if this process has kept one that works.
    async fn take_connection(&self, work: &mut Work) {
        if let Some(connections) = self.host.connections()
            && let Some(connection) = connections.take(&work.snapshot.job).await
        {
            work.use_connection(connection);
        }
    }

    /// Closes the job's connection, if this process has kept one.
    async fn end_connection(&self) {
        if let Some(connections) = self.host.connections() {
            connections.end(&self.identity.id).await;
        }
    }

    /// Ends the stage's work. Its verdict need not wait for the rest, which [`Session::settle`] does.
    fn leave(&self, work: Work) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }

    /// Saves the end of the stage's run and gives the job's lease back, after the stage has its
    /// verdict. Keeps the connection if this process hosts the job's next stage, too.
    pub async fn settle(&self) {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut work) = left else { return };
        self.engine().settle(&mut work).await;
        if let Some(connections) = self.host.connections()
            && matches!(work.snapshot.job, AnyJob::Reachable(_))
            && let Some(mut connection) = work.take_connection()
        {
            connection.0.stand_by().await;
            connections.keep(&work.snapshot.job, connection);
        }
        work.close().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.host.environments.leave(&self.identity.id, &self.environment);
    }
}

/// Opens the configured directory of jobs.
pub(crate) fn store(config: &Config) -> Result<DirectoryStore, StoreError> {
    let store = DirectoryStore::open(&config.metadata.directory)?
        .with_retention(Retention { age: config.metadata.keep, count: config.metadata.keep_count })
        .with_notes(Summary::note);
    Ok(store)
}

/// Returns an engine for the jobs in this directory, in a process that hosts no stage.
pub(crate) fn engine(config: &Config, store: DirectoryStore) -> JobEngine {
    engine_for(config, control(config), store, Environments::default())
}

/// Returns task control for the jobs of this configuration.
fn control(config: &Config) -> EcsControl {
    let definitions = DefinitionCache::in_metadata(&config.metadata.directory);
    EcsControl::new(config.fargate.region.clone()).with_definitions(definitions)
}

fn engine_for(
    config: &Config,
    control: EcsControl,
    store: DirectoryStore,
    environments: Environments,
) -> JobEngine {
    let keys = store.clone();
    let transport = transport::all(config, &control);
    let secrets = keys.clone();
    let config = config.clone();
    Engine::new(control, transport, store, move |job| keys.key_path(job)).with_secrets(
        move |header, spec| {
            // A job of an older driver is launched again with its original environment.
            if header.host_proof.is_some() {
                let secret = proof::secret(&secrets.key_path(&header.id))?;
                spec.environment.push((proof::VARIABLE.to_owned(), secret));
            }
            if spec.additions.as_ref().is_some_and(|additions| !additions.services.is_empty()) {
                // Only gitlab-runner's stages know them. Nothing else launches a job's first task.
                let granted = launch::granted(&config, &environments.of(&header.id));
                spec.service_environment =
                    granted.map(|granted| granted.service_environment).unwrap_or_default();
            }
            Ok(())
        },
    )
}

/// Returns gitlab-runner's verdict on a job that had to end.
fn stopped(reason: &StopReason, header: &Header) -> Verdict {
    let message = format!("fargate: {}", diagnosis::stop_reason(reason));
    match reason.fault(header) {
        Fault::Job => Verdict::BuildFailure { code: None, message: Some(message) },
        Fault::None | Fault::System => Verdict::SystemFailure(message),
    }
}
