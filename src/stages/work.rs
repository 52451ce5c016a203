//! What a stage has to do, in whatever process does it.

use std::fmt;

use bytes::Bytes;

use super::{JobLog, Session, StageLog, cleanup, prepare, run};
use crate::{runner::Verdict, telemetry};

/// A stage that works on a job.
#[derive(Debug, Clone)]
pub enum StageWork {
    /// `prepare`.
    Prepare,
    /// `run`.
    Run {
        /// The stage's name, tamed.
        name: String,
        /// The script.
        script: Bytes,
    },
    /// `cleanup`.
    Cleanup {
        /// Whether to wait for the task's end.
        wait: bool,
    },
}

impl fmt::Display for StageWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("prepare"),
            Self::Run { name, .. } => write!(f, "run {name}"),
            Self::Cleanup { .. } => f.write_str("cleanup"),
        }
    }
}

impl StageWork {
    /// Does the work. Logs it, and records it as a part of the job's trace.
    pub async fn perform(
        self,
        session: &Session,
        log: &mut JobLog,
        logged: &StageLog,
        by_service: bool,
    ) -> Verdict {
        let stage = telemetry::enter(
            &session.configuration().metadata.directory,
            session.identity(),
            session.environment(),
            &self.to_string(),
            || session.kept_trace(),
        );
        let work = async {
            logged.begin(by_service);
            // In a box, as the compiler's limit for the depth of nested futures is near.
            let verdict = Box::pin(self.decide(session, log)).await;
            log.end();
            logged.end(&verdict, log.was_cancelled());
            verdict
        };
        let verdict = stage.run(work).await;
        telemetry::metric!(monotonic_counter.fargate.output = log.written());
        stage.leave(&verdict, log.was_cancelled());
        verdict
    }

    async fn decide(self, session: &Session, log: &mut JobLog) -> Verdict {
        match self {
            Self::Prepare => prepare(session, log).await,
            Self::Run { name, script } => run(session, script, &name, log).await,
            Self::Cleanup { wait } => cleanup(session, wait, log).await,
        }
    }
}
