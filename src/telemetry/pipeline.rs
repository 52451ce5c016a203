//! OpenTelemetry's SDK, collecting into memory, and the layers that bridge `tracing` to it.
//!
//! The SDK's batch processors and its periodic reader start a thread each, and export when they
//! like. They know neither the time that a stage has, nor the files of jobs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

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
    resource::{ResourceDetector as _, TelemetryResourceDetector},
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use states::trace::DISCARDED;
use tokio::sync::Notify;
use tracing::{Event, Level, Subscriber, field::Field, level_filters::LevelFilter};
use tracing_opentelemetry::MetricsLayer;
use tracing_subscriber::{Layer, filter::Targets, layer::Context, registry::LookupSpan};

use super::{
    SPANS, metrics,
    stage::{Recorder, position},
};
use crate::config::Telemetry;

/// Spans, and log lines, that a process keeps at most until it exports them.
const CAPACITY: usize = 512;
/// The same of the service. It exports when half of this is used.
const CAPACITY_OF_SERVICE: usize = 8192;
/// Longest message of the log that is exported, in bytes.
const LONGEST: usize = 4096;

/// What a process records until it is exported.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) resource: Resource,
    tracer: SdkTracerProvider,
    meter: SdkMeterProvider,
    logger: SdkLogger,
    spans: Buffer<SpanData>,
    reader: Reader,
    lines: Buffer<SdkLogRecord>,
    /// Notified when it is time to export, as much was recorded.
    pub(super) half_full: Arc<Notify>,
}

impl Pipeline {
    pub(super) fn new(settings: &Telemetry, manager: &str, of_service: bool) -> Self {
        let resource = resource(settings, manager);
        let capacity = if of_service { CAPACITY_OF_SERVICE } else { CAPACITY };
        let half_full = Arc::new(Notify::new());
        let (spans, reader) = (Buffer::new(capacity, &half_full), Reader::default());
        Self {
            // The job's first process has decided whether it is recorded, for all of them.
            tracer: SdkTracerProvider::builder()
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
                .with_simple_exporter(spans.clone())
                .build(),
            meter: SdkMeterProvider::builder()
                .with_reader(reader.clone())
                .with_view(metrics::view)
                .with_resource(resource.clone())
                .build(),
            logger: SdkLoggerProvider::builder().build().logger_with_scope(scope()),
            resource,
            spans,
            reader,
            lines: Buffer::new(capacity, &half_full),
            half_full,
        }
    }

    /// Returns the layers for the process's subscriber. A span that is entered is the current one of
    /// OpenTelemetry, too: [`super::stage::current`] depends on it.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.tracer_with_scope(scope()))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(SPANS, LevelFilter::INFO))
            .and_then(MetricsLayer::new(self.meter.clone()))
    }

    /// Records a finished span.
    pub(super) fn push(&self, span: SpanData) {
        self.spans.push(span);
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
        if let Some(at) = position() {
            record.set_trace_context(at.trace_id(), at.span_id(), Some(at.trace_flags()));
        }
        self.lines.push(record);
    }

    /// Takes the recorded data.
    pub(super) fn take(&self) -> (Vec<SpanData>, ResourceMetrics, Vec<SdkLogRecord>) {
        let mut metrics = ResourceMetrics::default();
        if let Err(e) = self.reader.collect(&mut metrics) {
            tracing::debug!("metrics cannot be collected: {e}");
        }
        (self.spans.take(), metrics, self.lines.take())
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
    let sdk = TelemetryResourceDetector.detect();
    let sdk = sdk.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty().with_attributes(sdk.chain(own).chain(more)).build()
}

/// What is to be exported. What does not fit is dropped: no job waits for telemetry.
#[derive(Debug, Clone)]
struct Buffer<T> {
    items: Arc<Mutex<Vec<T>>>,
    most: usize,
    half_full: Arc<Notify>,
}

impl<T> Buffer<T> {
    fn new(most: usize, half_full: &Arc<Notify>) -> Self {
        Self { items: Arc::default(), most, half_full: Arc::clone(half_full) }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Vec<T>) -> R) -> R {
        // A panic cannot leave a list inconsistent.
        act(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, item: T) {
        let count = self.with(|items| {
            if items.len() < self.most {
                items.push(item);
            }
            items.len()
        });
        if count >= self.most / 2 {
            self.half_full.notify_one();
        }
    }

    fn take(&self) -> Vec<T> {
        self.with(std::mem::take)
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
pub(crate) struct LogExport(pub(super) &'static Recorder);

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
        self.0.pipeline.line(*event.metadata().level(), message);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;
    use crate::telemetry::{defaults, metric};

    /// Records in a pipeline of its own.
    fn recorded(record: impl FnOnce()) -> ResourceMetrics {
        let pipeline = Pipeline::new(&defaults(), "manager", false);
        tracing::subscriber::with_default(registry().with(pipeline.layer()), record);
        let (spans, metrics, lines) = pipeline.take();
        assert!(spans.is_empty() && lines.is_empty(), "{spans:?} {lines:?}");
        metrics
    }

    fn metrics(recorded: &ResourceMetrics) -> Vec<&Metric> {
        recorded.scope_metrics().flat_map(|scope| scope.metrics()).collect()
    }

    #[test]
    fn equal_attributes_are_one_series_whatever_their_order() {
        let recorded = recorded(|| {
            metric!(monotonic_counter.fargate.jobs = 1_u64, a = "1", b = "2");
            metric!(monotonic_counter.fargate.jobs = 2_u64, b = "2", a = "1", c = None::<&str>);
        });
        let [jobs] = metrics(&recorded)[..] else { panic!("{recorded:?}") };
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = jobs.data() else { panic!("{jobs:?}") };
        assert_eq!((jobs.name(), jobs.unit()), ("fargate.jobs", "{job}"));
        assert_eq!(sum.temporality(), Temporality::Delta);
        assert_eq!(sum.data_points().map(|point| point.value()).collect::<Vec<_>>(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_dropped_and_an_export_is_due_before() {
        let pipeline = Pipeline::new(&defaults(), "manager", false);
        let record = |lines: usize| {
            (0..lines).for_each(|n| pipeline.line(Level::INFO, n.to_string()));
        };
        let moment = std::time::Duration::from_millis(1);
        record(255);
        assert!(tokio::time::timeout(moment, pipeline.half_full.notified()).await.is_err());
        record(1);
        pipeline.half_full.notified().await;
        record(1000);
        assert_eq!(pipeline.take().2.len(), CAPACITY);
    }

    #[test]
    fn bucket_bounds_are_inclusive() {
        let recorded = recorded(|| {
            for seconds in [0.05, 0.06, 99_999.0] {
                metric!(histogram.fargate.job.duration = seconds);
            }
        });
        let [duration] = metrics(&recorded)[..] else { panic!("{recorded:?}") };
        let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = duration.data() else {
            panic!("{duration:?}")
        };
        let point = histogram.data_points().next().unwrap();
        let buckets: Vec<u64> = point.bucket_counts().collect();
        assert_eq!((duration.unit(), point.count(), buckets.len()), ("s", 3, 16));
        assert_eq!((buckets[0], buckets[1], buckets[15]), (1, 1, 1));
        assert_eq!((point.min(), point.max()), (Some(0.05), Some(99_999.0)));
    }

    #[test]
    fn nothing_is_exported_before_something_is_recorded() {
        let recorded = recorded(|| tracing::info!("a line of the log"));
        assert!(metrics(&recorded).is_empty(), "{recorded:?}");
    }
}
