//! The API over HTTP.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, http::request::Parts,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    api::{self, ApiError},
    cluster::Cluster,
    credentials::{Signed, Unverified},
    exec::gateway,
    faults::{EarlyStop, Faults, Mishap},
};

/// Longest request that is read, in bytes.
const LONGEST: usize = 1024 * 1024;
/// A service's actions.
type Actions = fn(&Arc<Cluster>, &str, &Value) -> Result<Value, ApiError>;
/// The services that speak JSON: the prefix of their actions in `X-Amz-Target`, and their names in
/// signatures.
const SERVICES: [(&str, &str, Actions); 4] = [
    ("AmazonEC2ContainerServiceV20141113.", "ecs", api::ecs),
    ("AmazonSSM.", "ssm", api::ssm),
    ("TrentService.", "kms", api::kms),
    ("Logs_20140328.", "logs", api::logs),
];

/// The services of the query protocol: the version of their APIs, and their names in signatures.
const QUERY_SERVICES: [(&str, &str); 2] = [("2016-11-15", "ec2"), ("2011-06-15", "sts")];

/// Serves until aborted.
pub(crate) async fn serve(listener: TcpListener, cluster: Arc<Cluster>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Usually the process is out of file descriptors; this passes when connections end.
                tracing::warn!("the API cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&cluster, request));
            if let Err(e) = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
            {
                tracing::debug!("an API connection ended: {e}");
            }
        });
    }
}

async fn answer(
    cluster: &Arc<Cluster>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if gateway::is_meant(request.uri().path()) {
        return Ok(gateway::upgrade(cluster, request));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        return Ok(respond(
            StatusCode::PAYLOAD_TOO_LARGE,
            "text/plain",
            "the request is too long or was cut off",
        ));
    };
    let body = body.to_bytes();
    if let Some(path) = head.uri.path().strip_prefix("/_") {
        if !cluster.settings.credentials.are_borne_by(&head.headers) {
            return Ok(respond(
                StatusCode::UNAUTHORIZED,
                "text/plain",
                "Authorization: Bearer <AWS_SECRET_ACCESS_KEY of the cluster>\n",
            ));
        }
        return Ok(administer(cluster, &head.method, path, &body));
    }
    let target = head.headers.get("x-amz-target").and_then(|t| t.to_str().ok()).unwrap_or_default();
    let service = SERVICES.into_iter().find_map(|(prefix, service, actions)| {
        Some((target.strip_prefix(prefix)?, service, actions))
    });
    Ok(match service {
        Some((action, service, actions)) => {
            match admit(cluster, &head, &body, service).map_err(|why| refused(&why)) {
                Ok(()) => json(&call_json(cluster, action, actions, &body).await),
                Err(error) => json(&refuse(cluster, action, error)),
            }
        }
        None if !target.is_empty() => json(&refuse(cluster, target, api::unknown(target))),
        None => {
            let form = api::ec2::Form::parse(&body);
            let action = form.get("Action").unwrap_or_default();
            let version = form.get("Version").unwrap_or(QUERY_SERVICES[0].0);
            let Some((_, service)) = QUERY_SERVICES.into_iter().find(|(of, _)| *of == version)
            else {
                return Ok(xml(refuse(cluster, action, api::ec2::invalid_action(action))));
            };
            xml(match admit(cluster, &head, &body, service).map_err(|why| refused_by_ec2(&why)) {
                Ok(()) if service == "sts" => {
                    perform(cluster, action, |cluster| api::sts::perform(cluster, action)).await
                }
                Ok(()) => {
                    perform(cluster, action, |cluster| api::ec2::perform(cluster, &form)).await
                }
                Err(error) => refuse(cluster, action, error),
            })
        }
    })
}

/// Checks a call's signature. Without this, every user of the machine could run processes as this
/// one.
fn admit(cluster: &Cluster, head: &Parts, body: &[u8], service: &str) -> Result<(), Unverified> {
    let request = Signed { method: &head.method, uri: &head.uri, headers: &head.headers, body };
    cluster.settings.credentials.verify(&request, service, SystemTime::now())
}

/// Records and answers a refused call. The scripted faults do not apply to it.
fn refuse<T>(cluster: &Cluster, action: &str, error: ApiError) -> Result<T, ApiError> {
    tracing::debug!(action, code = error.code, "a call is refused");
    cluster.record(action, Some(error.code.clone()));
    Err(error)
}

