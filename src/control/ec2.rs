//! EC2's DescribeNetworkInterfaces, the one EC2 call that is needed: for a task's public address.
//!
//! `aws-sdk-ec2` would serve, at a price out of proportion: see `docs/decisions/0002-ec2-call.md`.
//! So the request is made here, with the credentials that ECS is called with and the SDK's own crates
//! for signing and HTTP. The protocol is EC2's query protocol (Amazon EC2 API reference, "Query requests"); the answer is XML.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use states::{ControlError, InterfaceId};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT, errors};
use crate::telemetry::{self, aws::Call, span};

const OPERATION: &str = "DescribeNetworkInterfaces";
/// Longest answer that is read, in bytes: one interface takes some three thousand.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// The interface's public address, once it has one.
pub(super) async fn public_address(config: &SdkConfig, interface: &InterfaceId) -> Result<Option<String>, ControlError> {
    let Some(recorder) = telemetry::recorder() else { return ask(config, interface, &mut Answer::default()).await };
    let (start, mut answer) = (span::now(), Answer::default());
    let result = ask(config, interface, &mut answer).await;
    let error = match (&result, answer.status) {
        (Ok(_), _) => None,
        (Err(_), Some(status)) if status >= 300 => Some(answer.code.unwrap_or_else(|| status.to_string())),
        (Err(_), Some(_)) => Some("bad_answer".to_owned()),
        (Err(_), None) => Some("no_answer".to_owned()),
    };
    let (status, request_id) = (answer.status, answer.request_id.as_deref());
    Call { service: "EC2", operation: OPERATION, start, status, request_id, attempts: 1, error }.record(recorder);
    result
}

/// What is told of an answer.
#[derive(Debug, Default)]
struct Answer {
    status: Option<u16>,
    request_id: Option<String>,
    /// EC2's code, of a refusal.
    code: Option<String>,
}

