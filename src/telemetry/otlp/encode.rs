//! Encodes plain data as OTLP's messages.

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as Sent, Status, span, status},
};
use prost::Message as _;
use tracing::Level;

use crate::telemetry::{
    Recorded, Recorder,
    metrics::{self, BOUNDS},
    settings::Signal,
    span::{Attributes, Kind, LogLine, Span, Value},
};

/// The low bits of `flags` are the W3C ones; these say whether the parent is remote
/// (opentelemetry-proto, `SpanFlags`).
const SAMPLED: u32 = 1;

/// Encodes a signal's request; empty if nothing was recorded.
pub(super) fn request(signal: Signal, recorded: &Recorded, recorder: &Recorder) -> Vec<u8> {
    let resource = Some(resource(recorder));
    let scope = Some(InstrumentationScope {
        name: "fargate-driver".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    });
    match signal {
        Signal::Traces if !recorded.spans.is_empty() => {
            let scope_spans = vec![ScopeSpans {
                scope,
                spans: recorded.spans.iter().map(sent).collect(),
                ..ScopeSpans::default()
            }];
            ExportTraceServiceRequest {
                resource_spans: vec![ResourceSpans {
                    resource,
                    scope_spans,
                    ..ResourceSpans::default()
                }],
            }
            .encode_to_vec()
        }
        Signal::Metrics if !recorded.metrics.is_empty() => {
            let scope_metrics = vec![ScopeMetrics {
                scope,
                metrics: measured(&recorded.metrics, recorder),
                ..ScopeMetrics::default()
            }];
            ExportMetricsServiceRequest {
                resource_metrics: vec![ResourceMetrics {
                    resource,
                    scope_metrics,
                    ..ResourceMetrics::default()
                }],
            }
            .encode_to_vec()
        }
        Signal::Logs if !recorded.lines.is_empty() => {
            let scope_logs = vec![ScopeLogs {
                scope,
                log_records: recorded.lines.iter().map(logged).collect(),
                ..ScopeLogs::default()
            }];
            ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource,
                    scope_logs,
                    ..ResourceLogs::default()
                }],
            }
            .encode_to_vec()
        }
        _ => Vec::new(),
    }
}

/// Describes the runner manager. The administrator's own attributes override these.
fn resource(recorder: &Recorder) -> Resource {
    let settings = &recorder.settings;
    let own = [
        ("service.name", settings.service.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
        ("cicd.worker.name", recorder.manager.clone()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.name", "fargate-driver".to_owned()),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let more = settings.resource.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut all: Vec<(&str, String)> = own
        .into_iter()
        .filter(|(name, _)| settings.resource.iter().all(|(other, _)| other != name))
        .collect();
    all.extend(more);
    Resource {
        attributes: all.into_iter().map(|(name, value)| pair(name, &Value::Text(value))).collect(),
        ..Resource::default()
    }
}

fn pair(name: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.clone()),
        Value::Number(number) => any_value::Value::IntValue(*number),
        Value::Flag(flag) => any_value::Value::BoolValue(*flag),
    };
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn pairs(attributes: &Attributes) -> Vec<KeyValue> {
    attributes.iter().map(|(name, value)| pair(name, value)).collect()
}

fn sent(of: &Span) -> Sent {
    let mut attributes = pairs(&of.attributes);
    attributes.extend(of.error.iter().map(|error| pair("error.type", &Value::Text(error.clone()))));
    let failed = of.error.is_some();
    Sent {
        trace_id: of.trace.to_vec(),
        span_id: of.id.to_vec(),
        trace_state: of.state.clone(),
        parent_span_id: of.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: SAMPLED,
        name: of.name.clone(),
        kind: match of.kind {
            Kind::Internal => span::SpanKind::Internal,
            Kind::Client => span::SpanKind::Client,
        }
        .into(),
        start_time_unix_nano: of.start,
        end_time_unix_nano: of.end,
        attributes,
        events: of
            .events
            .iter()
            .map(|event| span::Event {
                time_unix_nano: event.at,
                name: event.name.to_owned(),
                attributes: pairs(&event.attributes),
                dropped_attributes_count: 0,
            })
            .collect(),
        dropped_events_count: of.omitted,
        status: failed.then(|| Status {
            message: of.error.clone().unwrap_or_default(),
            code: status::StatusCode::Error.into(),
        }),
        ..Sent::default()
    }
}

fn measured(all: &metrics::Metrics, recorder: &Recorder) -> Vec<Metric> {
    let (start, now) = (recorder.began(), crate::telemetry::span::now());
    let temporality = AggregationTemporality::Delta.into();
    let named = |name: &str, data| {
        let (unit, description) = metrics::about(name);
        Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            description: description.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    };
    let counters = all.counters.iter().map(|((name, attributes), count)| {
        let point = NumberDataPoint {
            attributes: pairs(attributes),
            start_time_unix_nano: start,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        };
        named(
            name,
            metric::Data::Sum(Sum {
                data_points: vec![point],
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
        )
    });
    let histograms = all.histograms.iter().map(|((name, attributes), of)| {
        let point = HistogramDataPoint {
            attributes: pairs(attributes),
            start_time_unix_nano: start,
            time_unix_nano: now,
            count: of.count,
            sum: Some(of.sum),
            bucket_counts: of.buckets.to_vec(),
            explicit_bounds: BOUNDS.to_vec(),
            min: Some(of.least),
            max: Some(of.most),
            ..HistogramDataPoint::default()
        };
        let data = opentelemetry_proto::tonic::metrics::v1::Histogram {
            data_points: vec![point],
            aggregation_temporality: temporality,
        };
        named(name, metric::Data::Histogram(data))
    });
    counters.chain(histograms).collect()
}

fn logged(line: &LogLine) -> LogRecord {
    // OpenTelemetry, "Logs Data Model", "SeverityNumber".
    let (number, text) = match line.level {
        Level::ERROR => (17, "ERROR"),
        Level::WARN => (13, "WARN"),
        Level::INFO => (9, "INFO"),
        Level::DEBUG => (5, "DEBUG"),
        Level::TRACE => (1, "TRACE"),
    };
    LogRecord {
        time_unix_nano: line.at,
        observed_time_unix_nano: line.at,
        severity_number: number,
        severity_text: text.to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(line.message.clone())) }),
        trace_id: line.span.map(|span| span.trace.to_vec()).unwrap_or_default(),
        span_id: line.span.map(|span| span.span.to_vec()).unwrap_or_default(),
        flags: line.span.map_or(0, |span| u32::from(span.sampled)),
        ..LogRecord::default()
    }
}