/// The words of the services that speak JSON.
fn refused(why: &Unverified) -> ApiError {
    let (code, message) = match why {
        Unverified::Missing => ("MissingAuthenticationTokenException", "Missing Authentication Token".to_owned()),
        Unverified::Incomplete(part) => ("IncompleteSignatureException", format!("Authorization header requires '{part}' parameter.")),
        Unverified::UnknownKey => ("UnrecognizedClientException", "The security token included in the request is invalid.".to_owned()),
        Unverified::Expired(date) => ("InvalidSignatureException", format!("Signature expired or not yet current: {date} is more than 5 min. from now")),
        Unverified::WrongScope(service) => ("InvalidSignatureException", format!("Credential should be scoped to correct service: '{service}'.")),
        Unverified::WrongSignature => (
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."
                .to_owned(),
        ),
    };
    ApiError::new(400, code, message)
}

/// EC2's words (Amazon EC2 API reference, "Error codes").
fn refused_by_ec2(why: &Unverified) -> ApiError {
    match why {
        Unverified::Missing => ApiError::new(
            403,
            "MissingAuthenticationToken",
            "Request is missing Authentication Token",
        ),
        Unverified::Incomplete(part) => ApiError::new(
            400,
            "IncompleteSignature",
            format!("Authorization header requires '{part}' parameter."),
        ),
        Unverified::UnknownKey => ApiError::new(
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        ),
        Unverified::Expired(_) => ApiError::new(400, "RequestExpired", "Request has expired."),
        Unverified::WrongScope(_) | Unverified::WrongSignature => ApiError::new(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ),
    }
}

async fn call_json(
    cluster: &Arc<Cluster>,
    action: &str,
    actions: Actions,
    body: &[u8],
) -> Result<Value, ApiError> {
    match serde_json::from_slice::<Value>(if body.is_empty() { b"{}" } else { body }) {
        Ok(parameters) => {
            perform(cluster, action, |cluster| actions(cluster, action, &parameters)).await
        }
        Err(e) => Err(ApiError::new(400, "SerializationException", e.to_string())),
    }
}

fn json(outcome: &Result<Value, ApiError>) -> Response<Full<Bytes>> {
    const JSON: &str = "application/x-amz-json-1.1";
    match outcome {
        Ok(value) => respond(StatusCode::OK, JSON, value.to_string()),
        Err(e) => respond(
            status(e),
            JSON,
            serde_json::json!({ "__type": e.code, "message": e.message }).to_string(),
        ),
    }
}

fn xml(outcome: Result<String, ApiError>) -> Response<Full<Bytes>> {
    const XML: &str = "text/xml;charset=UTF-8";
    match outcome {
        Ok(text) => respond(StatusCode::OK, XML, text),
        Err(e) => respond(status(&e), XML, api::ec2::refusal(&e)),
    }
}

fn status(error: &ApiError) -> StatusCode {
    StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST)
}

/// Records the call, applies the faults, and performs the action.
async fn perform<T>(
    cluster: &Arc<Cluster>,
    action: &str,
    act: impl FnOnce(&Arc<Cluster>) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
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

/// Serves the cluster's own endpoints: fault injection and inspection.
fn administer(
    cluster: &Arc<Cluster>,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    // Serializing plain data cannot fail.
    let json = |value: serde_json::Result<String>| {
        respond(StatusCode::OK, JSON, value.unwrap_or_else(|e| e.to_string()))
    };
    match (method.as_str(), path) {
        ("GET", "faults") => json(serde_json::to_string(&*cluster.faults())),
        ("PUT", "faults") => match serde_json::from_slice::<Faults>(body) {
            Ok(faults) => {
                *cluster.faults() = faults;
                respond(StatusCode::OK, JSON, "{}")
            }
            Err(e) => respond(
                StatusCode::BAD_REQUEST,
                "text/plain",
                format!("these faults are not valid: {e}\n"),
            ),
        },
        ("POST", "drop-connections") => {
            cluster.drop_connections();
            respond(StatusCode::OK, JSON, "{}")
        }
        ("POST", "crash-tasks") => match serde_json::from_slice::<EarlyStop>(body) {
            Ok(end) => {
                cluster.crash_all(&end);
                respond(StatusCode::OK, JSON, "{}")
            }
            Err(e) => {
                let text = format!("this end of a task is not valid: {e}\n");
                respond(StatusCode::BAD_REQUEST, "text/plain", text)
            }
        },
        ("GET", "calls") => json(serde_json::to_string(&cluster.calls())),
        ("GET", "tasks") => json(serde_json::to_string(&cluster.views())),
        ("GET", "containers") => json(serde_json::to_string(&cluster.containers())),
        _ => respond(
            StatusCode::NOT_FOUND,
            "text/plain",
            "GET or PUT /_faults, POST /_drop-connections, POST /_crash-tasks, GET /_calls, GET /_tasks, GET /_containers\n",
        ),
    }
}

fn respond(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    if let Ok(id) = hyper::header::HeaderValue::from_str(&crate::ids::random_id(16)) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}
