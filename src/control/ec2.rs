//! EC2's DescribeNetworkInterfaces, which returns a task's public address.
//!
//! `aws-sdk-ec2` is too large for one call: see `docs/decisions/0002-ec2-call.md`. So the request
//! is made here, with the credentials for ECS and the SDK's own crates for signing and HTTP. The
//! protocol is EC2's query protocol (Amazon EC2 API reference, "Query requests"); the answer is
//! XML.

use aws_config::SdkConfig;
use roxmltree::Document;
use states::{ControlError, InterfaceId};

use super::call;

/// The service's name, and the version of its API.
pub(super) const EC2: (&str, &str) = ("ec2", "2016-11-15");

const OPERATION: &str = "DescribeNetworkInterfaces";

/// Returns the interface's public address, once it has one.
pub(super) async fn public_address(
    config: &SdkConfig,
    interface: &InterfaceId,
) -> Result<Option<String>, ControlError> {
    let parameters = [("NetworkInterfaceId.1".to_owned(), interface.to_string())];
    let answer = call::query(config, EC2, OPERATION, &parameters).await?;
    read(answer.status, answer.text(OPERATION)?)
}

/// Reads EC2's answer.
///
/// # Errors
/// When it is a refusal, or not an answer of EC2's.
pub fn read(status: u16, text: &str) -> Result<Option<String>, ControlError> {
    match call::read_xml(OPERATION, status, text) {
        Ok(document) => Ok(address(&document)),
        // EC2 learns of a new interface later than ECS does (eventual consistency), so this is
        // transient.
        Err(error) if error.code.as_deref() == Some("InvalidNetworkInterfaceID.NotFound") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn address(document: &Document<'_>) -> Option<String> {
    let root = document.root();
    let association = document.descendants().find(|n| n.tag_name().name() == "association");
    let public = association.and_then(|association| call::find_text(association, "publicIp"));
    // An interface in a subnet with IPv6 alone never gets a public IPv4 address: its IPv6 address
    // is the public one.
    let address = public.or_else(|| match call::find_text(root, "privateIpAddress") {
        None => call::find_text(root, "ipv6Address"),
        Some(_) => None,
    });
    address.map(|a| a.trim().to_owned()).filter(|a| a.parse::<std::net::IpAddr>().is_ok())
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
