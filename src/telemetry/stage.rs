//! A process's work on a job: a span of the job's trace, and the job's own span if the job ends.
//!
//! Whatever runs in [`Stage::run`] belongs to the job: OpenTelemetry's context, which follows the
//! span, says which one it is. So a process can work on many jobs at once.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use opentelemetry::{
    Context as OtelContext, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents};
use states::{
    About, JobId, Timestamp, private_file,
    trace::{DISCARDED, SPANS, fail},
};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    context, job, metric,
    process_log::{self, Record},
    recorder::{Recorder, recorder, scope},
    spool,
};
use crate::runner::{Identity, StageEnvironment, Verdict, stage, with_variables};

/// The result of a stage that another process continues.
const HANDED_OVER: &str = "handed_over";

/// Attributes of OpenTelemetry's SDK.
pub(super) type Attributes = Vec<KeyValue>;

/// A process's work on a job. If it is dropped before [`Stage::leave`], the job is let go as by a
/// process that was killed: the process that ends the job exports the span. If the service ends,
/// another process continues the stage, and the span says so.
#[derive(Debug, Default)]
#[must_use]
pub struct Stage(pub(super) Option<Arc<Open>>);

/// A job that this process works on.
#[derive(Debug)]
pub(super) struct Open {
    /// The span of this process's work.
    span: Span,
    pub(super) at: SpanContext,
    record: Record,
    /// The job's own span.
    pub(super) root: SpanContext,
    pub(super) job: Record,
    process_log: PathBuf,
    end: Mutex<Option<JobEnd>>,
}

/// How a job ended.
#[derive(Debug, Default)]
pub(super) struct JobEnd {
    pub(super) name: String,
    pub(super) attributes: Attributes,
    /// `None`: its stages say it.
    pub(super) result: Option<Ended>,
}

/// Result and `error.type` of a stage or a job. A job's result is one of the conventions'
/// (`cicd.pipeline.task.run.result`).
pub(super) type Ended = (String, Option<String>);

/// Returns the job that this process works on here.
pub(super) fn current() -> Option<Arc<Open>> {
    OtelContext::map_current(|context| context.get::<Weak<Open>>()?.upgrade())
}

/// Returns the job's own span, as a `traceparent`, for its snapshot.
#[must_use]
pub fn root() -> Option<String> {
    Some(current()?.job.traceparent.clone())
}

/// Returns the span of this process's work on the current job.
pub(super) fn stage_span() -> Span {
    current().map_or_else(Span::none, |open| open.span.clone())
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
    let begin = |recorder: &Recorder| {
        if let Some(root) = kept().and_then(|kept| context::parse(&kept, "")) {
            return Some((root, SpanId::INVALID));
        }
        let [parent, state] = ["TRACEPARENT", "TRACESTATE"].map(|of| environment.job_variable(of));
        matches!(stage, "config" | "prepare").then(|| {
            let settings = &recorder.settings;
            context::begin(identity.trace_id, parent.as_deref(), state.as_deref(), settings)
        })
    };
    Stage(open(directory, &identity.id, stage, Some(&identity.about), None, begin))
}

