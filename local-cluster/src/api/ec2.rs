//! EC2's DescribeNetworkInterfaces, in its query protocol.

use percent_encoding::percent_decode_str;

use super::ApiError;
use crate::cluster::Cluster;

/// A form as the query protocol sends it.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Parses a form; invalid input is an empty form.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        Self(
            text.split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// Decodes a name or a value of a form.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Performs the only action.
pub(crate) fn perform(cluster: &Cluster, form: &Form) -> Result<String, ApiError> {
    if form.get("Action") != Some("DescribeNetworkInterfaces") {
        return Err(invalid_action(form.get("Action").unwrap_or_default()));
    }
    let mut items = String::new();
    for (_, id) in form.0.iter().filter(|(name, _)| name.starts_with("NetworkInterfaceId.")) {
        let task = cluster.all().into_iter().find(|task| task.interface == *id);
        let Some(task) = task else {
            return Err(ApiError::new(
                400,
                "InvalidNetworkInterfaceID.NotFound",
                format!("The networkInterface ID '{}' does not exist", escape(id)),
            ));
        };
        let address = task.address;
        // Loopback has no public addresses, so the task's own address is returned.
        let public = if task.launch.public {
            format!("<association><publicIp>{address}</publicIp></association>")
        } else {
            String::new()
        };
        items.push_str(&format!(
            "<item><networkInterfaceId>{id}</networkInterfaceId><status>in-use</status><privateIpAddress>{address}</privateIpAddress>{public}</item>"
        ));
    }
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><networkInterfaceSet>{items}</networkInterfaceSet></DescribeNetworkInterfacesResponse>"
    ))
}

/// The refusal of an action that a query service does not have.
pub(crate) fn invalid_action(action: &str) -> ApiError {
    let message = format!("The action {action} is not valid for this web service.");
    ApiError::new(400, "InvalidAction", message)
}

/// An error answer.
pub(crate) fn refusal(error: &ApiError) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors></Response>",
        escape(&error.code),
        escape(&error.message)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_forms() {
        let form = Form::parse(b"Action=X&a=1%2F2+3&b=%zz%4");
        assert_eq!(form.get("Action"), Some("X"));
        assert_eq!(form.get("a"), Some("1/2 3"));
        assert_eq!(form.get("b"), Some("%zz%4"));
    }
}
