//! This process's work on jobs: the span of each, and the trace of a job that ends. OpenTelemetry's
//! SDK collects the rest.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use diagnosis::costs::Prices;
use opentelemetry::{
    Context as OtelContext, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents};
use states::{About, JobId};
use tokio::sync::Notify;
use tracing::{Span, Subscriber, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, registry::LookupSpan};

use super::{
    Purpose, SPANS,
    context::{Context, traceparent},
    fail, job, metric,
    pipeline::{self, Capacity, LET_GO, Pipeline},
    process_log::{self, ProcessLog},
    settings::Settings,
    spool,
};
use crate::runner::{Verdict, stage};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

tokio::task_local! {
    /// The scope of the current job, among those that this process works on at once.
    static SCOPE: u64;
}

/// Runs `work` in a scope of its own: everything recorded in it belongs to its job, not to others
/// of this process.
pub async fn in_own_scope<F: Future>(work: F) -> F::Output {
    Scope::begin().run(work).await
}

/// A scope of work on one job. When it is dropped before [`leave`], the job is let go as by a
/// process that was killed: the process that ends the job exports the stage's span.
#[derive(Debug)]
pub struct Scope(u64);

impl Scope {
    /// Returns a scope that no other work has.
    #[must_use]
    pub fn begin() -> Self {
        static SCOPES: AtomicU64 = AtomicU64::new(1);
        Self(SCOPES.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs work in the scope.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        SCOPE.scope(self.0, work).await
    }

    /// Lets go of the job, if [`leave`] was not reached.
    pub fn let_go(self) {}

    /// Ends the stage's span, as another process continues the stage.
    pub fn hand_over(self) {
        if let Some(open) = recorder().and_then(|recorder| recorder.close(self.0)) {
            // If the job has ended, the other process finds nothing to do.
            let result = if open.end.is_some() { "success" } else { HANDED_OVER };
            open.leave(result, None);
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        match recorder().and_then(|recorder| recorder.close(self.0)) {
            None => {}
            Some(open) if open.end.is_some() => open.leave("success", None),
            Some(open) => {
                open.span.record("fargate.stage.result", LET_GO);
            }
        }
    }
}

/// The result of a stage that another process continues.
const HANDED_OVER: &str = "handed_over";

/// Attributes of OpenTelemetry's SDK.
pub(super) type Attributes = Vec<KeyValue>;

/// Collects what one process exports.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) settings: Settings,
    pub(super) pipeline: Pipeline,
    /// For what jobs cost; `None` if they cannot be read.
    pub(super) prices: Option<Prices>,
    inner: Mutex<Inner>,
    /// The positions of `inner.open`, for lines of the log. Nothing is logged while it is locked.
    positions: Mutex<BTreeMap<u64, SpanContext>>,
    /// The service's spool file. In the service, it takes the place of `inner.spools`.
    service_spool: OnceLock<Mutex<PathBuf>>,
    /// Notified when a job has ended, so that the service exports its trace soon.
    pub(super) job_ended: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The jobs that are worked on, by their scopes.
    open: BTreeMap<u64, Open>,
    /// Spool files of unsent data. The first one is kept, and the others are merged into it.
    spools: Vec<PathBuf>,
    /// Whether a job ended here, so that no other process of it follows.
    over: bool,
}

/// A job that this process works on.
#[derive(Debug)]
struct Open {
    process_log: ProcessLog,
    /// The span of this process's work.
    span: Span,
    at: SpanContext,
    end: Option<JobEnd>,
}

/// How a job's task ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct JobEnd {
    pub(super) attributes: Attributes,
    /// Why the job could not continue, if it could not: `error.type`.
    pub(super) error: Option<String>,
    pub(super) cancelled: bool,
}