/// Begins the span of a process's work on a job. `begin` returns the job's own span, and its
/// parent's id, if no process has recorded them. With `only`, only a job with this own span is
/// entered: the next attempt may have begun.
pub(super) fn open(
    directory: &Path,
    id: &JobId,
    purpose: &str,
    about: Option<&About>,
    only: Option<&str>,
    begin: impl FnOnce(&Recorder) -> Option<(SpanContext, SpanId)>,
) -> Option<Arc<Open>> {
    let (recorder, file) = (recorder()?, |of| directory.join(format!("{id}.{of}")));
    take_over(&file("otlp"));
    let process_log = file("trace");
    let job = process_log::read(&process_log).into_iter().next().or_else(|| {
        let (root, parent) = begin(recorder)?;
        // The states' times are no more precise, and the first must not begin before the job.
        let job = Record::new(&root, parent, "", Timestamp::now().into());
        job.append(&process_log);
        Some(job)
    })?;
    let root = job.context()?;
    if only.is_some_and(|only| only != job.traceparent) {
        return None;
    }
    Some(Arc::new_cyclic(|open: &Weak<Open>| {
        let span = tracing::info_span!(
            target: SPANS,
            parent: None,
            "stage",
            otel.name = format!("stage {purpose}"),
            otel.status_description = Empty,
            fargate.stage = purpose,
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
        let at = span.context().span().span_context().clone();
        let record = Record::new(&at, root.span_id(), purpose, SystemTime::now());
        record.append(&process_log);
        Open { span, at, record, root, job, process_log, end: Mutex::default() }
    }))
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
    pub fn leave(mut self, verdict: &Verdict, cancelled: bool) {
        let Some(open) = self.0.take() else { return };
        let (result, error) = match verdict {
            _ if cancelled => ("cancellation", None),
            Verdict::Success => ("success", None),
            Verdict::BuildFailure { code: None, .. } => ("failure", Some("refused".to_owned())),
            Verdict::BuildFailure { code: Some(code), .. } => {
                ("failure", Some(format!("exit_status_{code}")))
            }
            Verdict::SystemFailure(_) => ("error", Some("system_failure".to_owned())),
        };
        open.close(result, error);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (Some(open), Some(recorder)) = (self.0.take(), recorder()) else { return };
        let has_ended = open.end().is_some();
        match recorder.is_ending.load(Ordering::Relaxed) {
            // The other process finds nothing to do.
            _ if has_ended => open.close("success", None),
            true => open.close(HANDED_OVER, None),
            false => drop(open.span.record(DISCARDED, true)),
        }
    }
}

impl Open {
    /// Returns how the job ended, if it has: [`Stage::leave`] exports it.
    pub(super) fn end(&self) -> MutexGuard<'_, Option<JobEnd>> {
        // It is replaced as a whole, so a panic does no harm.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, result: &str, error: Option<String>) {
        self.span.record("fargate.stage.result", result);
        if let Some(error) = &error {
            fail(&self.span, error);
        }
        // Not by dropping it: the job's own span must end after it, and at level `trace`, libraries
        // have spans of their own in it.
        self.span.context().span().end();
        let mut record = self.record.clone();
        record.ended = Some((result.to_owned(), error));
        record.append(&self.process_log);
        if let Some(end) = self.end().take() {
            self.conclude(end);
        }
    }

    /// Exports the job's own span, and those of killed processes.
    fn conclude(&self, end: JobEnd) {
        let (began, now, parent) = (self.job.began, SystemTime::now(), self.root.span_id());
        let records = process_log::read(&self.process_log);
        let mut processes: Vec<Record> = records.into_iter().skip(1).collect();
        for n in 0..processes.len() {
            let next = processes.get(n + 1).map_or(now, |next| next.began.min(now));
            let process = &mut processes[n];
            let (None, Some(at)) = (&process.ended, process.context()) else { continue };
            let attributes = vec![
                KeyValue::new("fargate.stage", process.purpose.clone()),
                KeyValue::new("fargate.stage.result", "error"),
            ];
            let (name, killed) =
                (format!("stage {}", process.purpose), "process_killed".to_owned());
            process.ended = Some(("error".to_owned(), Some(killed.clone())));
            record(at, parent, name, (process.began, next), attributes, Some(killed));
        }
        let (result, error) = end.result.unwrap_or_else(|| result_of(processes));
        let lasted = now.duration_since(began).unwrap_or_default().as_secs_f64();
        let (of, cause) = (result.as_str(), error.as_deref());
        metric!(histogram.fargate.job.duration = lasted, cicd.pipeline.task.run.result = of);
        metric!(
            monotonic_counter.fargate.jobs = 1_u64,
            cicd.pipeline.task.run.result = of,
            error.type = cause
        );
        let mut attributes = end.attributes;
        attributes.push(KeyValue::new("cicd.pipeline.task.run.result", result));
        let name = format!("job {}", end.name).trim_end().to_owned();
        record(self.root.clone(), self.job.parent(), name, (began, now), attributes, error);
        if let Err(e) = private_file::remove(&self.process_log) {
            tracing::warn!("{} cannot be removed: {e}", self.process_log.display());
        }
        if let Some(recorder) = recorder() {
            recorder.has_ended_job.store(true, Ordering::Relaxed);
            recorder.job_ended.notify_one();
        }
    }
}

/// Returns the result of a job that ended as it should: that of its stages.
fn result_of(processes: Vec<Record>) -> Ended {
    let others = ["reap", "stop", "archive"];
    let stages = processes.iter().filter(|process| !others.contains(&&*process.purpose));
    let stages = stages.filter_map(|of| {
        Some((of.purpose.strip_prefix("run ").unwrap_or(&of.purpose), of.ended.clone()?))
    });
    let failed = |(result, _): &Ended| result != "success" && result != HANDED_OVER;
    stage::decisive(stages, failed).map_or(("success".to_owned(), None), |(_, ended)| ended)
}

/// Adds the variables to a script that make it a part of the trace, if configured, so that build
/// tools can join.
#[must_use]
pub fn propagated(script: Bytes) -> Bytes {
    let propagating = recorder().filter(|recorder| recorder.settings.propagate);
    let Some((recorder, open)) = propagating.zip(current()) else { return script };
    let mut variables = vec![("TRACEPARENT", open.record.traceparent.clone())];
    let state = Some(open.at.trace_state().header()).filter(|state| !state.is_empty());
    variables.extend(state.map(|state| ("TRACESTATE", state)));
    let endpoint = recorder.settings.job_endpoint.clone();
    variables.extend(endpoint.map(|endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)));
    with_variables(script, &variables)
}

/// Also sends the unsent data in this file. Returns whether it will be sent.
pub fn take_over(path: &Path) -> bool {
    let Some(recorder) = recorder() else { return false };
    let own = recorder.spool().get_or_insert_with(|| path.to_owned()).clone();
    own == path || spool::absorb(&own, path)
}

/// Exports the own span of a job that no process ended.
pub fn abandon(directory: &Path, job: &JobId) {
    if let Some(open) = open(directory, job, "reap", None, None, |_| None) {
        let result = Some(("error".to_owned(), Some("abandoned".to_owned())));
        *open.end() = Some(JobEnd { result, ..JobEnd::default() });
        open.close("success", None);
    }
}

/// Records a span that is over, from a journal or a process log. `error` is the class of its
/// failure.
pub(super) fn record(
    at: SpanContext,
    parent: SpanId,
    name: String,
    (start, end): (SystemTime, SystemTime),
    mut attributes: Attributes,
    error: Option<String>,
) {
    let Some(recorder) = recorder().filter(|_| at.is_sampled()) else { return };
    attributes.extend(error.clone().map(|error| KeyValue::new("error.type", error)));
    recorder.spans.push(SpanData {
        span_context: at,
        parent_span_id: parent,
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
        instrumentation_scope: scope(),
    });
}
