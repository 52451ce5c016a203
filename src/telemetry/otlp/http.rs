//! Sends OTLP/HTTP with binary Protobuf (OpenTelemetry protocol specification, "OTLP/HTTP"), by the
//! AWS SDK's HTTP client.

use std::time::Duration;

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_types::body::SdkBody;

use super::{ExportError, causes};
use crate::telemetry::settings::Settings;

pub(super) async fn send(
    settings: &Settings,
    address: &str,
    request: &[u8],
) -> Result<(), ExportError> {
    let mut builder = http::Request::post(address)
        .header("content-type", "application/x-protobuf")
        .header("user-agent", concat!("fargate-driver/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &settings.headers {
        builder = builder.header(name, value);
    }
    // The address's query may hold a secret, so messages do not repeat it.
    let request = builder
        .body(SdkBody::from(request.to_vec()))
        .map_err(|_| {
            ExportError::Never("the endpoint or a header is not one that HTTP takes".to_owned())
        })?
        .try_into()
        .map_err(|_| {
            ExportError::Never("the endpoint is not an address that HTTP takes".to_owned())
        })?;
    let patience = Duration::from_secs(10).min(settings.flush_timeout);
    let connector = Connector::builder()
        .connector_settings(
            HttpConnectorSettings::builder()
                .connect_timeout(patience)
                .read_timeout(patience)
                .build(),
        )
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls(settings)?)
        .build();
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

fn tls(settings: &Settings) -> Result<TlsContext, ExportError> {
    let store = match &settings.certificate {
        None => TrustStore::default(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| {
                ExportError::Never(format!(
                    "the certificate file {} cannot be read: {e}",
                    path.display()
                ))
            })?;
            TrustStore::empty().with_pem_certificate(pem)
        }
    };
    TlsContext::builder().with_trust_store(store).build().map_err(|e| {
        ExportError::Never(format!("the certificate file cannot be used: {}", causes(&e)))
    })
}
