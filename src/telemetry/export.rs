//! Exports what was recorded. OpenTelemetry's exporters encode and address the requests, and
//! [`send`] sends them.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_types::body::SdkBody;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
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
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::{sleep, timeout};
use tonic::{
    Code,
    metadata::MetadataMap,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::{
    recorder::{Recorder, recorder, scope},
    spool::{self, Spooled},
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
    if let Some(recorder) = recorder() {
        export(recorder, recorder.settings.flush_timeout, false).await;
    }
}

/// Exports what the service records until the service ends. No stage waits for it. [`flush`]
/// exports the rest.
pub async fn export_in_batches() {
    let Some(recorder) = recorder() else { return };
    let (limit, mut is_troubled) = (recorder.settings.flush_timeout.max(WITHIN), false);
    loop {
        tokio::select! {
            () = recorder.half_full.notified() => {}
            () = recorder.job_ended.notified(), if !is_troubled => {}
            () = sleep(if is_troubled { AGAIN } else { EVERY }) => {}
        }
        if recorder.is_ending.load(Ordering::Relaxed) {
            return;
        }
        is_troubled = export(recorder, limit, is_troubled).await;
    }
}

/// Exports what could not be sent before, with what was recorded, within this time. Returns whether
/// something is wrong, which it logs. `again`: it was wrong before, too.
async fn export(recorder: &Recorder, limit: Duration, again: bool) -> bool {
    let _one_at_a_time = recorder.exporting.lock().await;
    let (settings, spool) = (&recorder.settings, recorder.spool().clone());
    let mut requests = spool.as_deref().map(spool::read).unwrap_or_default();
    let kept = requests.len();
    let [traces, metrics, logs] = encoded(recorder).await.map(|(signal, is_empty, request)| {
        if let (false, Ok(request)) = (is_empty, &request) {
            requests.push(Spooled::new(signal, request.body().to_vec()));
        }
        // A request is one repeated field, so one after the other is one request (Protocol Buffers,
        // "Encoding", "Last One Wins").
        let of_signal = requests.iter().filter(|of| of.is_of(signal));
        let body: Vec<u8> = of_signal.flat_map(|of| &of.request).copied().collect();
        async move {
            if !settings.exports(signal) || (is_empty && body.is_empty()) {
                return Ok(());
            }
            let sent = timeout(limit, send(settings, signal, request?.map(|_| body))).await;
            let limit = humantime::format_duration(limit);
            sent.unwrap_or_else(|_| Err(ExportError::Later(format!("no answer within {limit}"))))
        }
    });
    let sent = tokio::join!(traces, metrics, logs);
    let sent = [(Signal::Traces, sent.0), (Signal::Metrics, sent.1), (Signal::Logs, sent.2)];
    requests.retain(|of| {
        let mut of_signal = sent.iter().filter(|(signal, _)| of.is_of(*signal));
        of_signal.any(|(_, sent)| matches!(sent, Err(ExportError::Later(_))))
    });
    let mut problems: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (signal, sent) in &sent {
        if let Err(ExportError::Later(why) | ExportError::Never(why)) = sent {
            let address = settings.address(*signal).unwrap_or_default();
            problems.entry(format!("{}: {why}", origin(&address))).or_default().push(signal.name());
        }
    }
    let outcome = match requests.len() {
        0 => "it is dropped",
        _ if recorder.of_service => "it is kept",
        _ if recorder.has_ended_job.load(Ordering::Relaxed) => "it is kept for `fargate reap`",
        _ => "it is kept for the job's next process",
    };
    let left_out = match &spool {
        Some(path) if kept > 0 || !requests.is_empty() => {
            spool::settle(path, kept, requests, recorder.of_service)
        }
        Some(_) => 0,
        None => requests.len(),
    };
    if left_out > 0 {
        tracing::warn!(
            "{left_out} requests of telemetry are dropped: there is no room to keep them"
        );
    }
    let problems: Vec<String> =
        problems.iter().map(|(why, signals)| format!("{} to {why}", signals.join(", "))).collect();
    let all = problems.join("; ");
    match problems.len() {
        0 if again => tracing::info!("the collector takes telemetry again"),
        0 => {}
        _ if again => tracing::debug!("telemetry was not taken by the collector: {all}; {outcome}"),
        _ => tracing::warn!(
            "telemetry was not taken by the collector: {all}; {outcome}. No job is affected."
        ),
    }
    !problems.is_empty()
}

/// A signal, whether nothing of it was recorded, and its request.
type Encoded = (Signal, bool, Result<Request<Bytes>, ExportError>);

/// Returns the requests with what was recorded.
async fn encoded(recorder: &Recorder) -> [Encoded; 3] {
    let (spans, metrics, lines) = recorder.take();
    let (settings, resource, scope) = (&recorder.settings, &recorder.resource, scope());
    let lines: Vec<_> = lines.iter().map(|line| (line, &scope)).collect();
    // `with_headers` percent-decodes values, as those of the environment variable are.
    let headers = settings.headers.iter().map(|(name, of)| (name.clone(), of.replace('%', "%25")));
    let headers: HashMap<_, _> = headers.collect();
    macro_rules! encoded {
        ($signal:expr, $is_empty:expr, $Exporter:ident, |$exporter:ident| $exported:expr) => {{
            let (is_empty, captured) = ($is_empty, Captured::default());
            let built = $Exporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_http_client(captured.clone())
                .with_endpoint(settings.address($signal).unwrap_or_default())
                .with_headers(headers.clone())
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

/// Sends a request by the configured protocol. Over gRPC, OpenTelemetry's generated clients send the
/// same message.
async fn send(
    settings: &Telemetry,
    signal: Signal,
    request: Request<Vec<u8>>,
) -> Result<(), ExportError> {
    // The system's certificates are many: they are only read where they are needed.
    let is_secure = request.uri().scheme_str() == Some("https");
    let certificate = match &settings.certificate {
        Some(path) if is_secure => Some(certificates(path).map_err(|e| {
            never(format!("the certificate file {} cannot be used: {e}", path.display()))
        })?),
        _ => None,
    };
    if settings.protocol == Protocol::Http {
        let trusted = match certificate {
            Some(pem) => TrustStore::empty().with_pem_certificate(pem),
            None => TrustStore::empty().with_native_roots(is_secure),
        };
        return post(request, trusted).await;
    }
    let mut endpoint = Endpoint::from(request.uri().clone());
    if is_secure {
        let tls = match certificate {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls).map_err(|e| never(causes(&e)))?;
    }
    let channel = endpoint.connect().await.map_err(|e| ExportError::Later(causes(&e)))?;
    macro_rules! call {
        ($Client:ident, $Request:ident) => {{
            let (head, body) = request.into_parts();
            // Another version of the driver may have written the spool.
            let message = $Request::decode(&*body)
                .map_err(|_| never("what was kept is not a request".to_owned()))?;
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
    answer.map_err(|status| {
        let why = format!("gRPC status {:?}", status.code());
        match status.code() {
            // OTLP/gRPC, "Failures".
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // The connection ended early, or the server does not speak gRPC.
            | Code::Unknown
            | Code::Internal => ExportError::Later(why),
            _ => never(why),
        }
    })
}

/// Reads certificates, and checks them: AWS's HTTP client panics if one is not valid.
fn certificates(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let (pem, mut roots) = (fs::read(path)?, RootCertStore::empty());
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    Ok(pem)
}

async fn post(request: Request<Vec<u8>>, trusted: TrustStore) -> Result<(), ExportError> {
    let tls = TlsContext::builder().with_trust_store(trusted).build();
    let connector = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls.map_err(|e| never(causes(&e)))?)
        .build();
    // The address's query may hold a secret, so messages do not repeat it.
    let request = request
        .map(SdkBody::from)
        .try_into()
        .map_err(|_| never("the endpoint is not an address that HTTP takes".to_owned()))?;
    let answer = connector.call(request).await.map_err(|e| ExportError::Later(causes(&e)))?;
    match answer.status().as_u16() {
        200..=299 => Ok(()),
        // OTLP/HTTP, "Retryable Response Codes".
        code @ (408 | 429 | 502..=504) => Err(ExportError::Later(format!("HTTP status {code}"))),
        code => Err(never(format!("HTTP status {code}"))),
    }
}

fn never(why: String) -> ExportError {
    ExportError::Never(why)
}

/// Formats an error with its causes.
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
