//! What is recorded for traces and metrics: spans and events of `tracing`, with targets of their
//! own. An exporter bridges these targets, and a log leaves them out.

use std::sync::OnceLock;

use tracing::{Instrument as _, Level, Span, event, field::Empty};

use crate::{ConnectError, Greeting, Note, Observation, Target, Transport};

/// Target of spans and events that are exported as a part of traces.
pub const SPANS: &str = "telemetry::spans";
/// Target of events that are exported as metrics.
pub const METRICS: &str = "telemetry::metrics";
/// A span with this field is not exported.
pub const DISCARDED: &str = "discarded";

/// Records a metric: `metric!(monotonic_counter.<name> = 1_u64, <attribute> = …)`. Attributes that
/// are `None` are left out.
#[macro_export]
macro_rules! metric {
    ($($field:tt)+) => {
        ::tracing::event!(target: $crate::trace::METRICS, ::tracing::Level::INFO, { $($field)+ })
    };
}

/// Finds the span of [`stage`].
static STAGE: OnceLock<fn() -> Span> = OnceLock::new();

/// Says how [`stage`] finds its span. Called once, by what exports.
pub fn find_stage(by: fn() -> Span) {
    // A second exporter would be a mistake, and the first one stays.
    let _ = STAGE.set(by);
}

/// Returns the span of this process's work on the current job. It is disabled if nothing is
/// exported.
#[must_use]
pub fn stage() -> Span {
    STAGE.get().map_or_else(Span::none, |find| find())
}

/// Records the class of a span's failure.
pub fn fail(span: &Span, error: &str) {
    span.record("error.type", error);
    span.record("otel.status_description", error);
}

/// Makes one attempt to reach a container, as a span.
pub(crate) async fn connect<T: Transport>(
    transport: &T,
    target: &Target,
) -> Result<(T::Session, Greeting), ConnectError> {
    let span = tracing::info_span!(
        target: SPANS,
        "connect",
        otel.kind = "client",
        server.address = %target.destination,
        aws.ecs.task.arn = target.task.as_str(),
        fargate.connection.first = target.pinned.is_none(),
        discarded = Empty,
    );
    let connected = transport.connect(target).instrument(span.clone()).await;
    let error = connected.as_ref().err().map(|error| error.kind.name());
    metric!(monotonic_counter.fargate.connections = 1_u64, error.type = error);
    if let Some(error) = error {
        // While a container starts, there may be one every second: the stage's event is enough.
        span.record(DISCARDED, true);
        event!(target: SPANS, Level::INFO, { error.type = error }, "connection.failed");
    }
    connected
}

/// Records a note that matters in a trace.
pub(crate) fn record(note: &Note<'_>) {
    macro_rules! record {
        ($name:literal $(, $($field:tt)+)?) => {
            event!(target: SPANS, Level::INFO, { $($($field)+)? }, $name)
        };
    }
    match note {
        Note::Entered { state, .. } => record!("state.entered", fargate.state = %state),
        Note::ConnectionLost(_) => record!("connection.lost"),
        Note::Reconnected { offset } => {
            metric!(monotonic_counter.fargate.reconnections = 1_u64);
            let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
            record!("connection.restored", fargate.output.offset = offset);
        }
        Note::Observed(Observation::CancelRequested) => record!("cancel.requested"),
        Note::Observed(Observation::Described(report)) => {
            record!("task.described", fargate.task.status = %report.status);
        }
        Note::Observed(Observation::Missing) => record!("task.missing"),
        Note::Observed(Observation::LaunchFailed(error)) => {
            record!("launch.failed", error.type = error.kind.name());
        }
        Note::Observed(Observation::Delivered) => record!("script.delivered"),
        Note::Observed(_) | Note::Unreachable(_) | Note::Waiting(_) => {}
    }
}
