//! The custom executor's stages, a file each. gitlab-runner calls each in a new process; the
//! snapshot carries the job from one to the next.

mod cleanup;
mod config;
mod job_log;
pub(crate) mod launch;
mod losses;
pub(crate) mod output;
mod prepare;
mod run;
mod stage_log;
pub(crate) mod state_log;

use std::{path::PathBuf, time::Duration};

use ::replay::summary::Summary;
use states::{DirectoryStore, Engine, Fault, Header, Retention, StopReason, StoreError};
use transports::{Transports, delivery, ssh::proof};

use crate::{
    config::Config,
    control::EcsControl,
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
    let control = EcsControl::new(config.fargate.region.clone());
    let transport = Watched(transport::all(config, &control));
    let secrets = keys.clone();
    Engine::new(control, transport, store, move |job| keys.key_path(job)).with_secrets(
        move |header| {
            // A job of an older driver is launched again with its original environment.
            let wanted = header.host_proof.is_some();
            wanted
                .then(|| {
                    proof::secret(&secrets.key_path(&header.id))
                        .map(|secret| (proof::VARIABLE.to_owned(), secret))
                })
                .into_iter()
                .collect()
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
