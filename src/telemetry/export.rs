//! Exports what was recorded. OpenTelemetry's exporters encode and address the requests, and
//! [`send`] sends them.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_types::body::SdkBody;
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
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    pipeline::scope,
    spool::{self, Spooled},
    stage::{Recorder, recorder},
};
use crate::config::{Protocol, Signal, Telemetry, origin};

/// How often the service exports, if no job ends: the default of OpenTelemetry's batch processor
/// (`OTEL_BSP_SCHEDULE_DELAY`).
const EVERY: Duration = Duration::from_secs(5);
/// The same after the collector has not taken something.
const AGAIN: Duration = Duration::from_secs(30);
/// How long an export of the service may take, if `FlushTimeout` is not longer. No stage waits for
/// it.
const WITHIN: Duration = Duration::from_secs(5);

/// Why a request was not accepted.
#[derive(Debug)]
enum ExportError {
    /// It may be accepted later.
    Later(String),
    /// It will never be accepted.
    Never(String),
}

/// Exports what was recorded, within `FlushTimeout`. Called at the process's end. Never fails: an
/// error is one line in the driver's log.
pub async fn flush() {
    let Some(recorder) = recorder() else { return };
    if let Some(problem) = export(recorder, recorder.settings.flush_timeout).await {
        tracing::warn!("{problem}. No job is affected.");
    }
}

/// Exports what the service records until the service ends. No stage waits for it. [`flush`]
/// exports the rest.
pub async fn export_in_batches() {
    let Some(recorder) = recorder() else { return };
    let mut is_troubled = false;
    loop {
        tokio::select! {
            () = recorder.pipeline.half_full.notified() => {}
            () = recorder.job_ended.notified(), if !is_troubled => {}
            () = sleep(if is_troubled { AGAIN } else { EVERY }) => {}
        }
        if recorder.is_ending.load(Ordering::Relaxed) {
            return;
        }
        let problem = export(recorder, recorder.settings.flush_timeout.max(WITHIN)).await;
        match &problem {
            Some(problem) if is_troubled => tracing::debug!("{problem}"),
            Some(problem) => tracing::warn!("{problem}. No job is affected."),
            None if is_troubled => tracing::info!("the collector takes telemetry again"),
            None => {}
        }
        is_troubled = problem.is_some();
    }
}

/// Exports what was recorded, with what could not be sent before, within this time. Returns what is
/// wrong, if anything.
async fn export(recorder: &Recorder, limit: Duration) -> Option<String> {
    let _one_at_a_time = recorder.exporting.lock().await;
    let spool = recorder.spool().clone();
    let (kept, measured) = spool.as_deref().map(spool::read).unwrap_or_default();
    let [traces, metrics, logs] = encoded(recorder).await.map(|(signal, is_empty, request)| {
        let kept = kept.iter().filter(move |of| of.is_of(signal));
        async move { send_all(&recorder.settings, signal, kept, (is_empty, request), limit).await }
    });
    let sent = tokio::join!(traces, metrics, logs);
    let mut unsent = Vec::new();
    let mut problems: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (signal, sent) in Signal::ALL.into_iter().zip([sent.0, sent.1, sent.2]) {
        let Err((error, request)) = sent else { continue };
        let (ExportError::Later(why) | ExportError::Never(why)) = &error;
        if let ExportError::Later(_) = error {
            unsent.extend(kept.iter().filter(|of| of.is_of(signal)).cloned());
            unsent.extend((!request.is_empty()).then(|| Spooled::new(signal, request.into())));
        }
        let endpoint =
            recorder.settings.address(signal).map_or_else(String::new, |url| origin(&url));
        problems.entry((endpoint, why.clone())).or_default().push(signal.name());
    }
    let outcome = match unsent.len() {
        0 => "it is dropped",
        _ if recorder.of_service => "it is kept",
        _ if recorder.has_ended_job.load(Ordering::Relaxed) => "it is kept for `fargate reap`",
        _ => "it is kept for the job's next process",
    };
    let left_out = match &spool {
        Some(path) if !(kept.is_empty() && unsent.is_empty()) => {
            spool::settle(path, measured, unsent, recorder.of_service)
        }
        Some(_) => 0,
        None => unsent.len(),
    };
    if left_out > 0 {
        tracing::warn!(
            "{left_out} requests of telemetry are dropped: there is no room to keep them"
        );
    }
    let problems: Vec<String> = problems
        .iter()
        .map(|((endpoint, why), signals)| format!("{} to {endpoint}: {why}", signals.join(", ")))
        .collect();
    (!problems.is_empty()).then(|| {
        format!("telemetry was not taken by the collector: {}; {outcome}", problems.join("; "))
    })
}

/// A signal, whether nothing of it was recorded, and its request.
type Encoded = (Signal, bool, Result<Request<Bytes>, ExportError>);

