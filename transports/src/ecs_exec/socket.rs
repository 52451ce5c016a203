//! The WebSocket under a data channel, over TLS.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use hyper_util::client::proxy::matcher::Matcher;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OnceCell,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest as _,
        http::{HeaderName, HeaderValue, StatusCode, Uri},
        protocol::WebSocketConfig,
    },
};

use super::{ExecApi, frame, proxy};

/// TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the session's address {0:?} cannot be used: {1}")]
    Address(String, String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error("{0} refuses the session ({1}), {2}")]
    Rejected(String, StatusCode, &'static str),
    #[error("{0} does not open the session's data channel: {1}")]
    Refused(String, String),
}

/// Connects with a signature, and without one if that is refused. A URL that AWS has signed is left
/// unchanged, as in AWS's own client (session-manager-plugin, `websocketchannel`): two signatures
/// are an error.
pub(super) async fn dial(
    url: &str,
    api: &impl ExecApi,
    dialer: &Dialer,
) -> Result<Socket, DialError> {
    let place = Location::of(url)?;
    if is_signed(url) {
        return upgrade(url, &place, Vec::new(), dialer).await;
    }
    let signature = api.sign(url).await.unwrap_or_else(|why| {
        tracing::debug!(why, "the data channel is opened without a signature");
        Vec::new()
    });
    if signature.is_empty() {
        return upgrade(url, &place, signature, dialer).await;
    }
    match upgrade(url, &place, signature, dialer).await {
        // Any refusal may concern the signature: its status is not documented.
        Err(DialError::Rejected(host, status, _)) => {
            tracing::info!(host, %status, "the signed data channel is refused; trying without a signature");
            upgrade(url, &place, Vec::new(), dialer).await.map_err(|e| match e {
                DialError::Rejected(host, status, _) => {
                    DialError::Rejected(host, status, "with a signature and without")
                }
                other => other,
            })
        }
        other => other,
    }
}

/// Whether the URL's query holds a signature (SigV4, "Authenticating Requests: Using Query
/// Parameters").
fn is_signed(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|pair| pair.split('=').next());
    names.into_iter().any(|name| {
        ["X-Amz-Algorithm", "X-Amz-Signature"]
            .iter()
            .any(|signed| name.eq_ignore_ascii_case(signed))
    })
}

/// A URL's host and port, and whether it uses TLS.
struct Location {
    host: String,
    port: u16,
    tls: bool,
}

impl Location {
    fn of(url: &str) -> Result<Self, DialError> {
        let wrong = |why: &str| DialError::Address(without_query(url), why.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong("it is no WebSocket's")),
        };
        let host =
            uri.host().ok_or_else(|| wrong("it has no host"))?.trim_matches(['[', ']']).to_owned();
        // The token is sent over it: without TLS only to this machine, for the local cluster.
        if !tls
            && !host.parse::<std::net::IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback())
        {
            return Err(wrong("it is not encrypted"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host, port, tls })
    }
}

/// Removes the query, which identifies the session and must stay out of messages.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

async fn upgrade(
    url: &str,
    place: &Location,
    headers: Vec<(String, String)>,
    dialer: &Dialer,
) -> Result<Socket, DialError> {
    let host = &place.host;
    let unreachable =
        |e: &dyn std::fmt::Display| DialError::Unreachable(host.clone(), e.to_string());
    let stream: Box<dyn Stream> = if place.tls {
        let tcp =
            proxy::connect(&dialer.proxies, host, place.port).await.map_err(|e| unreachable(&e))?;
        let name = ServerName::try_from(host.clone()).map_err(|e| unreachable(&e))?;
        Box::new(
            dialer
                .connector()
                .await
                .map_err(|e| unreachable(&e))?
                .connect(name, tcp)
                .await
                .map_err(|e| unreachable(&e))?,
        )
    } else {
        // A loopback address.
        Box::new(proxy::dial(host, place.port).await.map_err(|e| unreachable(&e))?)
    };
    let refused = |e: &dyn std::fmt::Display| DialError::Refused(host.clone(), e.to_string());
    let mut request = url.into_client_request().map_err(|e| refused(&e))?;
    let how = if headers.is_empty() { "as it is" } else { "with a signature" };
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|e| refused(&e))?;
        request.headers_mut().insert(name, HeaderValue::try_from(value).map_err(|e| refused(&e))?);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(frame::LONGEST))
        .max_frame_size(Some(frame::LONGEST));
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) if answer.status().is_client_error() => {
            Err(DialError::Rejected(host.clone(), answer.status(), how))
        }
        Err(tungstenite::Error::Http(answer)) => {
            Err(refused(&format!("HTTP status {}", answer.status())))
        }
        Err(e) => Err(refused(&e)),
    }
}

/// Dials with the system's certificates and the environment's proxies. Both are read on first use,
/// which SSH jobs never need.
pub(super) struct Dialer {
    tls: OnceCell<TlsConnector>,
    proxies: LazyLock<Matcher>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self { tls: OnceCell::new(), proxies: LazyLock::new(Matcher::from_env) }
    }
}

impl Dialer {
    async fn connector(&self) -> io::Result<&TlsConnector> {
        self.tls
            .get_or_try_init(|| async {
                tokio::task::spawn_blocking(connector).await.map_err(io::Error::other)?
            })
            .await
    }
}

fn connector() -> io::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none are installed".to_owned(), ToString::to_string);
        return Err(io::Error::other(format!(
            "the system has no certificates to check it with: {why} (install ca-certificates)"
        )));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_urls_are_accepted_unchanged() {
        let place = Location::of(
            "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/ecs-execute-command-0?role=publish_subscribe&cell-number=AAE+/x==",
        )
        .unwrap();
        assert_eq!(
            (place.host.as_str(), place.port, place.tls),
            ("ssmmessages.eu-west-1.amazonaws.com", 443, true)
        );
        assert!(Location::of("ws://127.0.0.1:8080/v1").is_ok());
        assert!(Location::of("ws://localhost:8080/v1").is_ok());
        for wrong in [
            "ws://192.0.2.1/v1?secret",
            "ws://ssmmessages.eu-west-1.amazonaws.com/v1?secret",
            "https://a/b?secret",
            "nonsense secret",
        ] {
            let refused = Location::of(wrong).err().unwrap();
            assert!(matches!(refused, DialError::Address(..)), "{refused}");
        }
        assert!(
            !Location::of("ws://192.0.2.1/v1?secret").err().unwrap().to_string().contains("secret")
        );
    }

    #[test]
    fn signed_urls_are_recognised() {
        let base =
            "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/x?role=publish_subscribe";
        assert!(is_signed(&format!("{base}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00")));
        assert!(
            is_signed("wss://host/x?x-amz-signature=00")
                && is_signed("wss://host/x?X-Amz-Algorithm=AWS4-HMAC-SHA256")
        );
        assert!(
            !is_signed(base)
                && !is_signed("wss://host/X-Amz-Signature=00")
                && !is_signed(&format!("{base}&cell=X-Amz-Signature"))
        );
    }

    #[test]
    fn the_query_is_sent_byte_for_byte() {
        let url = "ws://127.0.0.1:1/v1/data-channel/x?role=publish_subscribe&cell-number=AAE+/x==";
        let request = url.into_client_request().unwrap();
        assert_eq!(
            request.uri().path_and_query().unwrap().as_str(),
            "/v1/data-channel/x?role=publish_subscribe&cell-number=AAE+/x=="
        );
    }
}
