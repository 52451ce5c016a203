//! A cluster's credentials, and the check of requests signed with them.
//!
//! AWS Signature Version 4 by headers, as AWS's SDKs send it (AWS General Reference, "Signature
//! Version 4 signing process"). The driver signs with `aws-sigv4`, which only signs; AWS's side,
//! the check, is here. Presigned queries and chunked payloads are not accepted: no client of the
//! cluster sends them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use hyper::{
    Method, Uri,
    header::{AUTHORIZATION, HeaderMap},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::{api::ec2::decode, ids::random_id};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a request's date may be from the clock, either way (AWS allows five minutes).
const MOST_SKEW: Duration = Duration::from_secs(300);

/// An access key. Its owner can run processes as the cluster's user.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`, 160 random bits; also the bearer token of the cluster's own
    /// endpoints (`/_faults` …).
    pub secret_access_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Returns a new access key.
    #[must_use]
    pub fn random() -> Self {
        Self {
            access_key_id: format!("AKIA{}", random_id(8).to_uppercase()),
            secret_access_key: random_id(20),
        }
    }

    /// Checks that a request to `service` was signed recently with these credentials.
    pub(crate) fn verify(
        &self,
        request: &Signed<'_>,
        service: &str,
        now: SystemTime,
    ) -> Result<(), Unverified> {
        let authorization = match request.headers.get(AUTHORIZATION) {
            Some(value) => value.to_str().map_err(|_| Unverified::Incomplete("Authorization"))?,
            None => return Err(Unverified::Missing),
        };
        let fields = authorization
            .strip_prefix(ALGORITHM)
            .ok_or(Unverified::Incomplete("AWS4-HMAC-SHA256"))?;
        let field = |name: &'static str| {
            fields
                .split(',')
                .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
                .ok_or(Unverified::Incomplete(name))
        };
        let (credential, signed_headers, signature) =
            (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
        let (access_key_id, scope) =
            credential.split_once('/').ok_or(Unverified::Incomplete("Credential"))?;
        let [day, region, scoped_to, "aws4_request"] = *scope.split('/').collect::<Vec<_>>() else {
            return Err(Unverified::Incomplete("Credential"));
        };
        if access_key_id != self.access_key_id {
            return Err(Unverified::UnknownKey);
        }
        let date = request
            .headers
            .get("x-amz-date")
            .and_then(|date| date.to_str().ok())
            .ok_or(Unverified::Incomplete("X-Amz-Date"))?;
        let at = parse(date).ok_or(Unverified::Incomplete("X-Amz-Date"))?;
        if at
            .duration_since(now)
            .or_else(|_| now.duration_since(at))
            .is_ok_and(|skew| skew > MOST_SKEW)
        {
            return Err(Unverified::Expired(date.to_owned()));
        }
        if scoped_to != service || !date.starts_with(day) {
            return Err(Unverified::WrongScope(service.to_owned()));
        }
        let names: Vec<&str> = signed_headers.split(';').collect();
        // Unsigned parts could have been changed in transit.
        if !names.contains(&"host") || !names.contains(&"x-amz-date") {
            return Err(Unverified::Incomplete("SignedHeaders"));
        }
        let canonical = request.canonical(&names, signed_headers);
        let to_sign =
            format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let key = [day, region, scoped_to, "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", self.secret_access_key).into_bytes(), |key, part| {
                tag(&key, part.as_bytes())
            });
        let expected = hex::encode(tag(&key, to_sign.as_bytes()));
        verify_slices_are_equal(expected.as_bytes(), signature.as_bytes())
            .map_err(|_| Unverified::WrongSignature)
    }

    /// Whether a request to one of the cluster's own endpoints carries the secret: `Authorization:
    /// Bearer …`.
    pub(crate) fn are_borne_by(&self, headers: &HeaderMap) -> bool {
        let token =
            headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        token.is_some_and(|token| {
            verify_slices_are_equal(token, self.secret_access_key.as_bytes()).is_ok()
        })
    }
}

/// Why a request is not authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// It is not signed.
    Missing,
    /// Its signature is incomplete.
    Incomplete(&'static str),
    /// It is signed with another access key.
    UnknownKey,
    /// Its date is too far from now.
    Expired(String),
    /// It is signed for another service or day than this.
    WrongScope(String),
    /// The secret is another one, or the request was changed.
    WrongSignature,
}

/// The parts of a request that its signature covers.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Signed<'_> {
    /// Returns the canonical request.
    fn canonical(&self, names: &[&str], signed_headers: &str) -> String {
        let mut headers = String::new();
        for name in names {
            let values = self.headers.get_all(*name).into_iter().map(|value| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            headers.push_str(&format!("{name}:{}\n", values.collect::<Vec<_>>().join(",")));
        }
        // Paths are encoded twice, except for S3: once by the client, once here.
        let path: String = self.uri.path().split('/').map(encoded).collect::<Vec<_>>().join("/");
        let mut query: Vec<String> = self
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                // AWS's signers read a query as a form, in which `+` is a space.
                format!("{}={}", encoded(&decode(name)), encoded(&decode(value)))
            })
            .collect();
        query.sort();
        let digest = hex::encode(Sha256::digest(self.body));
        format!(
            "{}\n{path}\n{}\n{headers}\n{signed_headers}\n{digest}",
            self.method,
            query.join("&")
        )
    }
}

