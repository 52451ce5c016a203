//! Exports a process's data once. OpenTelemetry's exporters encode and address the requests.
//! [`Outbox`] is the HTTP client by which they send them.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_types::body::SdkBody;
use http::HeaderMap;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, RetryPolicy, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use opentelemetry_sdk::{
    logs::{LogBatch, LogExporter as _},
    metrics::exporter::PushMetricExporter as _,
    trace::SpanExporter as _,
};
use prost::Message as _;
use tonic::{
    Code, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    pipeline::scope,
    recorder::{Recorder, recorder},
    settings::{Protocol, Settings, Signal, origin},
    spool::{self, Spooled},
};

/// Why a request was not accepted.
#[derive(Debug)]
enum ExportError {
    /// It may be accepted later.
    Later(String),
    /// It will never be accepted.
    Never(String),
}

/// Exports one signal, within the time limit.
macro_rules! export {
    ($outbox:expr, $Exporter:ident, $is_empty:expr, |$exporter:ident| $sent:expr) => {
        async {
            let outbox: Outbox = $outbox;
            let settings = outbox.settings;
            let address = settings.address(outbox.signal).unwrap_or_default();
            if !settings.exports(outbox.signal) || ($is_empty && outbox.kept.is_empty()) {
                return Ok(());
            }
            let sending = async {
                let built = $Exporter::builder()
                    .with_http()
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_http_client(outbox.clone())
                    .with_endpoint(address)
                    .with_headers(settings.headers.iter().cloned().collect::<HashMap<_, _>>())
                    .with_timeout(outbox.limit)
                    .with_retry_policy(RetryPolicy::disabled())
                    .build();
                #[allow(unused_mut, reason = "metrics have their resource with them")]
                let mut $exporter = built.map_err(|e| ExportError::Never(e.to_string()))?;
                $sent.await.map_err(|e| ExportError::Later(e.to_string()))
            };
            outbox.outcome(tokio::time::timeout(outbox.limit, sending).await)
        }
    };
}

/// Sends the recorded data, within the time limit. Never fails: an error is one line in the
/// driver's log. The service does it in batches instead, by [`super::Batches`].
pub async fn flush() {
    let Some(recorder) = recorder() else { return };
    if recorder.service_spool().is_some() {
        return;
    }
    let (spools, over) = recorder.take_spools();
    let kept: Vec<_> = spools.iter().flat_map(|path| spool::read(path)).collect();
    let Sent { unsent, problems } = send(recorder, &kept, recorder.settings.flush_timeout).await;
    // The first file keeps the data of all.
    let left_out = match spools.split_first() {
        Some((first, others)) => {
            let left_out = spool::replace(first, &unsent);
            for path in others {
                spool::replace(path, &[]);
            }
            left_out
        }
        None => unsent.len(),
    };
    if let Some(problems) = problems {
        let outcome = match (unsent.is_empty(), left_out) {
            (true, _) => "it is dropped",
            (false, 0) if over => "it is kept for `fargate reap`",
            (false, 0) => "it is kept for the job's next process",
            (false, _) => "it is dropped where it did not fit beside the snapshot",
        };
        tracing::warn!("{problems}; {outcome}. The job is not affected.");
    }
}

/// Sends what the service has recorded, with what it could not send before, within this time.
/// Returns what is wrong, if anything.
pub(super) async fn flush_batch(recorder: &'static Recorder, limit: Duration) -> Option<String> {
    let (kept, measured) = spool::read_measured(&recorder.service_spool()?);
    let Sent { unsent, problems } = send(recorder, &kept, limit).await;
    let failed: Vec<Signal> = unsent.iter().map(|(signal, _)| *signal).collect();
    // A request begins with what was kept.
    let new = unsent.into_iter().map(|(signal, mut request)| {
        let old = kept.iter().filter(|(of, _)| *of == signal).map(|(_, old)| old.len()).sum();
        (signal, request.split_off(request.len().min(old)))
    });
    let new: Vec<_> = new.filter(|(_, request)| !request.is_empty()).collect();
    let old = kept.iter().filter(|(signal, _)| failed.contains(signal)).cloned();
    let unsent: Vec<_> = old.chain(new).collect();
    if !kept.is_empty() || !unsent.is_empty() {
        let left_out = spool::settle(&recorder.service_spool()?, measured, unsent);
        if left_out > 0 {
            tracing::warn!("{left_out} requests of telemetry are dropped, the oldest");
        }
    }
    problems
}

