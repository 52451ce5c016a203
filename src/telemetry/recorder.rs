//! Collects a process's telemetry until it ends. Before that, nothing is sent or waited for.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    context::{self, Context, Traceparent},
    metrics::Metrics,
    process_log::{self, ProcessLog},
    settings::{Settings, Signal},
    span::{self, Attributes, Event, Kind, LogLine, Span, Value},
};
use crate::runner::{Verdict, stage};

/// Most events of one process; more are only counted. A container that does not answer is probed
/// for minutes.
const MOST_EVENTS: usize = 128;
/// Most spans of one process.
const MOST_SPANS: usize = 512;
/// Most log lines of one process.
const MOST_LINES: usize = 512;

static RECORDER: OnceLock<Recorder> = OnceLock::new();

tokio::task_local! {
    /// The scope of the current job, among those that this process works on at once.
    static SCOPE: u64;
}

/// Runs `work` in a scope of its own: everything recorded in it belongs to its job, not to others
/// of this process.
pub async fn in_own_scope<F: Future>(work: F) -> F::Output {
    static SCOPES: AtomicU64 = AtomicU64::new(1);
    if recorder().is_none() {
        return work.await;
    }
    SCOPE.scope(SCOPES.fetch_add(1, Ordering::Relaxed), work).await
}

/// Collects what one process exports.
#[derive(Debug)]
pub struct Recorder {
    pub(super) settings: Settings,
    /// The runner manager's name.
    pub(super) manager: String,
    began: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The jobs that are worked on, by their scopes.
    open: BTreeMap<u64, Open>,
    /// Whether a job was entered before.
    used: bool,
    recorded: Recorded,
}

/// A job that this process works on.
#[derive(Debug)]
struct Open {
    process_log: ProcessLog,
    stage: [u8; 8],
    name: String,
    start: u64,
    attributes: Attributes,
    events: Vec<Event>,
    omitted: u32,
    end: Option<JobEnd>,
}

/// How a job's task ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct JobEnd {
    pub(super) attributes: Attributes,
    /// Why the job could not continue, if it could not: `error.type`.
    pub(super) error: Option<String>,
    pub(super) cancelled: bool,
}

/// The data to be exported.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Finished spans.
    pub spans: Vec<Span>,
    /// Counters and histograms.
    pub metrics: Metrics,
    /// Lines of the log.
    pub lines: Vec<LogLine>,
    /// Spool files of unsent data. The first one is kept, and the others are merged into it.
    pub spools: Vec<PathBuf>,
    /// Whether a job ended here, so that no other process of it follows.
    pub over: bool,
}

impl Recorded {
    fn take_over(&mut self, spool: PathBuf) {
        if !self.spools.contains(&spool) {
            self.spools.push(spool);
        }
    }
}

/// A job and the purpose of the process.
#[derive(Debug, Clone)]
pub struct Purpose {
    /// The metadata directory.
    pub directory: PathBuf,
    /// The job's id.
    pub job: String,
    /// The name of its span: `prepare`, `run build_script`, `reap`.
    pub name: String,
    /// Whether a job may begin with it.
    pub may_begin: bool,
    /// If set, only a job with this own span is entered: the next attempt may have begun.
    pub only: Option<String>,
}

/// Installs the recorder. Called once per process.
pub(super) fn install(settings: Settings, manager: String) {
    let _ =
        RECORDER.set(Recorder { settings, manager, began: span::now(), inner: Mutex::default() });
}

/// Returns the recorder, if telemetry is on.
#[must_use]
pub fn recorder() -> Option<&'static Recorder> {
    RECORDER.get()
}

impl Recorder {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave these lists of plain data inconsistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when this process began, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn began(&self) -> u64 {
        self.began
    }