/// Installs the recorder. Called once per process.
pub(super) fn install(settings: Settings, manager: &str, prices: Option<Prices>, of_service: bool) {
    let capacity = if of_service { Capacity::Service } else { Capacity::Process };
    let _ = RECORDER.set(Recorder {
        pipeline: Pipeline::new(&settings, manager, capacity),
        settings,
        prices,
        inner: Mutex::default(),
        positions: Mutex::default(),
        service_spool: OnceLock::new(),
        job_ended: Notify::new(),
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

/// Begins the span of this process's work on a job. `kept` is the trace in its snapshot.
pub(super) fn enter(purpose: &Purpose, kept: Option<&str>, about: Option<&About>) {
    let Some(recorder) = recorder() else { return };
    take_over(&purpose.directory.join(format!("{}.otlp", purpose.job)));
    let path = process_log::path(&purpose.directory, &purpose.job);
    let now = SystemTime::now();
    let process_log = ProcessLog::read(path.clone()).or_else(|| {
        let context = kept.and_then(Context::recover).or_else(|| {
            purpose.begins.as_ref().map(|job| Context::begin(job, &recorder.settings))
        })?;
        Some(ProcessLog::begin(path, context, now))
    });
    let is_wanted = |process_log: &ProcessLog| {
        purpose.only.as_deref().is_none_or(|only| only == process_log.context.root_text())
    };
    let Some(mut process_log) = process_log.filter(is_wanted) else { return };
    let Some(root) = process_log.context.root() else { return };
    let span = tracing::info_span!(
        target: SPANS,
        parent: None,
        "stage",
        otel.name = format!("stage {}", purpose.name),
        otel.status_description = Empty,
        fargate.stage = purpose.name,
        fargate.stage.result = Empty,
        error.type = Empty,
    );
    // It fails without a subscriber only, and then there is no span.
    let _ = span.set_parent(OtelContext::new().with_remote_span_context(root.clone()));
    for attribute in about.map(job::about).into_iter().flatten() {
        span.set_attribute(attribute.key, attribute.value);
    }
    let started = span.context().span().span_context().clone();
    let at = if started.is_valid() { started } else { new_span(&root) };
    process_log.note_begin(&at.span_id().to_string(), &purpose.name, now);
    recorder.positions().insert(scope(), at.clone());
    recorder.inner().open.insert(scope(), Open { process_log, span, at, end: None });
}

/// Ends the span of this process's work on the job. If the job has ended, exports its own span.
pub fn leave(verdict: &Verdict, cancelled: bool) {
    let Some(open) = recorder().and_then(|recorder| recorder.close(scope())) else { return };
    let (result, error) = judged(verdict, cancelled);
    open.leave(result, error.as_deref());
}

impl Open {
    /// Ends the span of this process's work. If the job has ended, exports its own span.
    fn leave(mut self, result: &str, error: Option<&str>) {
        self.process_log.note_end(&self.at.span_id().to_string(), result, error);
        self.span.record("fargate.stage.result", result);
        if let Some(error) = error {
            fail(&self.span, error);
        }
        // Not by dropping it: the job's own span must end after it, and at level `trace`, libraries
        // have spans of their own in it.
        self.span.context().span().end();
        if let (Some(recorder), Some(end), Some(root)) =
            (recorder(), &self.end, self.process_log.context.root())
        {
            recorder.conclude(&self.process_log, &root, end);
        }
    }
}

/// Returns the job's own span, as a `traceparent`, for its snapshot.
#[must_use]
pub fn root() -> Option<String> {
    recorder()?.in_open(|open| open.process_log.context.root_text().to_owned())
}

/// Returns the span of this process's work on the current job: the parent of all that is recorded.
#[must_use]
pub fn stage_span() -> Span {
    recorder()
        .and_then(|recorder| recorder.in_open(|open| open.span.clone()))
        .unwrap_or_else(Span::none)
}

/// Returns the position of this process's span.
pub(super) fn stage() -> Option<SpanContext> {
    recorder()?.positions().get(&scope()).cloned()
}

/// Returns the span for lines of the driver's log, so that they name the trace.
#[must_use]
pub fn log_span() -> Span {
    let Some(at) = stage() else { return Span::none() };
    // At `error`, so that logs of every level have it.
    tracing::error_span!("job", trace_id = %at.trace_id(), span_id = %at.span_id())
}

/// Records a span of a state of the current job.
pub(super) fn record_state(span: SpanData) {
    let Some(recorder) = recorder() else { return };
    if let Some(root) = recorder.in_open(|open| open.process_log.context.root()).flatten() {
        recorder.record(span, new_span(&root), root.span_id());
    }
}

/// Records the job's end, which [`leave`] exports.
pub(super) fn end(end: JobEnd) {
    recorder().and_then(|recorder| recorder.in_open(|open| open.end = Some(end)));
}

/// Returns the variables that scripts get, if they get any.
pub(super) fn propagated_variables() -> Option<Vec<(&'static str, String)>> {
    let settings = &recorder().filter(|recorder| recorder.settings.propagate)?.settings;
    let at = stage()?;
    let (parent, state) = (traceparent(&at), at.trace_state().header());
    let variables = [
        ("TRACEPARENT", Some(parent)),
        ("TRACESTATE", (!state.is_empty()).then_some(state)),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", settings.job_endpoint.clone()),
    ];
    Some(variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Also sends the unsent data in this file. Returns whether it will be sent.
pub(super) fn take_over(spool: &Path) -> bool {
    let Some(recorder) = recorder() else { return false };
    if let Some(own) = recorder.service_spool() {
        return *own == spool || spool::absorb(&own, spool);
    }
    let spools = &mut recorder.inner().spools;
    if !spools.iter().any(|of| of == spool) {
        spools.push(spool.to_owned());
    }
    true
}

/// Exports the own span of a job that no process ended.
pub(super) fn abandon(directory: &Path, job: &JobId) {
    let purpose = Purpose {
        directory: directory.to_owned(),
        job: job.to_string(),
        name: "reap".to_owned(),
        begins: None,
        only: None,
    };
    enter(&purpose, None, None);
    end(JobEnd { error: Some("abandoned".to_owned()), ..JobEnd::default() });
    leave(&Verdict::Success, false);
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
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave these lists of plain data inconsistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn positions(&self) -> MutexGuard<'_, BTreeMap<u64, SpanContext>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work on a scope's job.
    fn close(&self, scope: u64) -> Option<Open> {
        let mut inner = self.inner();
        let open = inner.open.remove(&scope)?;
        inner.over |= open.end.is_some();
        drop(inner);
        self.positions().remove(&scope);
        Some(open)
    }

    /// Keeps unsent data in this file from now on, as this process is the service.
    pub(super) fn keep_in(&self, spool: PathBuf) {
        let _ = self.service_spool.set(Mutex::new(spool));
    }

    /// Locks the service's spool file, and returns its path.
    pub(super) fn service_spool(&self) -> Option<MutexGuard<'_, PathBuf>> {
        let spool = self.service_spool.get()?;
        Some(spool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something with the current job.
    fn in_open<T>(&self, work: impl FnOnce(&mut Open) -> T) -> Option<T> {
        self.inner().open.get_mut(&scope()).map(work)
    }

    /// Takes the spool files, and returns whether a job ended here.
    pub(super) fn take_spools(&self) -> (Vec<PathBuf>, bool) {
        let mut inner = self.inner();
        (std::mem::take(&mut inner.spools), inner.over)
    }

    fn record(&self, span: SpanData, at: SpanContext, parent: SpanId) {
        if at.is_sampled() {
            self.pipeline.push(SpanData { span_context: at, parent_span_id: parent, ..span });
        }
    }

    /// Exports the job's own span, and those of killed processes.
    fn conclude(&self, process_log: &ProcessLog, root: &SpanContext, job: &JobEnd) {
        let (start, end) = (process_log.began(), SystemTime::now());
        for (n, process) in process_log.processes.iter().enumerate() {
            let (None, Ok(id)) = (&process.ended, SpanId::from_hex(&process.span)) else {
                continue;
            };
            let next = process_log.processes.get(n + 1).map_or(end, |next| next.at()).min(end);
            let attributes = vec![
                KeyValue::new("fargate.stage", process.purpose.clone()),
                KeyValue::new("fargate.stage.result", "error"),
            ];
            let (name, killed) =
                (format!("stage {}", process.purpose), "process_killed".to_owned());
            let span = past(name, (process.at(), next), attributes, Some(killed));
            self.record(span, with_id(root, id), root.span_id());
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
        let name = name.map_or_else(String::new, |name| name.value.to_string());
        let name = if name.is_empty() { "job".to_owned() } else { format!("job {name}") };
        attributes.push(KeyValue::new("cicd.pipeline.task.run.result", result));
        let span = past(name, (start, end), attributes, error);
        self.record(span, root.clone(), process_log.context.parent());
        process_log.remove();
        self.job_ended.notify_one();
    }
}

/// Returns the scope of the current job; without [`in_own_scope`] there is only one.
fn scope() -> u64 {
    SCOPE.try_with(|scope| *scope).unwrap_or(0)
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
    let of_job = || {
        process_log.processes.iter().filter(|process| {
            !matches!(process.purpose.as_str(), "cleanup" | "reap" | "stop" | "archive")
        })
    };
    let stages = || {
        of_job().map(|process| {
            (process.purpose.strip_prefix("run ").unwrap_or(&process.purpose), &process.ended)
        })
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

fn judged(verdict: &Verdict, cancelled: bool) -> (&'static str, Option<String>) {
    match verdict {
        _ if cancelled => ("cancellation", None),
        Verdict::Success => ("success", None),
        Verdict::BuildFailure { code: Some(code), .. } => {
            ("failure", Some(format!("exit_status_{code}")))
        }
        Verdict::BuildFailure { code: None, .. } => ("failure", Some("refused".to_owned())),
        Verdict::SystemFailure(_) => ("error", Some("system_failure".to_owned())),
    }
}