async fn ask(config: &SdkConfig, interface: &InterfaceId, told: &mut Answer) -> Result<Option<String>, ControlError> {
    let region = config.region().ok_or_else(|| errors::no_region(OPERATION))?.to_string();
    let endpoint = endpoint(config, &region);
    let body = format!("Action={OPERATION}&Version=2016-11-15&NetworkInterfaceId.1={interface}");
    let request = signed(config, &endpoint, &region, body).await?;
    let connector = Connector::builder()
        .connector_settings(
            aws_smithy_runtime_api::client::http::HttpConnectorSettings::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(CALL_TIMEOUT)
                .build(),
        )
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build();
    let answer = tokio::time::timeout(CALL_TIMEOUT, async {
        let request = request.try_into().map_err(|e| errors::unavailable(OPERATION, &format!("{e}")))?;
        let answer = connector.call(request).await.map_err(|e| errors::unavailable(OPERATION, &errors::causes(&e)))?;
        let status = answer.status().as_u16();
        let mut parts = ByteStream::new(answer.into_body());
        let mut body = Vec::new();
        while let Some(part) = parts.next().await {
            body.extend_from_slice(&part.map_err(|e| errors::unavailable(OPERATION, &errors::causes(&e)))?);
            if body.len() > LONGEST_ANSWER {
                return Err(errors::nonsense(OPERATION, "it is longer than a megabyte"));
            }
        }
        Ok((status, body))
    });
    let (status, body) = answer.await.map_err(|_| errors::unavailable(OPERATION, "it took too long"))??;
    told.status = Some(status);
    let text = std::str::from_utf8(&body).map_err(|e| errors::nonsense(OPERATION, &e.to_string()))?;
    if let Ok(document) = roxmltree::Document::parse(text) {
        // Elements of EC2's are identifiers; what is anything else is not handed on.
        let identifier = |name: &str| {
            let text = document.descendants().find(|n| n.tag_name().name().eq_ignore_ascii_case(name))?.text()?.trim();
            (text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')).then(|| text.to_owned())
        };
        (told.request_id, told.code) = (identifier("requestId"), identifier("Code"));
    }
    read(status, text)
}

/// `AWS_ENDPOINT_URL_EC2`, then `AWS_ENDPOINT_URL`, then AWS's own.
fn endpoint(config: &SdkConfig, region: &str) -> String {
    let own = std::env::var("AWS_ENDPOINT_URL_EC2").ok().filter(|url| !url.is_empty());
    let endpoint = own.or_else(|| config.endpoint_url().map(str::to_owned)).unwrap_or_else(|| {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://ec2.{region}.{suffix}")
    });
    format!("{}/", endpoint.trim_end_matches('/'))
}

async fn signed(config: &SdkConfig, endpoint: &str, region: &str, body: String) -> Result<http::Request<SdkBody>, ControlError> {
    const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
    let provider = config.credentials_provider().ok_or_else(|| errors::no_credentials(OPERATION, "no provider is configured"))?;
    let identity = provider.provide_credentials().await.map_err(|e| errors::no_credentials(OPERATION, &errors::causes(&e)))?.into();
    let unsignable = |e: &dyn std::error::Error| errors::unbuildable(OPERATION, e);
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("ec2")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| unsignable(&e))?
        .into();
    let headers = [("content-type", FORM)];
    let signable =
        SignableRequest::new("POST", endpoint, headers.into_iter(), SignableBody::Bytes(body.as_bytes())).map_err(|e| unsignable(&e))?;
    let (instructions, _) = sign(signable, &parameters).map_err(|e| unsignable(&e))?.into_parts();
    let mut request = http::Request::post(endpoint).header("content-type", FORM).body(SdkBody::from(body)).map_err(|e| unsignable(&e))?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// Reads EC2's answer.
fn read(status: u16, text: &str) -> Result<Option<String>, ControlError> {
    let document = roxmltree::Document::parse(text).map_err(|e| {
        if status >= 500 {
            errors::unavailable(OPERATION, &format!("HTTP status {status}"))
        } else {
            errors::nonsense(OPERATION, &e.to_string())
        }
    })?;
    let find = |name: &str| document.descendants().find(|n| n.tag_name().name() == name).and_then(|n| n.text());
    if status >= 300 {
        let code = find("Code").unwrap_or_default();
        // EC2 learns of a new interface later than ECS does (eventual consistency): not yet is not never.
        if code == "InvalidNetworkInterfaceID.NotFound" {
            return Ok(None);
        }
        return Err(errors::query(OPERATION, status, code, find("Message").unwrap_or_default()));
    }
    let association = document.descendants().find(|n| n.tag_name().name() == "association");
    let address = association.and_then(|a| a.descendants().find(|n| n.tag_name().name() == "publicIp")).and_then(|n| n.text());
    Ok(address.map(|a| a.trim().to_owned()).filter(|a| a.parse::<std::net::IpAddr>().is_ok()))
}

#[cfg(test)]
mod tests {
    use states::ControlErrorKind;

    use super::*;

    const ANSWER: &str = r#"<?xml version="1.0"?><DescribeNetworkInterfacesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><networkInterfaceSet><item>
        <networkInterfaceId>eni-1</networkInterfaceId><association><publicIp>203.0.113.7</publicIp></association></item></networkInterfaceSet></DescribeNetworkInterfacesResponse>"#;

    #[test]
    fn reads_the_public_address() {
        assert_eq!(read(200, ANSWER).unwrap().as_deref(), Some("203.0.113.7"));
        assert_eq!(read(200, &ANSWER.replace("association>", "other>")).unwrap(), None, "not associated yet");
        assert_eq!(read(200, &ANSWER.replace("203.0.113.7", "evil; rm")).unwrap(), None, "not an address");
    }

    #[test]
    fn reads_refusals() {
        let refusal = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>";
        assert_eq!(read(403, refusal).unwrap_err().kind, ControlErrorKind::Denied);
        let unknown = refusal.replace("UnauthorizedOperation", "InvalidNetworkInterfaceID.NotFound");
        assert_eq!(read(400, &unknown).unwrap(), None, "not known to EC2 yet");
        assert_eq!(read(503, "<html").unwrap_err().kind, ControlErrorKind::Unavailable);
        assert_eq!(read(200, "nonsense").unwrap_err().kind, ControlErrorKind::BadAnswer);
    }
}