/// What came of sending.
struct Sent {
    /// What may be accepted later: a request per signal.
    unsent: Vec<Spooled>,
    /// What is wrong, as a beginning of a sentence.
    problems: Option<String>,
}

/// Sends the recorded data and what was kept, within this time.
async fn send(recorder: &'static Recorder, kept: &[Spooled], limit: Duration) -> Sent {
    let (spans, metrics, lines) = recorder.pipeline.take();
    let (settings, resource, scope) = (&recorder.settings, &recorder.pipeline.resource, scope());
    let lines: Vec<_> = lines.iter().map(|line| (line, &scope)).collect();
    let outbox = |signal| Outbox::new(settings, signal, kept, limit);
    let no_metrics = metrics.scope_metrics().next().is_none();
    let (traces, metrics, logs) = tokio::join!(
        export!(outbox(Signal::Traces), SpanExporter, spans.is_empty(), |exporter| {
            exporter.set_resource(resource);
            exporter.export(spans)
        }),
        export!(outbox(Signal::Metrics), MetricExporter, no_metrics, |exporter| {
            exporter.export(&metrics)
        }),
        export!(outbox(Signal::Logs), LogExporter, lines.is_empty(), |exporter| {
            exporter.set_resource(resource);
            exporter.export(LogBatch::new(&lines))
        }),
    );
    let mut unsent = Vec::new();
    let mut problems: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (signal, sent) in Signal::ALL.into_iter().zip([traces, metrics, logs]) {
        let Err((error, request)) = sent else { continue };
        let endpoint = settings.address(signal).map_or_else(String::new, |url| origin(&url));
        let why = match error {
            ExportError::Never(why) => why,
            ExportError::Later(why) => {
                unsent.push((signal, request));
                why
            }
        };
        problems.entry((endpoint, why)).or_default().push(signal.name());
    }
    let problems: Vec<String> = problems
        .iter()
        .map(|((endpoint, why), signals)| format!("{} to {endpoint}: {why}", signals.join(", ")))
        .collect();
    let problems = (!problems.is_empty())
        .then(|| format!("telemetry was not taken by the collector: {}", problems.join("; ")));
    Sent { unsent, problems }
}

/// Sends the requests of one signal's exporter, and keeps each until the collector has accepted it.
///
/// The SDK's exporters take the SDK's data only, so the requests that earlier processes could not
/// send are added here. Their errors do not say whether a request may be sent again
/// (`tests/opentelemetry_otlp.rs`), so the answer is judged here. Both hold for the SDK's gRPC exporter, too, which has no such client: over gRPC,
/// OpenTelemetry's generated clients send the same request.
#[derive(Debug, Clone)]
struct Outbox {
    settings: &'static Settings,
    signal: Signal,
    /// How long the request may take.
    limit: Duration,
    /// Requests of earlier processes, one after the other. A request is one repeated field, so
    /// together they are one request (Protocol Buffers, "Encoding", "Last One Wins").
    kept: Vec<u8>,
    unsent: Arc<Mutex<Unsent>>,
}

/// The request that was not accepted yet, and why.
#[derive(Debug, Default)]
struct Unsent {
    request: Vec<u8>,
    error: Option<ExportError>,
}

