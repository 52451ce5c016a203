//! The custom executor's stages, a file each. gitlab-runner calls each in a new process; the
//! snapshot carries the job from one to the next.

mod cleanup;
mod config;
mod job_log;
pub(crate) mod launch;
mod losses;
pub(crate) mod output;
mod prelude;
mod prepare;
mod run;
mod services;
mod stage_log;
pub(crate) mod state_log;

use std::{path::PathBuf, time::Duration};

use ::replay::summary::Summary;
use states::{DirectoryStore, Engine, Fault, Header, Retention, StopReason, StoreError};
use transports::{Transports, delivery, ssh::proof};

use crate::{
    config::Config,
    control::{DefinitionCache, EcsControl},
    runner::{Identity, Verdict},
    telemetry::Watched,
    transport,
};

pub(crate) use crate::job_end::{has_ended, remains};
pub use cleanup::cleanup;
pub use config::config;
pub use job_log::JobLog;
pub use launch::Flags;
pub use prepare::prepare;
pub use run::run;
pub use stage_log::StageLog;
pub use state_log::StateLog;

/// How long a stage waits for another process that works on the same job. A cancelled stage ends
/// within the grace period and the time for a task's stop, both of which are shorter by default.
const LEASE_WAIT: Duration = Duration::from_secs(90);

pub(crate) type JobEngine = Engine<EcsControl, Watched<Transports>, DirectoryStore>;
type Work = states::Work<delivery::Session, states::DirectoryLease>;

/// The context of a stage that works on a job.
pub struct Session {
    engine: JobEngine,
    identity: Identity,
    config: Config,
    flags: Flags,
    state_log: StateLog,
}

impl Session {
    /// Creates the engine. It connects on demand.
    ///
    /// # Errors
    /// When the metadata directory is missing and cannot be created.
    pub fn new(
        config: Config,
        flags: Flags,
        identity: Identity,
        state_log: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let engine = engine(&config, store(&config)?);
        Ok(Self { engine, identity, config, flags, state_log: StateLog::new(state_log) })
    }

    /// Returns the job's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the configuration.
    #[must_use]
    pub fn configuration(&self) -> &Config {
        &self.config
    }

    /// Returns the trace that the job's snapshot names, if any. A job that has ended has none: its
    /// trace was exported.
    #[must_use]
    pub fn kept_trace(&self) -> Option<String> {
        let snapshot = self.engine.store().read(&self.identity.id).ok().flatten()?;
        if has_ended(&snapshot) { None } else { snapshot.job.header().trace.clone() }
    }

    /// Returns the log of entered states.
    #[must_use]
    pub fn state_log(&self) -> &StateLog {
        &self.state_log
    }
}

/// Opens the configured directory of jobs.
pub(crate) fn store(config: &Config) -> Result<DirectoryStore, StoreError> {
    let store = DirectoryStore::open(&config.metadata.directory)?
        .with_retention(Retention { age: config.metadata.keep, count: config.metadata.keep_count })
        .with_notes(Summary::note);
    Ok(store)
}

/// Returns an engine for the jobs in this directory.
pub(crate) fn engine(config: &Config, store: DirectoryStore) -> JobEngine {
    let keys = store.clone();
    let definitions = DefinitionCache::in_metadata(&config.metadata.directory);
    let control = EcsControl::new(config.fargate.region.clone()).with_definitions(definitions);
    let transport = Watched(transport::all(config, &control));
    let secrets = keys.clone();
    let (images, sizes) = (config.images.clone(), config.sizes.clone());
    Engine::new(control, transport, store, move |job| keys.key_path(job)).with_secrets(
        move |header, spec| {
            // A job of an older driver is launched again with its original environment.
            if header.host_proof.is_some() {
                let secret = proof::secret(&secrets.key_path(&header.id))?;
                spec.environment.push((proof::VARIABLE.to_owned(), secret));
            }
            if spec.additions.as_ref().is_some_and(|additions| !additions.services.is_empty()) {
                // Only gitlab-runner's processes know them. No other launches a job's first task.
                let granted = launch::granted(&images, &sizes);
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
