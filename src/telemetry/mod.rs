//! Telemetry over OTLP: one job is one trace, although a dozen processes make it. See
//! `docs/telemetry.md`.
//!
//! Work is instrumented with `tracing`: spans with the target `SPANS`, events with `SPANS` or
//! `METRICS`. The engine and the transports do so, too. OpenTelemetry's SDK collects them in
//! memory. At the process's end, [`flush`] sends them once, within a time limit. Unsent data stays
//! beside the snapshot for the job's next process. The service also sends them while it runs
//! ([`export_in_batches`]). If telemetry is off, nothing of the SDK exists.

#[cfg(feature = "telemetry")]
mod context;
#[cfg(feature = "telemetry")]
mod export;
#[cfg(feature = "telemetry")]
pub mod job;
pub mod metrics;
#[cfg(feature = "telemetry")]
mod pipeline;
#[cfg(feature = "telemetry")]
mod process_log;
#[cfg(feature = "telemetry")]
mod spool;
#[cfg(feature = "telemetry")]
mod stage;
#[cfg(not(feature = "telemetry"))]
#[path = "inactive.rs"]
mod stage;

use std::path::{Path, PathBuf};

use ::replay::prices;
use bytes::Bytes;
pub(crate) use states::{
    metric,
    trace::{SPANS, fail},
};

use crate::{
    config::Telemetry,
    runner::{Identity, StageEnvironment, with_variables},
};

#[cfg(feature = "telemetry")]
pub use export::{export_in_batches, flush};
pub use stage::{Stage, end_service, is_on, root};
pub(crate) use stage::{abandon, layer, log_export, stage_span, take_over};
#[cfg(not(feature = "telemetry"))]
pub use stage::{export_in_batches, flush, job};

/// The file of the metadata directory with what the service could not send.
pub(crate) const SERVICE_SPOOL: &str = "fargate.otlp";
/// The common part of both targets.
pub(crate) const TARGETS: &str = "telemetry";

/// A job and the purpose of the process.
#[derive(Debug, Default)]
struct Purpose {
    /// The metadata directory.
    directory: PathBuf,
    /// The job's id.
    job: String,
    /// The name of the process's span: `prepare`, `run build_script`, `reap`.
    name: String,
    /// The origin of the job's trace, if a job may begin with this process.
    begins: Option<Beginning>,
    /// If set, only a job with this own span is entered: the next attempt may have begun.
    only: Option<String>,
}

/// The origin of a new job's trace.
#[derive(Debug, Default)]
struct Beginning {
    /// The job's own trace id, where one follows from the job.
    trace_id: Option<[u8; 16]>,
    /// The variable `TRACEPARENT`.
    parent: Option<String>,
    /// The variable `TRACESTATE`.
    state: Option<String>,
}

/// Starts recording if `[Telemetry]` or the environment's `OTEL_*` variables enable it. `prices` is
/// the file of prices; `None`: the built-in ones. Returns a message for each variable, and for that
/// file, that cannot be used. `service`: the metadata directory, if the process is its service: it
/// records many jobs, and also exports while it runs.
#[must_use]
pub fn start(
    settings: &Telemetry,
    prices: Option<&Path>,
    manager: &str,
    service: Option<&Path>,
) -> Vec<String> {
    let (settings, mut complaints) = settings.effective();
    if cfg!(feature = "telemetry") && settings.is_on() {
        let prices = prices::load(prices);
        complaints.extend(prices.as_ref().err().map(ToString::to_string));
        let spool = service.map(|directory| directory.join(SERVICE_SPOOL));
        stage::install(settings, manager, prices.ok(), spool);
    }
    complaints
}

/// Begins the span of a stage. The job's variables, in the stage's environment, may name the
/// pipeline's trace. `kept` returns the trace in the job's snapshot.
pub fn enter(
    directory: &Path,
    identity: &Identity,
    environment: &StageEnvironment,
    stage: &str,
    kept: impl FnOnce() -> Option<String>,
) -> Stage {
    if !is_on() {
        return Stage::default();
    }
    let begins = matches!(stage, "config" | "prepare").then(|| Beginning {
        trace_id: identity.trace_id,
        parent: environment.job_variable("TRACEPARENT"),
        state: environment.job_variable("TRACESTATE"),
    });
    let (directory, job, name) = (directory.to_owned(), identity.id.to_string(), stage.to_owned());
    let purpose = Purpose { directory, job, name, begins, only: None };
    stage::enter(&purpose, kept().as_deref(), Some(&identity.about))
}

/// Adds `TRACEPARENT` and the other allowed variables to the script's environment, if configured,
/// so that build tools can join the trace.
#[must_use]
pub fn propagated(script: Bytes) -> Bytes {
    with_variables(script, &stage::propagated_variables())
}

#[cfg(test)]
fn defaults() -> Telemetry {
    let least = "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'";
    crate::config::Config::parse(least, Path::new("fargate.toml")).unwrap().0.telemetry
}
