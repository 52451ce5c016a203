//! Telemetry over OTLP: one job is one trace, although a dozen processes make it. See
//! `docs/telemetry.md`.
//!
//! Work is instrumented with `tracing`: spans with the target `SPANS`, events with `SPANS` or
//! `METRICS`. OpenTelemetry's SDK collects them in memory. At the process's end, [`flush`] sends
//! them once, within a time limit. Unsent data stays beside the snapshot for the job's next
//! process. The service sends them in [`Batches`] while it runs. If telemetry is off, nothing of
//! the SDK exists.

#[cfg(feature = "telemetry")]
mod batches;
#[cfg(feature = "telemetry")]
mod context;
#[cfg(feature = "telemetry")]
mod export;
#[cfg(feature = "telemetry")]
pub mod job;
#[cfg(feature = "telemetry")]
mod logs;
mod metrics;
mod pending_exports;
#[cfg(feature = "telemetry")]
mod pipeline;
#[cfg(feature = "telemetry")]
mod process_log;
mod propagate;
#[cfg(feature = "telemetry")]
mod recorder;
#[cfg(not(feature = "telemetry"))]
#[path = "inactive.rs"]
mod recorder;
pub mod settings;
#[cfg(feature = "telemetry")]
mod spool;
mod watched;

use std::path::{Path, PathBuf};

use ::replay::prices;
use states::{Note, Observation};
use tracing::Span;

use crate::runner::{Identity, StageEnvironment};

#[cfg(feature = "telemetry")]
pub use batches::Batches;
#[cfg(feature = "telemetry")]
pub use export::flush;
#[cfg(feature = "telemetry")]
pub use logs::log_export;
pub use pending_exports::adopt;
pub use propagate::propagated;
pub(crate) use recorder::layer;
#[cfg(not(feature = "telemetry"))]
pub use recorder::{Batches, flush, job, log_export};
pub use recorder::{Scope, in_own_scope, is_on, leave, log_span, root, stage_span};
pub use settings::Settings;
pub use watched::Watched;

/// Target of spans and events that are exported as a part of traces. The log has none of them.
pub(crate) const SPANS: &str = "telemetry::spans";
/// Target of events that are exported as metrics. The log has none of them.
pub(crate) const METRICS: &str = "telemetry::metrics";
/// The file of the metadata directory with what the service could not send.
const SERVICE_SPOOL: &str = "fargate.otlp";
/// The common part of both targets.
pub(crate) const TARGETS: &str = "telemetry";

/// Records a metric: `metric!(monotonic_counter.<name> = 1_u64, <attribute> = …)`. Attributes that
/// are `None` are left out.
macro_rules! metric {
    ($($field:tt)+) => {
        tracing::event!(target: $crate::telemetry::METRICS, tracing::Level::INFO, { $($field)+ })
    };
}

/// Records an event of this process's work on the job.
macro_rules! stage_event {
    ($name:literal $(, $($field:tt)+)?) => {
        tracing::event!(
            target: $crate::telemetry::SPANS,
            parent: &$crate::telemetry::stage_span(),
            tracing::Level::INFO,
            { $($($field)+)? },
            $name
        )
    };
}

pub(crate) use {metric, stage_event};

/// A job and the purpose of the process.
#[derive(Debug, Clone)]
struct Purpose {
    /// The metadata directory.
    directory: PathBuf,
    /// The job's id.
    job: String,
    /// The name of its span: `prepare`, `run build_script`, `reap`.
    name: String,
    /// The origin of the job's trace, if a job may begin with this process.
    begins: Option<Beginning>,
    /// If set, only a job with this own span is entered: the next attempt may have begun.
    only: Option<String>,
}

/// The origin of a new job's trace.
#[derive(Debug, Clone, Default)]
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
/// file, that cannot be used. `of_service`: the process records many jobs, and exports by
/// [`Batches`].
#[must_use]
pub fn start(
    settings: &Settings,
    prices: Option<&Path>,
    manager: &str,
    of_service: bool,
) -> Vec<String> {
    let (settings, mut complaints) = settings.effective();
    if cfg!(feature = "telemetry") && settings.is_on() {
        let prices = prices::load(prices);
        complaints.extend(prices.as_ref().err().map(ToString::to_string));
        recorder::install(settings, manager, prices.ok(), of_service);
    }
    complaints
}

/// Begins the span of a stage. The job's variables, in the stage's environment, may name the
/// pipeline's trace.
pub fn enter(
    directory: &Path,
    identity: &Identity,
    environment: &StageEnvironment,
    stage: &str,
    kept: Option<&str>,
) {
    if !is_on() {
        return;
    }
    let begins = matches!(stage, "config" | "prepare").then(|| Beginning {
        trace_id: identity.trace_id,
        parent: environment.job_variable("TRACEPARENT"),
        state: environment.job_variable("TRACESTATE"),
    });
    if begins.is_some()
        && let Err(e) = states::DirectoryStore::open(directory)
    {
        tracing::debug!("{e}");
    }
    let purpose = Purpose {
        directory: directory.to_owned(),
        job: identity.id.to_string(),
        name: stage.to_owned(),
        begins,
        only: None,
    };
    recorder::enter(&purpose, kept, Some(&identity.about));
}

/// Records the class of a span's failure.
pub(crate) fn fail(span: &Span, error: &str) {
    span.record("error.type", error);
    span.record("otel.status_description", error);
}

/// Records the engine's notes that matter in a trace.
pub fn noted(note: &Note<'_>) {
    if !is_on() {
        return;
    }
    match note {
        Note::Entered { state, .. } => stage_event!("state.entered", fargate.state = %state),
        Note::ConnectionLost(_) => stage_event!("connection.lost"),
        Note::Reconnected { offset } => {
            metric!(monotonic_counter.fargate.reconnections = 1_u64);
            let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
            stage_event!("connection.restored", fargate.output.offset = offset);
        }
        Note::Observed(Observation::CancelRequested) => stage_event!("cancel.requested"),
        Note::Observed(Observation::Described(report)) => {
            stage_event!("task.described", fargate.task.status = %report.status);
        }
        Note::Observed(Observation::Missing) => stage_event!("task.missing"),
        Note::Observed(Observation::LaunchFailed(error)) => {
            stage_event!("launch.failed", error.type = error.kind.name());
        }
        Note::Observed(Observation::Delivered) => stage_event!("script.delivered"),
        Note::Observed(_) | Note::Unreachable(_) | Note::Waiting(_) => {}
    }
}
