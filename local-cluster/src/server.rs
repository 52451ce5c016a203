//! The API over HTTP.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    api::{self, ApiError},
    cluster::Cluster,
    exec::gateway,
    faults::{Faults, Mishap},
};

/// Longest request that is read, in bytes.
const LONGEST: usize = 1024 * 1024;
/// A service's actions.
type Actions = fn(&Arc<Cluster>, &str, &Value) -> Result<Value, ApiError>;
/// The services that speak JSON: the prefix of their actions in `X-Amz-Target`.
const SERVICES: [(&str, Actions); 3] =
    [("AmazonEC2ContainerServiceV20141113.", api::ecs), ("AmazonSSM.", api::ssm), ("TrentService.", api::kms)];

/// Serves until aborted.
pub(crate) async fn serve(listener: TcpListener, cluster: Arc<Cluster>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors, usually: others end, and then it goes on.
                tracing::warn!("the API cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&cluster, request));
            if let Err(e) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await {
                tracing::debug!("an API connection ended: {e}");
            }
        });
    }
}

async fn answer(cluster: &Arc<Cluster>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if gateway::is_meant(request.uri().path()) {
        return Ok(gateway::upgrade(cluster, request));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        return Ok(respond(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "the request is too long or was cut off"));
    };
    let body = body.to_bytes();
    if let Some(path) = head.uri.path().strip_prefix("/_") {
        return Ok(administer(cluster, &head.method, path, &body));
    }
    let target = head.headers.get("x-amz-target").and_then(|t| t.to_str().ok()).unwrap_or_default();
    let service = SERVICES.into_iter().find_map(|(prefix, actions)| Some((target.strip_prefix(prefix)?, actions)));
    Ok(match service {
        Some((action, actions)) => json(cluster, action, actions, &body).await,
        None => ec2(cluster, &body).await,
    })
}

async fn json(cluster: &Arc<Cluster>, action: &str, actions: Actions, body: &[u8]) -> Response<Full<Bytes>> {
    const JSON: &str = "application/x-amz-json-1.1";
    let outcome = match serde_json::from_slice::<Value>(if body.is_empty() { b"{}" } else { body }) {
        Ok(parameters) => perform(cluster, action, |cluster| actions(cluster, action, &parameters)).await,
        Err(e) => Err(ApiError::new(400, "SerializationException", e.to_string())),
    };
    match outcome {
        Ok(value) => respond(StatusCode::OK, JSON, value.to_string()),
        Err(e) => {
            let said = serde_json::json!({ "__type": e.code, "message": e.message }).to_string();
            respond(StatusCode::from_u16(e.status).unwrap_or(StatusCode::BAD_REQUEST), JSON, said)
        }
    }
}

async fn ec2(cluster: &Arc<Cluster>, body: &[u8]) -> Response<Full<Bytes>> {
    let form = api::ec2::Form::parse(body);
    let action = form.get("Action").unwrap_or_default().to_owned();
    match perform(cluster, &action, |cluster| api::ec2::perform(cluster, &form)).await {
        Ok(text) => respond(StatusCode::OK, "text/xml;charset=UTF-8", text),
        Err(e) => {
            respond(StatusCode::from_u16(e.status).unwrap_or(StatusCode::BAD_REQUEST), "text/xml;charset=UTF-8", api::ec2::refusal(&e))
        }
    }
}

/// Records the call, applies the faults, and does what is asked.
async fn perform<T>(cluster: &Arc<Cluster>, action: &str, act: impl FnOnce(&Arc<Cluster>) -> Result<T, ApiError>) -> Result<T, ApiError> {
    let failed = || ApiError::new(500, "ServerException", "a scripted failure");
    let (fault, unanswered, delay) = {
        let mut faults = cluster.faults();
        let mishap = faults.mishap();
        let fault = if faults.throttles(action) || mishap == Some(Mishap::Throttled) {
            Some(ApiError::new(400, "ThrottlingException", "Rate exceeded"))
        } else if mishap == Some(Mishap::FailedBefore) {
            Some(failed())
        } else {
            faults.refuses(action).map(|r| ApiError::new(r.status, &r.code, r.message))
        };
        let unanswered = mishap == Some(Mishap::FailedAfter) || faults.leaves_unanswered(action);
        (fault, unanswered, faults.delay_ms.get(action).copied())
    };
    let mut outcome = match fault {
        Some(error) => Err(error),
        None => act(cluster),
    };
    if unanswered && outcome.is_ok() {
        outcome = Err(failed());
    }
    cluster.record(action, outcome.as_ref().err().map(|e| e.code.clone()));
    if let Some(ms) = delay {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    outcome
}

/// What is not AWS's: scripting faults, and looking at what happened.
fn administer(cluster: &Arc<Cluster>, method: &Method, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    // Plain data: it serializes always.
    let json = |value: serde_json::Result<String>| respond(StatusCode::OK, JSON, value.unwrap_or_else(|e| e.to_string()));
    match (method.as_str(), path) {
        ("GET", "faults") => json(serde_json::to_string(&*cluster.faults())),
        ("PUT", "faults") => match serde_json::from_slice::<Faults>(body) {
            Ok(faults) => {
                *cluster.faults() = faults;
                respond(StatusCode::OK, JSON, "{}")
            }
            Err(e) => respond(StatusCode::BAD_REQUEST, "text/plain", format!("these are no faults: {e}\n")),
        },
        ("POST", "drop-connections") => {
            cluster.drop_connections();
            respond(StatusCode::OK, JSON, "{}")
        }
        ("GET", "calls") => json(serde_json::to_string(&cluster.calls())),
        ("GET", "tasks") => json(serde_json::to_string(&cluster.views())),
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "GET or PUT /_faults, POST /_drop-connections, GET /_calls, GET /_tasks\n"),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    if let Ok(id) = hyper::header::HeaderValue::from_str(&crate::cluster::random_id(16)) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}
