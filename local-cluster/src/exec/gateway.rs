//! The service between the agent and its clients: data channels over WebSocket.

mod connection;
mod noise;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{
        AUTHORIZATION, CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::session::{DATA_CHANNEL, Session};
use crate::{cluster::Cluster, credentials::Signed, faults::Upgrades};

/// Longest message of a client, in bytes: AWS's limit for its public WebSocket APIs. This service's
/// own limit is not published.
const LONGEST: usize = 128 * 1024;
/// How long a client may take to send its token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(10);

/// The first message of a client.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OpenDataChannel {
    message_schema_version: String,
    request_id: String,
    token_value: String,
    client_id: String,
    #[serde(default)]
    client_version: Option<String>,
}

/// Whether a request is for a data channel.
pub(crate) fn is_meant(path: &str) -> bool {
    path.starts_with(DATA_CHANNEL)
}

/// Answers a request for a data channel, and serves it if it may be opened.
pub(crate) fn upgrade(
    cluster: &Arc<Cluster>,
    mut request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let admitted = admit(cluster, &request);
    cluster.record(
        "OpenDataChannel",
        admitted.as_ref().err().map(|(status, _)| status.as_u16().to_string()),
    );
    let session = match admitted {
        Ok(session) => session,
        Err((status, why)) => {
            tracing::debug!("a data channel is refused: {why}");
            let mut response = Response::new(Full::from(why));
            *response.status_mut() = status;
            return response;
        }
    };
    let accept =
        request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = accept.and_then(|accept| HeaderValue::from_str(&accept).ok()) else {
        let mut response = Response::new(Full::from("a WebSocket has a Sec-WebSocket-Key\n"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(cluster, session, upgraded).await,
            Err(e) => tracing::debug!("an upgrade failed: {e}"),
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

type Refusal = (StatusCode, &'static str);

fn admit(cluster: &Cluster, request: &Request<Incoming>) -> Result<Arc<Session>, Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    let has = |name, token: &str| {
        let values =
            headers.get_all(name).into_iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    if !(request.method() == hyper::Method::GET
        && has(UPGRADE, "websocket")
        && has(CONNECTION, "upgrade")
        && has(SEC_WEBSOCKET_VERSION, "13"))
    {
        return Err((StatusCode::UPGRADE_REQUIRED, "this is a WebSocket, version 13\n"));
    }
    let id = uri.path().strip_prefix(DATA_CHANNEL).unwrap_or_default();
    let session =
        cluster.sessions.find(id).ok_or((StatusCode::NOT_FOUND, "there is no such session\n"))?;
    let query = uri.query().unwrap_or_default();
    if !session.is_dialled_by(query) {
        return Err((
            StatusCode::BAD_REQUEST,
            "the role or the cell number is not that of the stream URL\n",
        ));
    }
    let signed = is_signed(cluster, request)?;
    let faults = cluster.faults().exec.clone();
    let status = faults
        .upgrade_status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::FORBIDDEN);
    match faults.refuses_upgrades {
        Some(Upgrades::All) => Err((status, "an injected refusal\n")),
        Some(Upgrades::Signed) if signed => {
            Err((status, "an injected refusal of signed requests\n"))
        }
        Some(Upgrades::Unsigned) if !signed => {
            Err((status, "an injected refusal of unsigned requests\n"))
        }
        _ => Ok(session),
    }
}

/// Checks how a request is signed: in its header, where the signature must be valid, or in its
/// query, which is not checked; not in both. The session's token admits a client: see
/// [`connection::serve`].
fn is_signed(cluster: &Cluster, request: &Request<Incoming>) -> Result<bool, Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    if uri.query().is_some_and(|query| query.contains("X-Amz-Signature=")) {
        if headers.contains_key(AUTHORIZATION) {
            return Err((
                StatusCode::BAD_REQUEST,
                "the request is signed twice: in its query and in its header\n",
            ));
        }
        return Ok(true);
    }
    if !headers.contains_key(AUTHORIZATION) {
        return Ok(false);
    }
    let signed = Signed { method: request.method(), uri, headers, body: b"" };
    match cluster.settings.credentials.verify(&signed, "ssmmessages", SystemTime::now()) {
        Ok(()) => Ok(true),
        Err(why) => {
            tracing::debug!(?why, "a signature is refused");
            Err((StatusCode::FORBIDDEN, "this is no signature for ssmmessages\n"))
        }
    }
}

async fn serve(cluster: Arc<Cluster>, session: Arc<Session>, upgraded: Upgraded) {
    // The server accepts TCP connections only.
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
    let stream = parts.io.into_inner();
    // Only costs some speed if it fails.
    let _ = stream.set_nodelay(true);
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST))
        .max_frame_size(Some(LONGEST))
        .write_buffer_size(64 * 1024)
        .max_write_buffer_size(1024 * 1024);
    let socket = WebSocketStream::from_partially_read(
        stream,
        parts.read_buf.into(),
        Role::Server,
        Some(config),
    )
    .await;
    connection::serve(cluster, session, socket).await;
}