    /// Begins the span of this process's work on a job. `kept` is the trace in its snapshot,
    /// `incoming` that of the pipeline's variables.
    pub fn enter(
        &self,
        purpose: &Purpose,
        kept: Option<&str>,
        incoming: (Option<&str>, Option<&str>),
        attributes: Attributes,
    ) {
        let mut inner = self.inner();
        inner.recorded.take_over(purpose.directory.join(format!("{}.otlp", purpose.job)));
        let path = process_log::path(&purpose.directory, &purpose.job);
        let start = if inner.used { span::now() } else { self.began };
        let process_log = ProcessLog::read(path.clone()).or_else(|| {
            let context = kept.and_then(Context::recover).or_else(|| {
                purpose.may_begin.then(|| {
                    Context::begin(&purpose.job, incoming.0, incoming.1, &self.settings.sampler)
                })
            })?;
            Some(ProcessLog::begin(path, context, start))
        });
        let wanted = |process_log: &ProcessLog| {
            purpose.only.as_deref().is_none_or(|only| only == process_log.context.root_text())
        };
        let Some(mut process_log) = process_log.filter(wanted) else { return };
        let stage = context::new_id();
        process_log.note_begin(&hex::encode(stage), &purpose.name, start);
        let name = purpose.name.clone();
        inner.used = true;
        inner.open.insert(
            scope(),
            Open {
                process_log,
                stage,
                name,
                start,
                attributes,
                events: Vec::new(),
                omitted: 0,
                end: None,
            },
        );
    }

    /// Also sends the content of this spool file.
    pub(super) fn take_over(&self, spool: PathBuf) {
        self.inner().recorded.take_over(spool);
    }

    /// Returns the job's own span, as a `traceparent`, for its snapshot.
    #[must_use]
    pub fn root(&self) -> Option<String> {
        self.inner().here().map(|open| open.process_log.context.root_text().to_owned())
    }

    /// Returns this process's span, and `tracestate`, for log lines and scripts.
    #[must_use]
    pub fn stage(&self) -> Option<(Traceparent, String)> {
        let inner = self.inner();
        let open = inner.here()?;
        let root = open.process_log.context.root()?;
        Some((
            Traceparent { span: open.stage, ..root },
            open.process_log.context.state().to_owned(),
        ))
    }

    /// Records a finished call to another service.
    pub fn called(&self, name: String, start: u64, attributes: Attributes, error: Option<String>) {
        let mut inner = self.inner();
        let parent = inner.here().map(|open| open.stage);
        inner.push(name, Kind::Client, parent, (start, span::now()), attributes, error);
    }

    /// Records an event.
    pub fn event(&self, name: &'static str, attributes: Attributes) {
        let mut inner = self.inner();
        let Some(open) = inner.open.get_mut(&scope()) else { return };
        if open.events.len() < MOST_EVENTS {
            open.events.push(Event { name, at: span::now(), attributes });
        } else {
            open.omitted += 1;
        }
    }

    /// Adds to a counter.
    pub fn count(&self, name: &'static str, attributes: Attributes, more: u64) {
        self.inner().recorded.metrics.count(name, attributes, more);
    }

    /// Records a duration, in seconds.
    pub fn measure(&self, name: &'static str, attributes: Attributes, seconds: f64) {
        self.inner().recorded.metrics.measure(name, attributes, seconds);
    }

    /// Records a line of the log.
    pub(super) fn line(&self, mut line: LogLine) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        if inner.recorded.lines.len() < MOST_LINES {
            line.span = inner.here().and_then(|open| {
                Some(Traceparent { span: open.stage, ..open.process_log.context.root()? })
            });
            inner.recorded.lines.push(line);
        }
    }

    /// Records a span from the job's journal.
    pub(super) fn state(
        &self,
        name: String,
        times: (u64, u64),
        attributes: Attributes,
        error: Option<String>,
    ) {
        let mut inner = self.inner();
        let parent =
            inner.here().and_then(|open| open.process_log.context.root()).map(|root| root.span);
        inner.push(name, Kind::Internal, parent, times, attributes, error);
    }

    /// Records the job's end, which [`Recorder::leave`] exports.
    pub(super) fn end(&self, end: JobEnd) {
        if let Some(open) = self.inner().open.get_mut(&scope()) {
            open.end = Some(end);
        }
    }

    /// Ends the span of this process's work on the job.
    pub fn leave(&self, verdict: &Verdict, cancelled: bool) {
        let mut inner = self.inner();
        let Some(mut open) = inner.open.remove(&scope()) else { return };
        inner.recorded.over |= open.end.is_some();
        let (result, error) = judged(verdict, cancelled);
        open.process_log.note_end(&hex::encode(open.stage), result, error.as_deref());
        let Some(root) = open.process_log.context.root() else { return };
        let end = span::now();
        let stage = Span {
            trace: root.trace,
            id: open.stage,
            parent: Some(root.span),
            state: open.process_log.context.state().to_owned(),
            name: format!("stage {}", open.name),
            kind: Kind::Internal,
            start: open.start,
            end,
            attributes: std::mem::take(&mut open.attributes)
                .into_iter()
                .chain([
                    ("fargate.stage", open.name.clone().into()),
                    ("fargate.stage.result", result.into()),
                ])
                .collect(),
            events: std::mem::take(&mut open.events),
            omitted: open.omitted,
            error,
        };
        if root.sampled {
            inner.recorded.spans.push(stage);
        }
        if let Some(job) = open.end.take() {
            inner.conclude(&open.process_log, root, &job, end);
        }
    }

    /// Takes the data to be exported.
    pub(super) fn take(&self) -> Recorded {
        std::mem::take(&mut self.inner().recorded)
    }

    /// Whether this signal is exported.
    #[must_use]
    pub fn exports(&self, signal: Signal) -> bool {
        self.settings.exports(signal)
    }
}

