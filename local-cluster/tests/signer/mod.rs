//! Signs requests with AWS's own signer.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign as sign_request},
    sign::v4,
};

/// Headers of a request.
pub type Headers = Vec<(&'static str, String)>;

/// An access key, and when and for which service it is used.
#[derive(Clone)]
pub struct Signer<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub service: &'a str,
    pub at: SystemTime,
}

impl Signer<'_> {
    /// The headers that sign a request to `url`, which has these other headers and this body.
    pub fn sign(
        &self,
        method: &str,
        url: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Headers {
        let identity =
            Credentials::from_keys(self.access_key_id, self.secret_access_key, None).into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name(self.service)
            .time(self.at)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let request =
            SignableRequest::new(method, url, headers, SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign_request(request, &parameters).unwrap().into_parts();
        ["authorization", "x-amz-date"]
            .into_iter()
            .map(|name| {
                (
                    name,
                    instructions.headers().find(|(given, _)| *given == name).unwrap().1.to_owned(),
                )
            })
            .collect()
    }
}
