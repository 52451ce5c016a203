//! Calls of services without their SDK: see `docs/decisions/0002-ec2-call.md`. Each is one signed
//! POST with the credentials for ECS.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningInstructions, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use states::ControlError;

use super::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, endpoint, errors,
    recording::{self, CallRecord, CallSpan},
};

/// Longest answer that is read, in bytes. Usual answers have a few thousand.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// One action of one service.
pub(super) struct SignedCall<'a> {
    /// Its name in messages.
    pub(super) operation: &'static str,
    /// Its name in host names and signatures.
    pub(super) service: &'static str,
    /// `Content-Type` and the protocol's other headers.
    pub(super) headers: &'a [(&'static str, &'static str)],
}

struct Answer {
    status: u16,
    request_id: Option<String>,
    body: Vec<u8>,
}

impl SignedCall<'_> {
    /// Makes the call. Returns the answer's HTTP status and body.
    pub(super) async fn post(
        &self,
        config: &SdkConfig,
        body: String,
    ) -> Result<(u16, Vec<u8>), ControlError> {
        let span = CallSpan::begin();
        let answer = self.ask(config, body).await;
        let error = match &answer {
            Ok(answer) if answer.status < 300 => None,
            Ok(answer) => {
                Some(recording::code(&answer.body).unwrap_or_else(|| answer.status.to_string()))
            }
            Err(_) => Some("no_answer".to_owned()),
        };
        span.end(CallRecord {
            service: &self.service.to_uppercase(),
            operation: self.operation,
            status: answer.as_ref().ok().map(|answer| answer.status),
            request_id: answer.as_ref().ok().and_then(|answer| answer.request_id.as_deref()),
            attempts: 1,
            error: error.as_deref(),
        });
        answer.map(|answer| (answer.status, answer.body))
    }

    async fn ask(&self, config: &SdkConfig, body: String) -> Result<Answer, ControlError> {
        let operation = self.operation;
        let region = config.region().ok_or_else(|| errors::no_region(operation))?.to_string();
        let endpoint = endpoint::of(config, operation, self.service, &region).await?;
        let unsignable = |e: &dyn std::error::Error| errors::unbuildable(operation, e);
        let instructions = signature(
            config,
            operation,
            self.service,
            "POST",
            &endpoint,
            self.headers,
            body.as_bytes(),
        )
        .await?;
        let mut request = http::Request::post(endpoint);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(SdkBody::from(body)).map_err(|e| unsignable(&e))?;
        instructions.apply_to_request_http1x(&mut request);
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(CALL_TIMEOUT)
            .build();
        // The SDK's own clients use the environment's proxies, too.
        let connector = Connector::builder()
            .connector_settings(settings)
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .proxy_config(ProxyConfig::from_env())
            .build();
        let answer = tokio::time::timeout(CALL_TIMEOUT, async {
            let request =
                request.try_into().map_err(|e| errors::unavailable(operation, &format!("{e}")))?;
            let answer = connector
                .call(request)
                .await
                .map_err(|e| errors::unavailable(operation, &errors::causes(&e)))?;
            let status = answer.status().as_u16();
            let request_id = answer.headers().get("x-amzn-requestid").map(str::to_owned);
            let mut parts = ByteStream::new(answer.into_body());
            let mut body = Vec::new();
            while let Some(part) = parts.next().await {
                body.extend_from_slice(
                    &part.map_err(|e| errors::unavailable(operation, &errors::causes(&e)))?,
                );
                if body.len() > LONGEST_ANSWER {
                    return Err(errors::nonsense(operation, "it is longer than a megabyte"));
                }
            }
            Ok(Answer { status, request_id, body })
        });
        answer.await.map_err(|_| errors::unavailable(operation, "it took too long"))?
    }
}

/// Signs a request (SigV4, by headers).
pub(super) async fn signature(
    config: &SdkConfig,
    operation: &str,
    service: &str,
    method: &str,
    url: &str,
    headers: &[(&'static str, &'static str)],
    body: &[u8],
) -> Result<SigningInstructions, ControlError> {
    let region = config.region().ok_or_else(|| errors::no_region(operation))?.to_string();
    let provider = config.credentials_provider().ok_or_else(|| errors::nowhere(operation))?;
    let identity = provider
        .provide_credentials()
        .await
        .map_err(|e| errors::no_credentials(operation, &e))?
        .into();
    let unsignable = |e: &dyn std::error::Error| errors::unbuildable(operation, e);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&region)
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| unsignable(&e))?
        .into();
    let signable =
        SignableRequest::new(method, url, headers.iter().copied(), SignableBody::Bytes(body))
            .map_err(|e| unsignable(&e))?;
    Ok(sign(signable, &parameters).map_err(|e| unsignable(&e))?.into_parts().0)
}
