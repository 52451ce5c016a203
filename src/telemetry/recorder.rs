//! OpenTelemetry's SDK, collecting into memory, and the layers that bridge `tracing` to it.
//!
//! The SDK's batch processors and its periodic reader start a thread each, and export when they
//! like. They know neither the time that a stage has, nor the files of jobs.

use std::{
    fmt, iter,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use diagnosis::costs::Prices;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    logs::{LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider},
    metrics::{
        InstrumentKind, ManualReader, Pipeline as MetricPipeline, SdkMeterProvider, Temporality,
        data::ResourceMetrics, reader::MetricReader,
    },
    resource::TelemetryResourceDetector,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use states::trace::{DISCARDED, SPANS, find_stage};
use tokio::sync::{Notify, mpsc};
use tracing::{Event, Level, Subscriber, field::Field, level_filters::LevelFilter};
use tracing_opentelemetry::MetricsLayer;
use tracing_subscriber::{Layer, filter::Targets, layer::Context, registry::LookupSpan};

use super::{
    SERVICE_SPOOL, metrics,
    stage::{current, stage_span},
};
use crate::config::{Signal, Telemetry};

/// Spans, and log lines, that a process keeps at most until it exports them.
const CAPACITY: usize = 512;
/// The same of the service. It exports when half of this is used.
const CAPACITY_OF_SERVICE: usize = 8192;
/// Longest message of the log that is exported, in bytes.
const LONGEST: usize = 4096;

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// What a process records, until it is exported.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) settings: Telemetry,
    /// For what jobs cost; `None` if they cannot be read.
    pub(super) prices: Option<Prices>,
    /// Whether the process is the service.
    pub(super) of_service: bool,
    pub(super) resource: Resource,
    reader: Reader,
    logger: SdkLogger,
    pub(super) spans: Buffer<SpanData>,
    lines: Buffer<SdkLogRecord>,
    recorded: Mutex<(mpsc::Receiver<SpanData>, mpsc::Receiver<SdkLogRecord>)>,
    /// The file of unsent data: the service's, or that of the process's first job.
    spool: Mutex<Option<PathBuf>>,
    /// Held while data is exported.
    pub(super) exporting: tokio::sync::Mutex<()>,
    /// Notified when it is time to export, as much was recorded.
    pub(super) half_full: Arc<Notify>,
    /// Notified when a job has ended, so that the service exports its trace soon.
    pub(super) job_ended: Notify,
    /// Whether a job ended here, so that no other process of it follows.
    pub(super) has_ended_job: AtomicBool,
    /// Whether the service ends, so that other processes continue its stages.
    pub(super) is_ending: AtomicBool,
}

/// Returns the recorder, if telemetry is on.
pub(super) fn recorder() -> Option<&'static Recorder> {
    RECORDER.get()
}

/// Starts recording. Called once per process. `service` is the directory of a service.
pub(super) fn install(
    settings: Telemetry,
    manager: &str,
    prices: Option<Prices>,
    service: Option<&Path>,
) {
    let _ = RECORDER.set(Recorder::new(settings, manager, prices, service));
    find_stage(stage_span);
}

/// Returns the layers of `tracing` that record; `None` if telemetry is off.
pub fn layer<S>() -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    recorder().map(Recorder::layer)
}

/// Returns the layer that exports the driver's own log, if it is exported.
pub fn log_export() -> Option<LogExport> {
    recorder().filter(|recorder| recorder.settings.exports(Signal::Logs)).map(LogExport)
}

/// Says that the service ends: other processes continue the stages that are dropped from now on.
pub fn end_service() {
    if let Some(recorder) = recorder() {
        recorder.is_ending.store(true, Ordering::Relaxed);
    }
}

impl Recorder {
    fn new(
        settings: Telemetry,
        manager: &str,
        prices: Option<Prices>,
        service: Option<&Path>,
    ) -> Self {
        let capacity = service.map_or(CAPACITY, |_| CAPACITY_OF_SERVICE);
        let half_full = Arc::new(Notify::new());
        let (spans, recorded_spans) = Buffer::new(capacity, &half_full);
        let (lines, recorded_lines) = Buffer::new(capacity, &half_full);
        Self {
            logger: SdkLoggerProvider::builder().build().logger_with_scope(scope()),
            recorded: Mutex::new((recorded_spans, recorded_lines)),
            spool: Mutex::new(service.map(|directory| directory.join(SERVICE_SPOOL))),
            of_service: service.is_some(),
            resource: resource(&settings, manager),
            reader: Reader::default(),
            settings,
            prices,
            spans,
            lines,
            half_full,
            exporting: Default::default(),
            job_ended: Notify::new(),
            has_ended_job: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        }
    }