impl Outbox {
    fn new(settings: &'static Settings, signal: Signal, kept: &[Spooled], limit: Duration) -> Self {
        let kept = kept.iter().filter(|(of, _)| *of == signal);
        let kept: Vec<u8> = kept.flat_map(|(_, request)| request.clone()).collect();
        let unsent = Unsent { request: kept.clone(), error: None };
        Self { settings, signal, limit, kept, unsent: Arc::new(Mutex::new(unsent)) }
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the error and the request, if it was not accepted.
    fn outcome<T>(
        &self,
        sent: Result<Result<(), ExportError>, T>,
    ) -> Result<(), (ExportError, Vec<u8>)> {
        let limit = humantime::format_duration(self.limit);
        let sent =
            sent.unwrap_or_else(|_| Err(ExportError::Later(format!("no answer within {limit}"))));
        let Unsent { request, error } = std::mem::take(&mut *self.unsent());
        sent.map_err(|sdks| (error.unwrap_or(sdks), request))
    }

    async fn post(&self, request: http::Request<SdkBody>) -> Result<(), ExportError> {
        let limit = self.limit;
        let timeouts = HttpConnectorSettings::builder().connect_timeout(limit).read_timeout(limit);
        let trusted = match self.certificate()? {
            None => TrustStore::default(),
            Some(pem) => TrustStore::empty().with_pem_certificate(pem),
        };
        let tls = TlsContext::builder().with_trust_store(trusted).build().map_err(|e| {
            ExportError::Never(format!("the certificate file cannot be used: {}", causes(&e)))
        })?;
        let connector = Connector::builder()
            .connector_settings(timeouts.build())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls)
            .build();
        // The address's query may hold a secret, so messages do not repeat it.
        let request = request.try_into().map_err(|_| {
            ExportError::Never("the endpoint is not an address that HTTP takes".to_owned())
        })?;
        let answer = connector.call(request).await.map_err(|e| ExportError::Later(causes(&e)))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            // OTLP/HTTP, "Retryable Response Codes".
            status @ (408 | 429 | 502..=504) => {
                Err(ExportError::Later(format!("HTTP status {status}")))
            }
            status => Err(ExportError::Never(format!("HTTP status {status}"))),
        }
    }

    async fn call(&self, headers: HeaderMap, request: &[u8]) -> Result<(), ExportError> {
        let channel = self.channel().await?;
        macro_rules! call {
            ($Client:ident, $Request:ident) => {{
                // Another version of the driver may have written the spool.
                let request = $Request::decode(request)
                    .map_err(|_| ExportError::Never("what was kept is not a request".to_owned()))?;
                let metadata = MetadataMap::from_headers(headers);
                let request = tonic::Request::from_parts(metadata, Default::default(), request);
                $Client::new(channel).export(request).await.map(drop)
            }};
        }
        let answer = match self.signal {
            Signal::Traces => call!(TraceServiceClient, ExportTraceServiceRequest),
            Signal::Metrics => call!(MetricsServiceClient, ExportMetricsServiceRequest),
            Signal::Logs => call!(LogsServiceClient, ExportLogsServiceRequest),
        };
        answer.map_err(|status| refused(&status))
    }

    async fn channel(&self) -> Result<Channel, ExportError> {
        let address = self.settings.address(self.signal).unwrap_or_default();
        let is_secure = address.starts_with("https://");
        let mut endpoint = Endpoint::from_shared(address)
            .map_err(|_| {
                ExportError::Never("the endpoint is not an address that gRPC takes".to_owned())
            })?
            .connect_timeout(self.limit);
        if is_secure {
            let tls = match self.certificate()? {
                None => ClientTlsConfig::new().with_native_roots(),
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            };
            endpoint = endpoint.tls_config(tls).map_err(|e| ExportError::Never(causes(&e)))?;
        }
        endpoint.connect().await.map_err(|e| ExportError::Later(causes(&e)))
    }

    /// Reads the CA's certificate, if one is configured.
    fn certificate(&self) -> Result<Option<Vec<u8>>, ExportError> {
        let Some(path) = &self.settings.certificate else { return Ok(None) };
        std::fs::read(path).map(Some).map_err(|e| {
            let path = path.display();
            ExportError::Never(format!("the certificate file {path} cannot be read: {e}"))
        })
    }
}

#[async_trait::async_trait]
impl HttpClient for Outbox {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let body = [&self.kept[..], &body].concat();
        self.unsent().request.clone_from(&body);
        let sent = match self.settings.protocol {
            Protocol::Http => self.post(http::Request::from_parts(head, body.into())).await,
            Protocol::Grpc => self.call(head.headers, &body).await,
        };
        sent.map(|()| Response::default()).map_err(|e| {
            self.unsent().error = Some(e);
            "the collector did not accept it".into()
        })
    }
}

/// Whether a code may be retried (OTLP/gRPC, "Failures").
fn refused(status: &Status) -> ExportError {
    let why = format!("gRPC status {:?}", status.code());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted
        // The connection ended early, or the server does not speak gRPC.
        | Code::Unknown
        | Code::Internal => ExportError::Later(why),
        _ => ExportError::Never(why),
    }
}

/// Formats an error with its causes, without the queries of addresses.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