/// Returns the scope of the current job; without [`in_own_scope`] there is only one.
fn scope() -> u64 {
    SCOPE.try_with(|scope| *scope).unwrap_or(0)
}

impl Inner {
    fn here(&self) -> Option<&Open> {
        self.open.get(&scope())
    }

    fn push(
        &mut self,
        name: String,
        kind: Kind,
        parent: Option<[u8; 8]>,
        (start, end): (u64, u64),
        attributes: Attributes,
        error: Option<String>,
    ) {
        let (Some(open), Some(parent)) = (self.here(), parent) else { return };
        let Some(root) = open.process_log.context.root().filter(|root| root.sampled) else {
            return;
        };
        if self.recorded.spans.len() >= MOST_SPANS {
            return;
        }
        let state = open.process_log.context.state().to_owned();
        let id = context::new_id();
        let end = end.max(start);
        let span = Span {
            trace: root.trace,
            id,
            parent: Some(parent),
            state,
            name,
            kind,
            start,
            end,
            attributes,
            events: Vec::new(),
            omitted: 0,
            error,
        };
        self.recorded.spans.push(span);
    }

    /// Returns the job's own span, and those of killed processes.
    fn conclude(&mut self, process_log: &ProcessLog, root: Traceparent, job: &JobEnd, end: u64) {
        let state = process_log.context.state().to_owned();
        for (n, process) in process_log.processes.iter().enumerate() {
            let (None, Some(id)) = (&process.ended, context::parse_id(&process.span)) else {
                continue;
            };
            let next = process_log.processes.get(n + 1).map_or(end, |next| next.at);
            if !root.sampled {
                continue;
            }
            self.recorded.spans.push(Span {
                trace: root.trace,
                id,
                parent: Some(root.span),
                state: state.clone(),
                name: format!("stage {}", process.purpose),
                kind: Kind::Internal,
                start: process.at,
                end: next.clamp(process.at, end.max(process.at)),
                attributes: vec![
                    ("fargate.stage", process.purpose.clone().into()),
                    ("fargate.stage.result", "error".into()),
                ],
                events: Vec::new(),
                omitted: 0,
                error: Some("process_killed".to_owned()),
            });
        }
        let (result, error) = outcome(process_log, job);
        let seconds = end.saturating_sub(process_log.began) as f64 / 1e9;
        let about: Attributes = vec![("cicd.pipeline.task.run.result", result.into())];
        let caused: Attributes = error
            .iter()
            .map(|error| ("error.type", error.clone().into()))
            .chain(about.clone())
            .collect();
        self.recorded.metrics.measure("fargate.job.duration", about.clone(), seconds);
        self.recorded.metrics.count("fargate.jobs", caused, 1);
        if root.sampled {
            let name = job
                .attributes
                .iter()
                .find(|(key, _)| *key == "cicd.pipeline.task.name")
                .map(|(_, name)| name.clone());
            let name = match name {
                Some(Value::Text(name)) if !name.is_empty() => format!("job {name}"),
                _ => "job".to_owned(),
            };
            self.recorded.spans.push(Span {
                trace: root.trace,
                id: root.span,
                parent: process_log.context.parent(),
                state,
                name,
                kind: Kind::Internal,
                // States have a resolution of a millisecond: the job must not begin after the first
                // of them.
                start: process_log.began / 1_000_000 * 1_000_000,
                end,
                attributes: job.attributes.iter().cloned().chain(about).collect(),
                events: Vec::new(),
                omitted: 0,
                error,
            });
        }
        process_log.remove();
    }
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
        ended.as_ref().is_some_and(|(result, _)| result != "success")
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