fn tag(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// Percent-encodes all but the characters that RFC 3986 calls unreserved.
fn encoded(text: &str) -> String {
    const RESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Parses `X-Amz-Date`: `20240501T000000Z`.
fn parse(date: &str) -> Option<SystemTime> {
    if date.len() != 16 || !date.is_ascii() || &date[8..9] != "T" || &date[15..] != "Z" {
        return None;
    }
    let number = |from: usize, to: usize| {
        date[from..to]
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| date[from..to].parse::<u64>().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since the epoch in the Gregorian calendar, whose year begins in March here so that its
    // leap day comes last.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day
        - 1
        - 719_468;
    Some(
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second),
    )
}

#[cfg(test)]
#[path = "../tests/signer/mod.rs"]
mod signer;

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::{signer::Signer, *};

    const BODY: &[u8] = b"{\"cluster\":\"local\"}";
    const URL: &str = "http://127.0.0.1:4711/v1/data-channel/ecs-execute%20command?role=publish_subscribe&cell-number=AAE+%2Fx==&a";

    /// Returns headers by which AWS's own signer signs a POST of [`BODY`] to `url`.
    fn signed(credentials: &Credentials, service: &str, url: &str, at: SystemTime) -> HeaderMap {
        let Credentials { access_key_id, secret_access_key } = credentials;
        let headers = [
            ("x-amz-target", "A.B"),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-spaces", " a   b "),
        ];
        let headers = headers.map(|(name, value)| (name, value.to_owned()));
        let signature = Signer { access_key_id, secret_access_key, service, at }
            .sign("POST", url, &headers, BODY);
        let host = ("host", url.split('/').nth(2).unwrap().to_owned());
        let all = headers.into_iter().chain(signature).chain([host]);
        all.map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::try_from(value).unwrap())
        })
        .collect()
    }

    fn verify(
        credentials: &Credentials,
        url: &str,
        headers: &HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Result<(), Unverified> {
        let uri: Uri = url.parse().unwrap();
        credentials.verify(&Signed { method: &Method::POST, uri: &uri, headers, body }, "ecs", now)
    }

    #[test]
    fn signatures_of_the_aws_signer_are_accepted() {
        let (credentials, now) = (Credentials::random(), SystemTime::now());
        for url in [URL, "http://127.0.0.1:4711/", "http://[::1]:4711/?b=2&a=1&a=0"] {
            let headers = signed(&credentials, "ecs", url, now);
            assert_eq!(verify(&credentials, url, &headers, BODY, now), Ok(()), "{url}");
            for skew in [Duration::from_secs(290), Duration::from_secs(0)] {
                assert_eq!(verify(&credentials, url, &headers, BODY, now + skew), Ok(()));
                assert_eq!(verify(&credentials, url, &headers, BODY, now - skew), Ok(()));
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let (credentials, now) = (Credentials::random(), SystemTime::now());
        let headers = signed(&credentials, "ecs", URL, now);
        let refusal = |url: &str, headers: &HeaderMap, body: &[u8], now| {
            verify(&credentials, url, headers, body, now).unwrap_err()
        };
        assert_eq!(refusal(URL, &HeaderMap::new(), BODY, now), Unverified::Missing);
        assert_eq!(refusal(URL, &headers, b"{}", now), Unverified::WrongSignature);
        assert_eq!(
            refusal(&URL.replace("publish", "other"), &headers, BODY, now),
            Unverified::WrongSignature
        );
        for late in [now + Duration::from_secs(400), now - Duration::from_secs(400)] {
            assert!(matches!(refusal(URL, &headers, BODY, late), Unverified::Expired(_)));
        }
        let other_secret = Credentials { secret_access_key: "0".repeat(40), ..credentials.clone() };
        assert_eq!(
            refusal(URL, &signed(&other_secret, "ecs", URL, now), BODY, now),
            Unverified::WrongSignature
        );
        assert_eq!(
            refusal(URL, &signed(&Credentials::random(), "ecs", URL, now), BODY, now),
            Unverified::UnknownKey
        );
        assert_eq!(
            refusal(URL, &signed(&credentials, "ssm", URL, now), BODY, now),
            Unverified::WrongScope("ecs".to_owned())
        );
        let mut changed = headers.clone();
        changed.insert("x-amz-target", HeaderValue::from_static("A.C"));
        assert_eq!(refusal(URL, &changed, BODY, now), Unverified::WrongSignature);
        for broken in [
            "",
            "Bearer x",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=0",
        ] {
            let mut headers = headers.clone();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(broken));
            assert!(
                matches!(refusal(URL, &headers, BODY, now), Unverified::Incomplete(_)),
                "{broken}"
            );
        }
        let authorization = headers[AUTHORIZATION].to_str().unwrap().replace("host;", "");
        let mut unsigned_host = headers;
        unsigned_host.insert(AUTHORIZATION, HeaderValue::try_from(authorization).unwrap());
        assert_eq!(
            refusal(URL, &unsigned_host, BODY, now),
            Unverified::Incomplete("SignedHeaders")
        );
    }

    #[test]
    fn dates_are_read() {
        let seconds = |date: &str| {
            parse(date).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20240229T235959Z"), Some(1_709_251_199));
        assert_eq!(seconds("20000301T000000Z"), Some(951_868_800));
        for wrong in [
            "",
            "20240229T235959",
            "20240229 235959Z",
            "20241329T235959Z",
            "2024022-T235959Z",
            "äääääääT1",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let credentials = Credentials::random();
        assert!(!format!("{credentials:?}").contains(&credentials.secret_access_key));
    }
}
