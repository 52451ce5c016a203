//! Sends OTLP/gRPC, by OpenTelemetry's generated clients.

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use prost::Message;
use tonic::{
    Code, Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{ExportError, causes};
use crate::telemetry::settings::{Settings, Signal};

pub(super) async fn send(
    settings: &Settings,
    signal: Signal,
    address: &str,
    request: &[u8],
) -> Result<(), ExportError> {
    let channel = connect(settings, address).await?;
    let answer = match signal {
        Signal::Traces => TraceServiceClient::new(channel)
            .export(decoded::<ExportTraceServiceRequest>(settings, request)?)
            .await
            .map(drop),
        Signal::Metrics => MetricsServiceClient::new(channel)
            .export(decoded::<ExportMetricsServiceRequest>(settings, request)?)
            .await
            .map(drop),
        Signal::Logs => LogsServiceClient::new(channel)
            .export(decoded::<ExportLogsServiceRequest>(settings, request)?)
            .await
            .map(drop),
    };
    answer.map_err(|status| refused(&status))
}

async fn connect(settings: &Settings, address: &str) -> Result<Channel, ExportError> {
    // An address without a scheme means TLS (OpenTelemetry, "OTLP Exporter Configuration",
    // `OTEL_EXPORTER_OTLP_INSECURE`: false).
    let address =
        if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let secure = address.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(address)
        .map_err(|_| {
            ExportError::Never("the endpoint is not an address that gRPC takes".to_owned())
        })?
        .connect_timeout(settings.flush_timeout);
    if secure {
        let tls = match &settings.certificate {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|e| {
                    ExportError::Never(format!(
                        "the certificate file {} cannot be read: {e}",
                        path.display()
                    ))
                })?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        endpoint = endpoint.tls_config(tls).map_err(|e| ExportError::Never(causes(&e)))?;
    }
    endpoint.connect().await.map_err(|e| ExportError::Later(causes(&e)))
}

fn decoded<M: Message + Default>(
    settings: &Settings,
    request: &[u8],
) -> Result<Request<M>, ExportError> {
    // Another version of the driver may have written the spool.
    let mut request = Request::new(
        M::decode(request)
            .map_err(|_| ExportError::Never("what was kept is not a request".to_owned()))?,
    );
    for (name, value) in &settings.headers {
        match (name.to_lowercase().parse::<AsciiMetadataKey>(), value.parse::<AsciiMetadataValue>())
        {
            (Ok(name), Ok(value)) => drop(request.metadata_mut().insert(name, value)),
            _ => return Err(ExportError::Never("a header is not one that gRPC takes".to_owned())),
        }
    }
    Ok(request)
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
