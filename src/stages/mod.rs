//! The custom executor's stages, a file each. gitlab-runner calls each in a new process; the
//! snapshot carries the job from one to the next.

mod cleanup;
mod config;
mod costs;
mod job_log;
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
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use states::{AnyJob, Fault, Header, StopReason};

use crate::{
    config::Config,
    host::{Host, JobEngine, Work},
    job_end::has_ended,
    launch::Flags,
    runner::{Identity, StageEnvironment, Verdict},
};

pub use cleanup::cleanup;
pub use config::config;
pub use job_log::JobLog;
pub use prepare::prepare;
pub use run::{read_script, run};
pub use stage_io::{Attempt, Pending, ProcessIo, StageIo};
pub use stage_log::StageLog;
pub use state_log::StateLog;
pub use work::StageWork;

/// How long a stage waits for another process that works on the same job. A cancelled stage ends
/// within the grace period and the time for a task's stop, both of which are shorter by default.
const LEASE_WAIT: Duration = Duration::from_secs(90);

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

/// Returns gitlab-runner's verdict on a job that had to end.
fn stopped(reason: &StopReason, header: &Header) -> Verdict {
    let message = format!("fargate: {}", diagnosis::stop_reason(reason));
    match reason.fault(header) {
        Fault::Job => Verdict::BuildFailure { code: None, message: Some(message) },
        Fault::None | Fault::System => Verdict::SystemFailure(message),
    }
}