/// Returns the requests with what was recorded.
async fn encoded(recorder: &Recorder) -> [Encoded; 3] {
    let (spans, metrics, lines) = recorder.pipeline.take();
    let (settings, resource, scope) = (&recorder.settings, &recorder.pipeline.resource, scope());
    let lines: Vec<_> = lines.iter().map(|line| (line, &scope)).collect();
    macro_rules! encoded {
        ($signal:expr, $is_empty:expr, $Exporter:ident, |$exporter:ident| $exported:expr) => {{
            let (is_empty, captured) = ($is_empty, Captured::default());
            let built = $Exporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(captured.clone())
                .with_endpoint(settings.address($signal).unwrap_or_default())
                .with_headers(settings.headers.iter().cloned().collect::<HashMap<_, _>>())
                .with_retry_policy(RetryPolicy::disabled())
                .build();
            let encoded = match built {
                #[allow(unused_mut, reason = "metrics have their resource with them")]
                Ok(mut $exporter) => $exported.await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let request = encoded.and_then(|()| captured.take().ok_or_else(String::new));
            ($signal, is_empty, request.map_err(ExportError::Never))
        }};
    }
    [
        encoded!(Signal::Traces, spans.is_empty(), SpanExporter, |exporter| {
            exporter.set_resource(resource);
            exporter.export(spans)
        }),
        encoded!(
            Signal::Metrics,
            metrics.scope_metrics().next().is_none(),
            MetricExporter,
            |exporter| exporter.export(&metrics)
        ),
        encoded!(Signal::Logs, lines.is_empty(), LogExporter, |exporter| {
            exporter.set_resource(resource);
            exporter.export(LogBatch::new(&lines))
        }),
    ]
}

/// Takes the request of one of the SDK's exporters. These take the SDK's data only, and not the
/// requests that could not be sent before. Their errors do not say whether a request may be sent
/// again (`tests/opentelemetry_otlp.rs`). Both hold for the SDK's gRPC exporter, too.
#[derive(Debug, Clone, Default)]
struct Captured(Arc<Mutex<Option<Request<Bytes>>>>);

impl Captured {
    fn take(&self) -> Option<Request<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait::async_trait]
impl HttpClient for Captured {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        Ok(Response::default())
    }
}

/// Sends what was kept and the new request, if there is anything, as one request. If it is not
/// accepted, returns the error and the body of the new one.
async fn send_all(
    settings: &Telemetry,
    signal: Signal,
    kept: impl Iterator<Item = &Spooled>,
    (is_empty, request): (bool, Result<Request<Bytes>, ExportError>),
    limit: Duration,
) -> Result<(), (ExportError, Bytes)> {
    // A request is one repeated field, so one after the other is one request (Protocol Buffers,
    // "Encoding", "Last One Wins").
    let mut body: Vec<u8> = kept.flat_map(|of| &of.request).copied().collect();
    if !settings.exports(signal) || (is_empty && body.is_empty()) {
        return Ok(());
    }
    let (head, new) = request.map_err(|e| (e, Bytes::new()))?.into_parts();
    let new = if is_empty { Bytes::new() } else { new };
    body.extend(&new);
    let request = Request::from_parts(head, body);
    let sent = timeout(limit, send(settings, signal, request, limit)).await;
    sent.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(ExportError::Later(format!("no answer within {limit}")))
    })
    .map_err(|e| (e, new))
}

/// Sends a request by the configured protocol. Over gRPC, OpenTelemetry's generated clients send the
/// same message.
async fn send(
    settings: &Telemetry,
    signal: Signal,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<(), ExportError> {
    if settings.protocol == Protocol::Http {
        return post(settings, request, limit).await;
    }
    let channel = channel(settings, signal, limit).await?;
    macro_rules! call {
        ($Client:ident, $Request:ident) => {{
            let (head, body) = request.into_parts();
            // Another version of the driver may have written the spool.
            let message = $Request::decode(&*body)
                .map_err(|_| ExportError::Never("what was kept is not a request".to_owned()))?;
            let metadata = MetadataMap::from_headers(head.headers);
            let request = tonic::Request::from_parts(metadata, Default::default(), message);
            $Client::new(channel).export(request).await.map(drop)
        }};
    }
    let answer = match signal {
        Signal::Traces => call!(TraceServiceClient, ExportTraceServiceRequest),
        Signal::Metrics => call!(MetricsServiceClient, ExportMetricsServiceRequest),
        Signal::Logs => call!(LogsServiceClient, ExportLogsServiceRequest),
    };
    answer.map_err(|status| refused(&status))
}

async fn post(
    settings: &Telemetry,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<(), ExportError> {
    let timeouts = HttpConnectorSettings::builder().connect_timeout(limit).read_timeout(limit);
    let trusted = match certificate(settings)? {
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
    let request = request.map(SdkBody::from).try_into().map_err(|_| {
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

async fn channel(
    settings: &Telemetry,
    signal: Signal,
    limit: Duration,
) -> Result<Channel, ExportError> {
    let address = settings.address(signal).unwrap_or_default();
    let is_secure = address.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(address)
        .map_err(|_| {
            ExportError::Never("the endpoint is not an address that gRPC takes".to_owned())
        })?
        .connect_timeout(limit);
    if is_secure {
        let tls = match certificate(settings)? {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        };
        endpoint = endpoint.tls_config(tls).map_err(|e| ExportError::Never(causes(&e)))?;
    }
    endpoint.connect().await.map_err(|e| ExportError::Later(causes(&e)))
}

/// Reads the CA's certificate, if one is configured.
fn certificate(settings: &Telemetry) -> Result<Option<Vec<u8>>, ExportError> {
    let Some(path) = &settings.certificate else { return Ok(None) };
    std::fs::read(path).map(Some).map_err(|e| {
        let path = path.display();
        ExportError::Never(format!("the certificate file {path} cannot be read: {e}"))
    })
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
