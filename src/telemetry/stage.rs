//! A process's work on a job: a span of the job's trace, and the job's own span if the job ends.
//!
//! Whatever runs in [`Stage::run`] belongs to the job: OpenTelemetry's context, which follows the
//! span, says which one it is. So a process can work on many jobs at once.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use diagnosis::costs::Prices;
use opentelemetry::{
    Context as OtelContext, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents};
use states::{About, JobId, trace::DISCARDED};
use tokio::sync::Notify;
use tracing::{Instrument as _, Span, Subscriber, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, registry::LookupSpan};

use super::{
    Purpose, SPANS,
    context::{Context, traceparent},
    fail, job, metric,
    pipeline::{self, LogExport, Pipeline},
    process_log::{Line, ProcessLog},
    spool,
};
use crate::{
    config::{Signal, Telemetry},
    runner::{Verdict, stage},
};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// The result of a stage that another process continues.
const HANDED_OVER: &str = "handed_over";

/// Attributes of OpenTelemetry's SDK.
pub(super) type Attributes = Vec<KeyValue>;

/// Collects what one process exports.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) settings: Telemetry,
    pub(super) pipeline: Pipeline,
    /// For what jobs cost; `None` if they cannot be read.
    pub(super) prices: Option<Prices>,
    /// Whether the process is the service.
    pub(super) of_service: bool,
    /// The file of unsent data: the service's, or that of the process's first job.
    spool: Mutex<Option<PathBuf>>,
    /// Held while data is exported.
    pub(super) exporting: tokio::sync::Mutex<()>,
    /// Notified when a job has ended, so that the service exports its trace soon.
    pub(super) job_ended: Notify,
    /// Whether a job ended here, so that no other process of it follows.
    pub(super) has_ended_job: AtomicBool,
    /// Whether the service ends, so that other processes continue its stages.
    pub(super) is_ending: AtomicBool,
}

/// A process's work on a job. If it is dropped before [`Stage::leave`], the job is let go as by a
/// process that was killed: the process that ends the job exports the span. If the service ends,
/// another process continues the stage, and the span says so.
#[derive(Debug, Default)]
#[must_use]
pub struct Stage(Option<Arc<Open>>);

/// A job that this process works on.
#[derive(Debug)]
pub(super) struct Open {
    /// The span of this process's work.
    span: Span,
    pub(super) at: SpanContext,
    /// The job's own span.
    pub(super) root: SpanContext,
    inner: Mutex<(ProcessLog, Option<JobEnd>)>,
}

/// How a job's task ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct JobEnd {
    pub(super) attributes: Attributes,
    /// Why the job could not continue, if it could not: `error.type`.
    pub(super) error: Option<String>,
    pub(super) cancelled: bool,
}

/// Installs the recorder. Called once per process. `spool` is the service's file.
pub(super) fn install(
    settings: Telemetry,
    manager: &str,
    prices: Option<Prices>,
    spool: Option<PathBuf>,
) {
    let _ = RECORDER.set(Recorder {
        pipeline: Pipeline::new(&settings, manager, spool.is_some()),
        settings,
        prices,
        of_service: spool.is_some(),
        spool: Mutex::new(spool),
        exporting: Default::default(),
        job_ended: Notify::new(),
        has_ended_job: AtomicBool::new(false),
        is_ending: AtomicBool::new(false),
    });
}

/// Returns the recorder, if telemetry is on.
pub(super) fn recorder() -> Option<&'static Recorder> {
    RECORDER.get()
}

/// Whether telemetry is recorded.
#[must_use]
pub fn is_on() -> bool {
    recorder().is_some()
}

/// Returns the layers of `tracing` that record; `None` if telemetry is off.
pub(crate) fn layer<S>() -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    recorder().map(|recorder| recorder.pipeline.layer())
}

/// Returns the layer that exports the driver's own log, if it is exported.
pub(crate) fn log_export() -> Option<LogExport> {
    let recorder = recorder().filter(|recorder| recorder.settings.exports(Signal::Logs))?;
    Some(LogExport(recorder))
}

