//! What the stages that a process hosts share with each other, and with the keeper of its pools.

mod background;
mod connections;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ::replay::summary::Summary;
use states::{DirectoryLease, DirectoryStore, Engine, JobId, Retention, StoreError};
use tokio::sync::{Notify, watch};
use transports::{Transports, delivery, ssh::proof};

use crate::{
    config::Config,
    control::{DefinitionCache, EcsControl},
    launch,
    runner::StageEnvironment,
    transport,
};

pub(crate) use background::Background;
pub(crate) use connections::Connections;

pub(crate) type JobEngine = Engine<EcsControl, Transports, DirectoryStore>;
pub(crate) type Work = states::Work<delivery::Session, DirectoryLease>;

/// What the stages of a process share: one engine, and in the service also connections.
pub struct Host {
    pub(crate) engine: JobEngine,
    pub(crate) config: Config,
    pub(crate) environments: Environments,
    connections: Option<Arc<Connections>>,
    /// Notified when a job has claimed a warm task: its pool is refilled.
    pub(crate) claimed: Arc<Notify>,
    /// Whether the manager is drained: no pool is refilled any more.
    pub(crate) drained: watch::Sender<bool>,
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
        Ok(Self {
            engine,
            config,
            environments,
            connections: None,
            claimed: Arc::default(),
            drained: watch::Sender::new(false),
        })
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
        Self {
            connections: old.connections.clone(),
            claimed: Arc::clone(&old.claimed),
            drained: old.drained.clone(),
            ..self
        }
    }

    pub(crate) fn connections(&self) -> Option<&Connections> {
        self.connections.as_deref()
    }
}

/// The environments of the stages that a process hosts at this moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environments(Arc<Mutex<HashMap<JobId, Vec<Arc<StageEnvironment>>>>>);

impl Environments {
    fn with<R>(&self, act: impl FnOnce(&mut HashMap<JobId, Vec<Arc<StageEnvironment>>>) -> R) -> R {
        // The map is consistent after every step.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn enter(&self, job: &JobId, environment: &Arc<StageEnvironment>) {
        self.with(|all| all.entry(job.clone()).or_default().push(Arc::clone(environment)));
    }

    pub(crate) fn leave(&self, job: &JobId, environment: &Arc<StageEnvironment>) {
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
