//! Telemetry over OTLP: one job is one trace, although a dozen processes make it. See
//! `docs/telemetry.md`.
//!
//! Recording ([`Recorder`]) is plain data in memory and knows no exporter. At the process's end,
//! [`flush`] sends it once, within a time limit. Unsent data stays beside the snapshot for the
//! job's next process. If telemetry is off, there is no recorder, no exporter and no thread.

pub mod aws;
pub mod context;
pub mod job;
pub mod logs;
mod metrics;
#[cfg(feature = "telemetry")]
mod otlp;
mod pending_exports;
mod process_log;
mod propagate;
mod recorder;
pub mod settings;
pub mod span;
mod watched;

use std::path::Path;

use states::{Note, Observation};

use crate::runner::{Identity, job_variable};

pub use metrics::Metrics;
pub use pending_exports::adopt;
pub use propagate::propagated;
pub use recorder::{Purpose, Recorded, Recorder, in_own_scope, recorder};
pub use settings::Settings;
pub use watched::Watched;

/// The part of the driver's configuration that recording needs.
pub trait Configuration {
    /// Returns the settings of `[Telemetry]`.
    fn telemetry(&self) -> &Settings;

    /// Returns the runner manager's name.
    fn manager(&self) -> String;
}

/// Starts recording if `[Telemetry]` or the environment's `OTEL_*` variables enable it. Returns a
/// message for each variable that cannot be used.
#[must_use]
pub fn start(config: &impl Configuration) -> Vec<String> {
    let (settings, complaints) =
        config.telemetry().clone().overridden(|name| std::env::var(name).ok());
    if cfg!(feature = "telemetry") && settings.is_on() {
        recorder::install(settings, config.manager());
    }
    complaints
}

/// Sends the recorded data, within the time limit. Never fails: an error is one line in the
/// driver's log.
pub async fn flush() {
    #[cfg(feature = "telemetry")]
    if let Some(recorder) = recorder() {
        otlp::flush(recorder).await;
    }
}

/// Begins the span of a stage. The job's variables may name the pipeline's trace.
pub fn enter(
    recorder: &Recorder,
    directory: &Path,
    identity: &Identity,
    stage: &str,
    kept: Option<&str>,
) {
    let purpose = Purpose {
        directory: directory.to_owned(),
        job: identity.id.to_string(),
        name: stage.to_owned(),
        may_begin: matches!(stage, "config" | "prepare"),
        only: None,
    };
    let (parent, state) = (job_variable("TRACEPARENT"), job_variable("TRACESTATE"));
    if purpose.may_begin
        && let Err(e) = states::DirectoryStore::open(directory)
    {
        tracing::debug!("{e}");
    }
    recorder.enter(
        &purpose,
        kept,
        (parent.as_deref(), state.as_deref()),
        job::about(&identity.about),
    );
}

/// Counts a reaped `job` or `orphan`.
pub fn reaped(kind: &'static str) {
    if let Some(recorder) = recorder() {
        recorder.count("fargate.reaped", vec![("fargate.reaped.kind", kind.into())], 1);
    }
}

/// Returns the span for lines of the driver's log, so that they name the trace.
#[must_use]
pub fn log_span(recorder: &Recorder) -> tracing::Span {
    match recorder.stage() {
        // At `error`, so that logs of every level have it.
        Some((at, _)) => {
            tracing::error_span!("job", trace_id = %hex::encode(at.trace), span_id = %hex::encode(at.span))
        }
        None => tracing::Span::none(),
    }
}

/// Records the engine's notes that matter in a trace.
pub fn noted(note: &Note<'_>) {
    let Some(recorder) = recorder() else { return };
    match note {
        Note::Entered { state, .. } => {
            recorder.event("state.entered", vec![("fargate.state", state.to_string().into())])
        }
        Note::ConnectionLost(_) => recorder.event("connection.lost", Vec::new()),
        Note::Reconnected { offset } => {
            recorder.count("fargate.reconnections", Vec::new(), 1);
            recorder.event(
                "connection.restored",
                vec![("fargate.output.offset", i64::try_from(*offset).unwrap_or(i64::MAX).into())],
            );
        }
        Note::Observed(Observation::CancelRequested) => {
            recorder.event("cancel.requested", Vec::new())
        }
        Note::Observed(Observation::Described(report)) => {
            recorder.event(
                "task.described",
                vec![("fargate.task.status", report.status.to_string().into())],
            );
        }
        Note::Observed(Observation::Missing) => recorder.event("task.missing", Vec::new()),
        Note::Observed(Observation::LaunchFailed(error)) => {
            recorder.event("launch.failed", vec![("error.type", error.kind.name().into())]);
        }
        Note::Observed(Observation::Delivered) => recorder.event("script.delivered", Vec::new()),
        Note::Observed(_) | Note::Unreachable(_) | Note::Waiting(_) => {}
    }
}
