//! The JSON in the data channel: the opening message, acknowledgements, the handshake, the closing
//! message.

use serde::{Deserialize, Serialize};

use super::frame::{Kind, MessageId};

/// The version of AWS's client that this one behaves like: a service may require a minimum.
pub(super) const CLIENT_VERSION: &str = "1.2.764.0";

/// The first message, the only one that is sent as text.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Open<'a> {
    message_schema_version: &'a str,
    request_id: &'a str,
    token_value: &'a str,
    client_id: &'a str,
    client_version: &'a str,
}

pub(super) fn open(token: &str, request: &str, client: &str) -> String {
    let open = Open {
        message_schema_version: "1.0",
        request_id: request,
        token_value: token,
        client_id: client,
        client_version: CLIENT_VERSION,
    };
    // Serializing plain strings cannot fail.
    serde_json::to_string(&open).unwrap_or_else(|e| unreachable!("{e}"))
}

/// Formats an acknowledgement's payload. It is always "sequential", as with both AWS's peers.
pub(super) fn acknowledgement(kind: &Kind, id: MessageId, sequence: i64) -> String {
    let kind = if *kind == Kind::Input { "input_stream_data" } else { "output_stream_data" };
    format!(
        r#"{{"AcknowledgedMessageType":"{kind}","AcknowledgedMessageId":"{}","AcknowledgedMessageSequenceNumber":{sequence},"IsSequentialMessage":true}}"#,
        id.hyphenated()
    )
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Acknowledged {
    #[serde(rename = "AcknowledgedMessageSequenceNumber")]
    pub(super) sequence: i64,
    #[serde(rename = "AcknowledgedMessageId", default)]
    pub(super) id: String,
}

/// The agent's requests.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Request {
    #[serde(default)]
    pub(super) requested_client_actions: Vec<Action>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Action {
    pub(super) action_type: String,
    #[serde(default)]
    pub(super) action_parameters: serde_json::Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Response {
    pub(super) client_version: &'static str,
    pub(super) processed_client_actions: Vec<Processed>,
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Processed {
    pub(super) action_type: String,
    pub(super) action_status: u8,
    pub(super) action_result: serde_json::Value,
    pub(super) error: String,
}

pub(super) const SUCCESS: u8 = 1;
pub(super) const FAILED: u8 = 2;
pub(super) const UNSUPPORTED: u8 = 3;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Challenge {
    /// Base64, as Go writes bytes.
    pub(super) challenge: String,
}

/// `channel_closed`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChannelClosed {
    #[serde(default)]
    pub(super) output: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_match_the_agents_format() {
        let open = open("secret", "r", "c");
        assert_eq!(
            open,
            r#"{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"secret","ClientId":"c","ClientVersion":"1.2.764.0"}"#
        );
        let id = MessageId([0x11; 16]);
        let text = acknowledgement(&Kind::Output, id, 5);
        assert_eq!(
            text,
            r#"{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"11111111-1111-1111-1111-111111111111","AcknowledgedMessageSequenceNumber":5,"IsSequentialMessage":true}"#
        );
        let read: Acknowledged = serde_json::from_str(&text).unwrap();
        assert_eq!((read.sequence, MessageId::parse(&read.id)), (5, Some(id)));
    }
}
