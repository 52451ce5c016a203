//! OTLP/HTTP receivers for tests: one that decodes OpenTelemetry's own messages, and some that
//! misbehave.

use std::{
    collections::HashMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message as _;

use crate::http::Message;

/// How a collector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    Fine,
    /// 503.
    Unavailable,
    /// Reads and does not answer.
    Hangs,
    /// Answers with text that is not HTTP.
    Garbage,
    /// Closes in the middle of the request.
    Dies,
    /// Never accepts a request.
    Refuses,
}

const MOODS: [Mood; 6] =
    [Mood::Fine, Mood::Unavailable, Mood::Hangs, Mood::Garbage, Mood::Dies, Mood::Refuses];

/// A receiver that keeps its requests.
pub struct Collector {
    pub endpoint: String,
    mood: Arc<AtomicU8>,
    received: Arc<Mutex<Vec<Message>>>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (mood, received) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(Vec::new())));
        let collector = Self { endpoint, mood: Arc::clone(&mood), received: Arc::clone(&received) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (mood, received) =
                    (MOODS[usize::from(mood.load(Ordering::Relaxed))], Arc::clone(&received));
                std::thread::spawn(move || {
                    use std::io::{Read as _, Write as _};
                    match mood {
                        Mood::Dies => drop((&stream).read(&mut [0; 16])),
                        Mood::Hangs => drop(std::io::copy(&mut &stream, &mut std::io::sink())),
                        Mood::Garbage => {
                            drop((&stream).write_all(b"\0\xff no HTTP at all\r\n\r\n"))
                        }
                        Mood::Fine | Mood::Unavailable | Mood::Refuses => {
                            let Some(request) = Message::read(&stream) else { return };
                            let first = match mood {
                                Mood::Unavailable => "HTTP/1.1 503 Service Unavailable",
                                Mood::Refuses => "HTTP/1.1 400 Bad Request",
                                _ => "HTTP/1.1 200 OK",
                            };
                            // Kept before the driver gets the answer.
                            if mood == Mood::Fine {
                                received.lock().unwrap().push(unpacked(request));
                            }
                            let _ = Message { first: first.to_owned(), ..Message::default() }
                                .write(&stream);
                        }
                    }
                });
            }
        });
        collector
    }

    pub fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// Returns every accepted request.
    pub fn received(&self) -> Vec<Message> {
        self.received.lock().unwrap().clone()
    }

    fn of(&self, signal: &str) -> Vec<Message> {
        self.received()
            .into_iter()
            .filter(|request| request.first.contains(&format!("/v1/{signal} ")))
            .collect()
    }

    pub fn spans(&self) -> Vec<Span> {
        self.of("traces")
            .iter()
            .flat_map(|request| {
                ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap().resource_spans
            })
            .flat_map(|of| of.scope_spans)
            .flat_map(|of| of.spans)
            .collect()
    }

    pub fn metrics(&self) -> Vec<Metric> {
        self.of("metrics")
            .iter()
            .flat_map(|request| {
                ExportMetricsServiceRequest::decode(request.body.as_slice())
                    .unwrap()
                    .resource_metrics
            })
            .flat_map(|of| of.scope_metrics)
            .flat_map(|of| of.metrics)
            .collect()
    }

    pub fn logs(&self) -> Vec<LogRecord> {
        self.of("logs")
            .iter()
            .flat_map(|request| {
                ExportLogsServiceRequest::decode(request.body.as_slice()).unwrap().resource_logs
            })
            .flat_map(|of| of.scope_logs)
            .flat_map(|of| of.log_records)
            .collect()
    }

    /// Returns every attribute of the resources of spans.
    pub fn resource(&self) -> Vec<KeyValue> {
        self.of("traces")
            .iter()
            .flat_map(|request| {
                ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap().resource_spans
            })
            .filter_map(|of| of.resource)
            .flat_map(|of| of.attributes)
            .collect()
    }
}

/// rotel always compresses.
fn unpacked(mut request: Message) -> Message {
    use std::io::Write as _;
    if request.body.starts_with(&[0x1f, 0x8b]) {
        let mut gzip = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut packed, body) = (gzip.stdin.take().unwrap(), request.body);
        std::thread::spawn(move || packed.write_all(&body).unwrap());
        request.body = gzip.wait_with_output().unwrap().stdout;
    }
    request
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|pair| pair.key == name)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    })
}

/// Asserts one trace with one root, in which every parent exists and spans its children's times.
/// Returns the tree: `parent > child`, sorted.
pub fn tree(spans: &[Span]) -> Vec<String> {
    let by_id: HashMap<&[u8], &Span> =
        spans.iter().map(|span| (span.span_id.as_slice(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "a span came twice: {spans:#?}");
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id), "{spans:#?}");
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{spans:#?}");
    let mut lines = Vec::new();
    for span in spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:#?}");
        if span.parent_span_id.is_empty() {
            lines.push(span.name.clone());
            continue;
        }
        let parent = by_id
            .get(span.parent_span_id.as_slice())
            .unwrap_or_else(|| panic!("an orphan: {span:#?}"));
        assert!(
            parent.start_time_unix_nano <= span.start_time_unix_nano
                && span.end_time_unix_nano <= parent.end_time_unix_nano,
            "{span:#?} is not within {parent:#?}"
        );
        lines.push(format!("{} > {}", parent.name, span.name));
    }
    lines.sort();
    lines
}

/// `rotel`, a real collector, which forwards to a receiver of these tests.
pub struct Rotel {
    process: Child,
    pub grpc: String,
    pub http: String,
}

impl Rotel {
    pub fn start(to: &Collector) -> Self {
        let agent = std::env::var("FARGATE_TEST_ROTEL")
            .expect("scripts/test installs rotel and names it in FARGATE_TEST_ROTEL");
        let place = tempfile::tempdir().unwrap().keep();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (grpc, http) = (free(), free());
        let process = Command::new(agent)
            .args([
                "start",
                "--exporter",
                "otlp",
                "--otlp-exporter-protocol",
                "http",
                "--batch-timeout",
                "100ms",
            ])
            .args([
                "--otlp-grpc-endpoint",
                &grpc,
                "--otlp-http-endpoint",
                &http,
                "--otlp-exporter-endpoint",
                &to.endpoint,
            ])
            .args(["--otlp-exporter-compression", "none"])
            .arg("--pid-file")
            .arg(place.join("pid"))
            .arg("--log-file")
            .arg(place.join("log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let rotel =
            Self { process, grpc: format!("http://{grpc}"), http: format!("http://{http}") };
        for address in [&grpc, &http] {
            crate::eventually("rotel listens", || std::net::TcpStream::connect(address).is_ok());
        }
        rotel
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