/// Returns the job that this process works on here.
pub(super) fn current() -> Option<Arc<Open>> {
    OtelContext::map_current(|context| context.get::<Weak<Open>>()?.upgrade())
}

/// Returns the job's own span, as a `traceparent`, for its snapshot.
#[must_use]
pub fn root() -> Option<String> {
    Some(traceparent(&current()?.root))
}

/// Returns the span of this process's work on the current job.
pub(crate) fn stage_span() -> Span {
    current().map_or_else(Span::none, |open| open.span.clone())
}

/// Says that the service ends: other processes continue the stages that are dropped from now on.
pub fn end_service() {
    if let Some(recorder) = recorder() {
        recorder.is_ending.store(true, Ordering::Relaxed);
    }
}

/// Begins the span of this process's work on a job. `kept` is the trace in its snapshot.
pub(super) fn enter(purpose: &Purpose, kept: Option<&str>, about: Option<&About>) -> Stage {
    Stage(recorder().and_then(|recorder| recorder.open(purpose, kept, about)))
}

impl Stage {
    /// Does work on the job: everything recorded in it belongs to the job.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let Some(Open { at, span, .. }) = self.0.as_deref() else { return work.await };
        // Lines of the driver's log name the trace. At `error`, so that logs of every level have it.
        let log = tracing::error_span!("job", trace_id = %at.trace_id(), span_id = %at.span_id());
        work.instrument(log).instrument(span.clone()).await
    }

    /// Ends the span of this process's work. If the job has ended, exports its own span, too.
    pub fn leave(self, verdict: &Verdict, cancelled: bool) {
        let (result, error) = match verdict {
            _ if cancelled => ("cancellation", None),
            Verdict::Success => ("success", None),
            Verdict::BuildFailure { code, .. } => (
                "failure",
                Some(code.map_or("refused".to_owned(), |code| format!("exit_status_{code}"))),
            ),
            Verdict::SystemFailure(_) => ("error", Some("system_failure".to_owned())),
        };
        self.close(result, error);
    }

    /// Records the job's end, which [`Stage::leave`] exports.
    pub(super) fn end(&self, end: JobEnd) {
        self.0.iter().for_each(|open| open.end(end.clone()));
    }

    /// Returns the job that this process works on.
    pub(super) fn open(&self) -> Option<&Open> {
        self.0.as_deref()
    }

    fn close(mut self, result: &str, error: Option<String>) {
        self.0.take().iter().for_each(|open| open.close(result, error.clone()));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (Some(open), Some(recorder)) = (self.0.take(), recorder()) else { return };
        let has_ended = open.inner().1.is_some();
        match recorder.is_ending.load(Ordering::Relaxed) {
            // The other process finds nothing to do.
            _ if has_ended => open.close("success", None),
            true => open.close(HANDED_OVER, None),
            false => drop(open.span.record(DISCARDED, true)),
        }
    }
}

impl Open {
    fn inner(&self) -> MutexGuard<'_, (ProcessLog, Option<JobEnd>)> {
        // A panic cannot leave this plain data inconsistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the job's end.
    pub(super) fn end(&self, end: JobEnd) {
        self.inner().1 = Some(end);
    }

    /// Records a span of a state of the job.
    pub(super) fn record_state(&self, span: SpanData) {
        record(span, new_span(&self.root), self.root.span_id());
    }

    fn close(&self, result: &str, error: Option<String>) {
        self.span.record("fargate.stage.result", result);
        if let Some(error) = &error {
            fail(&self.span, error);
        }
        // Not by dropping it: the job's own span must end after it, and at level `trace`, libraries
        // have spans of their own in it.
        self.span.context().span().end();
        let (process_log, end) = &mut *self.inner();
        let (span, result) = (self.at.span_id().to_string(), result.to_owned());
        process_log.note(Line::Ended { span, result, error });
        if let Some(end) = end {
            conclude(process_log, &self.root, end);
        }
    }
}

