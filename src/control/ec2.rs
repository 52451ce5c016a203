//! EC2's DescribeNetworkInterfaces, which returns a task's public address.
//!
//! `aws-sdk-ec2` is too large for one call: see `docs/decisions/0002-ec2-call.md`. So the request
//! is made here, with the credentials for ECS and the SDK's own crates for signing and HTTP. The
//! protocol is EC2's query protocol (Amazon EC2 API reference, "Query requests"); the answer is
//! XML.

use aws_config::SdkConfig;
use states::{ControlError, InterfaceId};

use super::{call::SignedCall, errors};

const OPERATION: &str = "DescribeNetworkInterfaces";

/// Returns the interface's public address, once it has one.
pub(super) async fn public_address(
    config: &SdkConfig,
    interface: &InterfaceId,
) -> Result<Option<String>, ControlError> {
    let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let body = format!("Action={OPERATION}&Version=2016-11-15&NetworkInterfaceId.1={interface}");
    let (status, body) = SignedCall { operation: OPERATION, service: "ec2", headers: &headers }
        .post(config, body)
        .await?;
    let text =
        std::str::from_utf8(&body).map_err(|e| errors::nonsense(OPERATION, &e.to_string()))?;
    read(status, text)
}

/// Reads EC2's answer.
///
/// # Errors
/// When it is a refusal, or not an answer of EC2's.
pub fn read(status: u16, text: &str) -> Result<Option<String>, ControlError> {
    let document = roxmltree::Document::parse(text).map_err(|e| {
        if status >= 500 {
            errors::unavailable(OPERATION, &format!("HTTP status {status}"))
        } else {
            errors::nonsense(OPERATION, &e.to_string())
        }
    })?;
    let find = |name: &str| {
        document.descendants().find(|n| n.tag_name().name() == name).and_then(|n| n.text())
    };
    if status >= 300 {
        let code = find("Code").unwrap_or_default();
        // EC2 learns of a new interface later than ECS does (eventual consistency), so this is
        // transient.
        if code == "InvalidNetworkInterfaceID.NotFound" {
            return Ok(None);
        }
        return Err(errors::query(OPERATION, status, code, find("Message").unwrap_or_default()));
    }
    let association = document.descendants().find(|n| n.tag_name().name() == "association");
    let public = association
        .and_then(|a| a.descendants().find(|n| n.tag_name().name() == "publicIp"))
        .and_then(|n| n.text());
    // An interface in a subnet with IPv6 alone never gets a public IPv4 address: its IPv6 address
    // is the public one.
    let address = public
        .or_else(|| if find("privateIpAddress").is_none() { find("ipv6Address") } else { None });
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
        assert_eq!(
            read(200, &ANSWER.replace("association>", "other>")).unwrap(),
            None,
            "not associated yet"
        );
        assert_eq!(
            read(200, &ANSWER.replace("203.0.113.7", "evil; rm")).unwrap(),
            None,
            "not an address"
        );
        let ipv6 = "<ipv6AddressesSet><item><ipv6Address>2001:db8::1</ipv6Address></item></ipv6AddressesSet>";
        let alone =
            ANSWER.replace("<association><publicIp>203.0.113.7</publicIp></association>", ipv6);
        assert_eq!(
            read(200, &alone).unwrap().as_deref(),
            Some("2001:db8::1"),
            "a subnet with IPv6 alone"
        );
        let both = alone.replace(
            "<ipv6AddressesSet>",
            "<privateIpAddress>10.0.0.1</privateIpAddress><ipv6AddressesSet>",
        );
        assert_eq!(read(200, &both).unwrap(), None, "its IPv4 address may be associated later");
    }

    #[test]
    fn reads_refusals() {
        let refusal = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>";
        assert_eq!(read(403, refusal).unwrap_err().kind, ControlErrorKind::Denied);
        let unknown =
            refusal.replace("UnauthorizedOperation", "InvalidNetworkInterfaceID.NotFound");
        assert_eq!(read(400, &unknown).unwrap(), None, "not known to EC2 yet");
        assert_eq!(read(503, "<html").unwrap_err().kind, ControlErrorKind::Unavailable);
        assert_eq!(read(200, "nonsense").unwrap_err().kind, ControlErrorKind::BadAnswer);
    }
}