    /// Returns the file of unsent data, once there is one.
    pub(super) fn spool(&self) -> MutexGuard<'_, Option<PathBuf>> {
        // A path is replaced as a whole, so a panic does no harm.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the layers for the process's subscriber. A span that is entered is the current one of
    /// OpenTelemetry, too: [`current`] depends on it.
    fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        // The job's first process has decided whether it is recorded, for all of them.
        let tracer = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_simple_exporter(self.spans.clone())
            .build();
        let meter = SdkMeterProvider::builder()
            .with_reader(self.reader.clone())
            .with_view(metrics::view)
            .with_resource(self.resource.clone());
        tracing_opentelemetry::layer()
            .with_tracer(tracer.tracer_with_scope(scope()))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(SPANS, LevelFilter::INFO))
            .and_then(MetricsLayer::new(meter.build()))
    }

    /// Records a line of the log.
    fn line(&self, level: Level, message: String) {
        let mut record = self.logger.create_log_record();
        let now = SystemTime::now();
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_severity_number(match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            Level::INFO => Severity::Info,
            Level::DEBUG => Severity::Debug,
            Level::TRACE => Severity::Trace,
        });
        record.set_severity_text(level.as_str());
        record.set_body(message.into());
        if let Some(at) = current().map(|open| open.at.clone()) {
            record.set_trace_context(at.trace_id(), at.span_id(), Some(at.trace_flags()));
        }
        self.lines.push(record);
    }

    /// Takes what was recorded.
    pub(super) fn take(&self) -> (Vec<SpanData>, ResourceMetrics, Vec<SdkLogRecord>) {
        let mut metrics = ResourceMetrics::default();
        if let Err(e) = self.reader.0.collect(&mut metrics) {
            tracing::debug!("metrics cannot be collected: {e}");
        }
        // A panic cannot leave a receiver inconsistent.
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = iter::from_fn(|| recorded.0.try_recv().ok()).collect();
        let lines = iter::from_fn(|| recorded.1.try_recv().ok()).collect();
        (spans, metrics, lines)
    }
}

/// Returns the instrumentation scope of all that the driver records.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("fargate-driver").with_version(env!("CARGO_PKG_VERSION")).build()
}

/// Describes the runner manager. The administrator's own attributes override these.
fn resource(settings: &Telemetry, manager: &str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = [
        KeyValue::new("service.name", settings.service.clone()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", host),
        KeyValue::new("cicd.worker.name", manager.to_owned()),
    ];
    let more = settings.resource.iter().cloned().map(|(name, text)| KeyValue::new(name, text));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own.into_iter().chain(more))
        .build()
}

/// Where something is recorded. What does not fit is dropped: no job waits for telemetry.
#[derive(Debug, Clone)]
pub(super) struct Buffer<T>(mpsc::Sender<T>, Arc<Notify>);

impl<T> Buffer<T> {
    fn new(most: usize, half_full: &Arc<Notify>) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(most);
        (Self(sender, Arc::clone(half_full)), receiver)
    }

    pub(super) fn push(&self, item: T) {
        let _ = self.0.try_send(item);
        if self.0.capacity() <= self.0.max_capacity() / 2 {
            self.1.notify_one();
        }
    }
}

/// "Exports" finished spans to memory.
impl SpanExporter for Buffer<SpanData> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for mut span in batch {
            for event in &mut span.events.events {
                // `tracing-opentelemetry` adds these to each event. They are in no convention.
                event.attributes.retain(|of| !matches!(of.key.as_str(), "level" | "target"));
            }
            if !span.attributes.iter().any(|of| of.key.as_str() == DISCARDED) {
                self.push(span);
            }
        }
        Ok(())
    }
}

/// A reader of metrics that is shared with its provider.
#[derive(Debug, Clone)]
struct Reader(Arc<ManualReader>);

impl Default for Reader {
    fn default() -> Self {
        Self(ManualReader::builder().with_temporality(Temporality::Delta).build().into())
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<MetricPipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Exports messages of the log, without their fields: at debug level, these hold whole
/// observations.
#[derive(Debug, Clone, Copy)]
pub struct LogExport(&'static Recorder);

impl<S: Subscriber> Layer<S> for LogExport {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = String::new();
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() == "message" {
                message = format!("{value:?}");
            }
        });
        let mut message = states::foreign_text::tame(&message);
        message.truncate(message.floor_char_boundary(LONGEST));
        self.0.line(*event.metadata().level(), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::defaults;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_dropped_and_an_export_is_due_before() {
        let recorder = Recorder::new(defaults(), "manager", None, None);
        let record = |lines: usize| {
            (0..lines).for_each(|n| recorder.line(Level::INFO, n.to_string()));
        };
        let moment = Duration::from_millis(1);
        record(255);
        assert!(tokio::time::timeout(moment, recorder.half_full.notified()).await.is_err());
        record(1);
        recorder.half_full.notified().await;
        record(1000);
        assert_eq!(recorder.take().2.len(), CAPACITY);
    }
}