/// Returns the variables that scripts get.
pub(super) fn propagated_variables() -> Vec<(&'static str, String)> {
    let propagating = recorder().filter(|recorder| recorder.settings.propagate);
    let Some((recorder, open)) = propagating.zip(current()) else { return Vec::new() };
    let mut variables = vec![("TRACEPARENT", traceparent(&open.at))];
    let state = Some(open.at.trace_state().header()).filter(|state| !state.is_empty());
    variables.extend(state.map(|state| ("TRACESTATE", state)));
    let endpoint = recorder.settings.job_endpoint.clone();
    variables.extend(endpoint.map(|endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)));
    variables
}

/// Also sends the unsent data in this file. Returns whether it will be sent.
pub(crate) fn take_over(path: &Path) -> bool {
    let Some(recorder) = recorder() else { return false };
    let own = recorder.spool().get_or_insert_with(|| path.to_owned()).clone();
    own == path || spool::absorb(&own, path)
}

/// Exports the own span of a job that no process ended.
pub(crate) fn abandon(directory: &Path, job: &JobId) {
    let (directory, job, name) = (directory.to_owned(), job.to_string(), "reap".to_owned());
    let stage = enter(&Purpose { directory, job, name, ..Purpose::default() }, None, None);
    stage.end(JobEnd { error: Some("abandoned".to_owned()), ..JobEnd::default() });
    stage.close("success", None);
}

/// Builds a span that is over, from a journal or a process log. `error` is the class of its
/// failure.
pub(super) fn past(
    name: String,
    (start, end): (SystemTime, SystemTime),
    mut attributes: Attributes,
    error: Option<String>,
) -> SpanData {
    attributes.extend(error.clone().map(|error| KeyValue::new("error.type", error)));
    SpanData {
        span_context: SpanContext::NONE,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: start,
        end_time: end.max(start),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: Default::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: pipeline::scope(),
    }
}

impl Recorder {
    /// Returns the file of unsent data, once there is one.
    pub(super) fn spool(&self) -> MutexGuard<'_, Option<PathBuf>> {
        // A path is replaced as a whole, so a panic does no harm.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(
        &self,
        purpose: &Purpose,
        kept: Option<&str>,
        about: Option<&About>,
    ) -> Option<Arc<Open>> {
        let file = |ending| purpose.directory.join(format!("{}.{ending}", purpose.job));
        take_over(&file("otlp"));
        let now = SystemTime::now();
        let mut process_log = ProcessLog::read(file("trace")).or_else(|| {
            let begin = || Some(Context::begin(purpose.begins.as_ref()?, &self.settings));
            let context = kept.and_then(Context::recover).or_else(begin)?;
            Some(ProcessLog::begin(file("trace"), context, now))
        })?;
        let root = process_log.context.root()?;
        if purpose.only.as_ref().is_some_and(|only| *only != traceparent(&root)) {
            return None;
        }
        Some(Arc::new_cyclic(|open: &Weak<Open>| {
            let span = tracing::info_span!(
                target: SPANS,
                parent: None,
                "stage",
                otel.name = format!("stage {}", purpose.name),
                otel.status_description = Empty,
                fargate.stage = purpose.name,
                fargate.stage.result = Empty,
                error.type = Empty,
                discarded = Empty,
            );
            let parent = OtelContext::new().with_remote_span_context(root.clone());
            // It fails without a subscriber only, and then there is no span.
            let _ = span.set_parent(parent.with_value(open.clone()));
            for attribute in about.map(job::about).into_iter().flatten() {
                span.set_attribute(attribute.key, attribute.value);
            }
            let started = span.context().span().span_context().clone();
            let at = if started.is_valid() { started } else { new_span(&root) };
            let (id, purpose) = (at.span_id().to_string(), purpose.name.clone());
            process_log.note(Line::began(id, purpose, now));
            Open { span, at, root, inner: Mutex::new((process_log, None)) }
        }))
    }
}

