//! Calls of services without their SDK: see `docs/decisions/0002-ec2-call.md`. Each is one signed
//! POST with the credentials for ECS, in one of two protocols: AWS's JSON 1.1, or its query
//! protocol, which answers in XML.

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
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use roxmltree::{Document, Node};
use serde_json::Value;
use states::ControlError;

use super::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, endpoint, errors,
    recording::{self, CallRecord, CallSpan},
};

/// Longest answer that is read, in bytes. Usual answers have a few thousand.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Calls a service by AWS's JSON 1.1 protocol. `target` is the action's full name in the protocol's
/// header, such as `AmazonSSM.DescribeSessions`.
///
/// # Errors
/// When there is no answer, or it is a refusal.
pub(super) async fn json(
    config: &SdkConfig,
    service: &'static str,
    target: &'static str,
    body: &Value,
) -> Result<Value, ControlError> {
    let operation = target.rsplit('.').next().unwrap_or(target);
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
    let call = SignedCall { operation, service, headers: &headers };
    let answer = call.post(config, body.to_string()).await?;
    read_json(operation, answer.status, &answer.body)
}

/// Reads an answer of the JSON protocol.
///
/// # Errors
/// When it is a refusal, or not JSON.
pub(super) fn read_json(operation: &str, status: u16, body: &[u8]) -> Result<Value, ControlError> {
    if status < 300 {
        // Some actions answer with nothing.
        let body = if body.is_empty() { b"{}" } else { body };
        return serde_json::from_slice(body)
            .map_err(|e| errors::nonsense(operation, &e.to_string()));
    }
    let refusal: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |names: [&str; 2]| {
        names.iter().find_map(|name| refusal.get(name)).and_then(Value::as_str).unwrap_or_default()
    };
    // Some services put their namespace in front of the code.
    let code = text(["__type", "code"]).rsplit('#').next().unwrap_or_default();
    Err(errors::query(operation, status, code, text(["message", "Message"])))
}

/// Calls a service by the query protocol, with these parameters, and returns its answer.
///
/// # Errors
/// When there is no answer.
pub(super) async fn query(
    config: &SdkConfig,
    (service, version): (&'static str, &'static str),
    action: &'static str,
    parameters: &[(String, String)],
) -> Result<Answer, ControlError> {
    let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let mut body = format!("Action={action}&Version={version}");
    for (name, value) in parameters {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        body.push_str(&format!("&{name}={value}"));
    }
    SignedCall { operation: action, service, headers: &headers }.post(config, body).await
}

/// Parses an answer of the query protocol.
///
/// # Errors
/// When it is a refusal, or not XML.
pub(super) fn read_xml<'a>(
    operation: &str,
    status: u16,
    text: &'a str,
) -> Result<Document<'a>, ControlError> {
    let document = Document::parse(text).map_err(|e| {
        if status >= 500 {
            errors::unavailable(operation, &format!("HTTP status {status}"))
        } else {
            errors::nonsense(operation, &e.to_string())
        }
    })?;
    if status < 300 {
        return Ok(document);
    }
    let find = |name| find_text(document.root(), name).unwrap_or_default();
    Err(errors::query(operation, status, find("Code"), find("Message")))
}

/// Returns the text of the first element of this name below the node.
pub(super) fn find_text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.descendants().find(|below| below.tag_name().name() == name).and_then(|found| found.text())
}

/// One action of one service.
struct SignedCall<'a> {
    /// Its name in messages.
    operation: &'static str,
    /// Its name in host names and signatures.
    service: &'static str,
    /// `Content-Type` and the protocol's other headers.
    headers: &'a [(&'static str, &'static str)],
}

/// What a service has answered.
pub(super) struct Answer {
    /// HTTP's status.
    pub(super) status: u16,
    request_id: Option<String>,
    /// The header `Date`: the service's clock.
    pub(super) date: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    /// Returns the body as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub(super) fn text(&self, operation: &str) -> Result<&str, ControlError> {
        std::str::from_utf8(&self.body).map_err(|e| errors::nonsense(operation, &e.to_string()))
    }
}

impl SignedCall<'_> {
    /// Makes the call.
    async fn post(&self, config: &SdkConfig, body: String) -> Result<Answer, ControlError> {
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
        answer
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
            let header = |name: &str| answer.headers().get(name).map(str::to_owned);
            let (request_id, date) = (header("x-amzn-requestid"), header("date"));
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
            Ok(Answer { status, request_id, date, body })
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
    let region = endpoint::signing_region(service, &region);
    let provider = config.credentials_provider().ok_or_else(|| errors::nowhere(operation))?;
    let identity = provider
        .provide_credentials()
        .await
        .map_err(|e| errors::no_credentials(operation, &e))?
        .into();
    let unsignable = |e: &dyn std::error::Error| errors::unbuildable(operation, e);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
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

#[cfg(test)]
mod tests {
    use states::ControlErrorKind as Kind;

    use super::*;

    #[test]
    fn throttling_of_json_services_is_transient() {
        let kind = |status, code: &str| {
            let body = serde_json::json!({ "__type": code, "message": "no" }).to_string();
            read_json("GenerateDataKey", status, body.as_bytes()).unwrap_err().kind
        };
        for (status, code) in [
            (400, "ThrottlingException"),
            (400, "com.amazonaws#ExpiredTokenException"),
            (500, "KMSInternalException"),
            (503, "DependencyTimeoutException"),
            (502, ""),
        ] {
            assert!(kind(status, code).is_transient(), "{code}");
        }
        for code in ["AccessDeniedException", "DisabledException", "NotFoundException"] {
            assert!(!kind(400, code).is_transient(), "{code}");
        }
    }

    #[test]
    fn answers_of_the_json_protocol_are_json_or_empty() {
        assert_eq!(read_json("X", 200, b"").unwrap(), serde_json::json!({}));
        assert_eq!(read_json("X", 200, b"<html>").unwrap_err().kind, Kind::BadAnswer);
    }

    #[test]
    fn refusals_of_the_query_protocol_have_their_code() {
        let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>The role with name x cannot be found.</Message></Error></ErrorResponse>";
        let error = read_xml("GetRole", 404, refusal).unwrap_err();
        assert_eq!(error.code.as_deref(), Some("NoSuchEntity"));
        assert_eq!(read_xml("GetRole", 503, "<html").unwrap_err().kind, Kind::Unavailable);
        assert_eq!(read_xml("GetRole", 200, "no").unwrap_err().kind, Kind::BadAnswer);
    }
}