fn record(span: SpanData, at: SpanContext, parent: SpanId) {
    if let Some(recorder) = recorder().filter(|_| at.is_sampled()) {
        recorder.pipeline.spans.push(SpanData { span_context: at, parent_span_id: parent, ..span });
    }
}

/// Exports the job's own span, and those of killed processes.
fn conclude(process_log: &ProcessLog, root: &SpanContext, job: &JobEnd) {
    let (start, end) = (process_log.began(), SystemTime::now());
    for (n, process) in process_log.processes.iter().enumerate() {
        let (None, Ok(id)) = (&process.ended, SpanId::from_hex(&process.span)) else { continue };
        let next = process_log.processes.get(n + 1).map_or(end, |next| next.at.min(end));
        let attributes = vec![
            KeyValue::new("fargate.stage", process.purpose.clone()),
            KeyValue::new("fargate.stage.result", "error"),
        ];
        let name = format!("stage {}", process.purpose);
        let killed = Some("process_killed".to_owned());
        record(
            past(name, (process.at, next), attributes, killed),
            with_id(root, id),
            root.span_id(),
        );
    }
    let (result, error) = outcome(process_log, job);
    metric!(
        histogram.fargate.job.duration =
            end.duration_since(start).unwrap_or_default().as_secs_f64(),
        cicd.pipeline.task.run.result = result
    );
    metric!(
        monotonic_counter.fargate.jobs = 1_u64,
        cicd.pipeline.task.run.result = result,
        error.type = error.as_deref()
    );
    let mut attributes = job.attributes.clone();
    let name = attributes.iter().find(|of| of.key.as_str() == "cicd.pipeline.task.name");
    let name = name.map(|of| of.value.as_str().into_owned()).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| "job".to_owned(), |name| format!("job {name}"));
    attributes.push(KeyValue::new("cicd.pipeline.task.run.result", result));
    let own = past(name, (start, end), attributes, error);
    record(own, root.clone(), process_log.context.parent());
    process_log.remove();
    if let Some(recorder) = recorder() {
        recorder.has_ended_job.store(true, Ordering::Relaxed);
        recorder.job_ended.notify_one();
    }
}

fn new_span(beside: &SpanContext) -> SpanContext {
    with_id(beside, RandomIdGenerator::default().new_span_id())
}

/// Returns another span of the same trace.
fn with_id(beside: &SpanContext, id: SpanId) -> SpanContext {
    let state = beside.trace_state().clone();
    SpanContext::new(beside.trace_id(), id, beside.trace_flags(), false, state)
}

/// Returns the job's result, as in the conventions (`cicd.pipeline.task.run.result`), and its
/// cause.
fn outcome(process_log: &ProcessLog, job: &JobEnd) -> (&'static str, Option<String>) {
    if job.cancelled {
        return ("cancellation", None);
    }
    if let Some(error) = &job.error {
        return (if error == "deadline" { "timeout" } else { "error" }, Some(error.clone()));
    }
    let stages = || {
        let others = ["cleanup", "reap", "stop", "archive"];
        let of_job = process_log.processes.iter().filter(move |of| !others.contains(&&*of.purpose));
        of_job.map(|of| (of.purpose.strip_prefix("run ").unwrap_or(&of.purpose), &of.ended))
    };
    let failed = |ended: &&Option<(String, Option<String>)>| {
        ended.as_ref().is_some_and(|(result, _)| result != "success" && result != HANDED_OVER)
    };
    if let Some((_, Some((result, error)))) = stage::decisive(stages(), failed) {
        return match result.as_str() {
            "failure" => ("failure", error.clone()),
            "cancellation" => ("cancellation", None),
            _ => ("error", error.clone()),
        };
    }
    // Other processes followed a killed one, or the job would not have ended like this.
    match stages().rfind(|(stage, _)| stage::is_judged(stage)) {
        Some((_, None)) => ("error", Some("process_killed".to_owned())),
        _ => ("success", None),
    }
}
