//! The service's pages, metrics and health over HTTP/1.1, on loopback alone. Nothing that it serves
//! changes anything.
//!
//! | path | |
//! | --- | --- |
//! | `/` | the page of all jobs |
//! | `/events` | its content, whenever it changes, as server-sent events |
//! | `/job/<id>` | the report of a job |
//! | `/metrics` | metrics in Prometheus' text format |
//! | `/healthz` | 200, or 503 and the reason |
//!
//! Web pages of others cannot read it: it answers only to names of loopback, so that no foreign
//! name leads to it (DNS rebinding), and it never allows another origin. Each user of the host can.

mod events;
mod metrics;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ::replay::{Failure, LocationError};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::events::Events;
use super::{
    page,
    source::{Source, View},
};

/// Connections at the same time. Further ones wait.
const CONNECTIONS: usize = 64;
/// Pages that follow what happens, at the same time.
const FOLLOWERS: usize = 16;
/// How long a request's head may take, and a connection be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes. Also hyper's buffer for a connection.
const HEAD_SIZE: usize = 16 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a connection may last. Browsers and Prometheus make another one.
const CONNECTION_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long the last answer on a connection may take then.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// The page's content is that old at most.
const FRESH: Duration = Duration::from_secs(1);

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Others than this host could connect.
    #[error(
        "the page is not served at {0}: it shows projects and jobs, and asks for no password, so only a loopback address will do. Use 127.0.0.1:9480, and a proxy that checks who asks if others are to see it."
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be used.
    #[error(
        "the page cannot be served at {address}: {source}. Choose another address with --listen."
    )]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The socket cannot be used.
    #[error("the page's socket cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// Listens at an address of loopback.
///
/// # Errors
/// [`HttpError`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    check_loopback(address)?;
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| HttpError::Address { address, source })
}

fn check_loopback(address: SocketAddr) -> Result<(), HttpError> {
    if address.ip().is_loopback() { Ok(()) } else { Err(HttpError::NotLoopback(address)) }
}

/// Serves pages and metrics of `source` until the future is dropped.
///
/// # Errors
/// [`HttpError`]: only before the first connection.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) -> Result<(), HttpError> {
    check_loopback(listener.local_addr()?)?;
    let server = Arc::new(Server::new(source));
    // Dropped with this future, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(hold(stream, Arc::clone(&server)));
            }
            Err(e) => {
                // Usually the process is out of file descriptors; this passes when connections end.
                tracing::warn!("the page's server cannot accept a connection: {e}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn hold(stream: TcpStream, server: Arc<Server>) {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(CONNECTION_LIFE) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection of the page's server ended: {e}");
    }
}

/// What all connections share.
struct Server {
    source: Arc<dyn Source>,
    /// The page's content, made once for all who look.
    content: Mutex<Option<(Instant, Content)>>,
    followers: Arc<Semaphore>,
}

/// The page's content, or one that says why there is none.
#[derive(Clone)]
struct Content {
    text: Arc<str>,
    is_complete: bool,
}

impl Server {
    fn new(source: Arc<dyn Source>) -> Self {
        Self { source, content: Mutex::new(None), followers: Arc::new(Semaphore::new(FOLLOWERS)) }
    }

    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "Only GET and HEAD: nothing here changes anything.",
            );
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return closing(refusal);
        }
        if !request.body().is_end_stream() {
            return closing(text(StatusCode::PAYLOAD_TOO_LARGE, "Requests have no body here."));
        }
        if !is_for_loopback(request) {
            return closing(text(
                StatusCode::MISDIRECTED_REQUEST,
                "This server answers only as localhost, 127.0.0.1 or [::1]. A proxy in front of it has to send one of these as Host.",
            ));
        }
        match request.uri().path() {
            "/" => self.page().await,
            "/events" if request.method() == Method::GET => self.events(),
            "/metrics" => self.metrics().await,
            "/healthz" => self.health().await,
            path => match path.strip_prefix("/job/").filter(|job| is_job(job)) {
                Some(job) => self.job(job.to_owned()).await,
                None => text(StatusCode::NOT_FOUND, "There is no such page. All jobs are at /."),
            },
        }
    }

    /// Asks the source, on a thread that may wait for files.
    async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Source) -> R + Send + 'static,
    ) -> Result<R, String> {
        let source = Arc::clone(&self.source);
        let answer = tokio::task::spawn_blocking(move || question(&*source)).await;
        answer.map_err(|e| format!("the driver failed internally: {e}. Please report this."))
    }

    /// Returns the page's content. One caller makes it, and all others wait for that.
    async fn content(&self) -> Content {
        let mut kept = self.content.lock().await;
        if let Some((at, content)) = &*kept
            && at.elapsed() < FRESH
        {
            return content.clone();
        }
        let made = self
            .ask(|source| {
                View::of(source).map(|view| page::content(&view)).map_err(|e| e.to_string())
            })
            .await
            .and_then(|made| made);
        let is_complete = made.is_ok();
        let text = made.unwrap_or_else(|why| page::failure(&why)).into();
        let content = Content { text, is_complete };
        *kept = Some((Instant::now(), content.clone()));
        content
    }

    async fn page(&self) -> Response<Body> {
        let content = self.content().await;
        let page = page::page(&self.source.manager(), &content.text);
        let status =
            if content.is_complete { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        respond(status, HTML, &page::page_policy(), full(page))
    }

    fn events(self: Arc<Self>) -> Response<Body> {
        let Ok(permit) = Arc::clone(&self.followers).try_acquire_owned() else {
            let mut refusal = text(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many pages are open: this one is not updated. Load it again.",
            );
            refusal.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            return refusal;
        };
        let body = Events::follow(self, permit, CONNECTION_LIFE).boxed_unsync();
        respond(StatusCode::OK, "text/event-stream", NO_POLICY, body)
    }

    async fn job(&self, job: String) -> Response<Body> {
        let made = self
            .ask(move |source| {
                source.report(&job).map(|report| report.page(&page::back()).into_string())
            })
            .await;
        match made {
            Ok(Ok(page)) => {
                respond(StatusCode::OK, HTML, &::replay::page::policy(None), full(page))
            }
            Ok(Err(e)) => {
                let status = match &e {
                    Failure::Location(
                        LocationError::NoJob { .. } | LocationError::Ambiguous { .. },
                    ) => StatusCode::NOT_FOUND,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                text(status, &e.to_string())
            }
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, &why),
        }
    }

    async fn metrics(&self) -> Response<Body> {
        let made = self
            .ask(|source| {
                let view = View::of(source).map_err(|e| e.to_string())?;
                metrics::encode(view, source.health().is_ok()).map_err(|e| e.to_string())
            })
            .await
            .and_then(|made| made);
        match made {
            Ok(metrics) => respond(StatusCode::OK, metrics::CONTENT_TYPE, NO_POLICY, full(metrics)),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    async fn health(&self) -> Response<Body> {
        match self.ask(|source| source.health()).await.and_then(|health| health) {
            Ok(()) => text(StatusCode::OK, "ok"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }
}

/// Whether the request names this host by a name of loopback. Another name may be that of a web
/// page whose owner lets it lead here.
fn is_for_loopback(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let named = host.to_str().ok().and_then(|host| host.parse().ok());
    // A request to a proxy names the host in its first line, too.
    let both = [named.as_ref(), request.uri().authority()];
    named.is_some()
        && both.into_iter().flatten().all(|authority| {
            let authority: &hyper::http::uri::Authority = authority;
            !authority.as_str().contains('@') && is_loopback(authority.host())
        })
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether it may be a job's id or the name of its snapshot.
fn is_job(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(is_plain)
}

/// The policy of what is no page: nothing in it may do anything.
const NO_POLICY: &str = "default-src 'none'";

fn text(status: StatusCode, text: &str) -> Response<Body> {
    respond(status, TEXT, NO_POLICY, full(format!("{text}\n")))
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

/// Ends the connection after this answer: what follows may be the rest of a request that was
/// refused.
fn closing(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn respond(status: StatusCode, kind: &'static str, policy: &str, body: Body) -> Response<Body> {
    const FIXED: [(HeaderName, &str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Hashes and keywords: always a valid value.
    if let Ok(policy) = HeaderValue::from_str(&format!("{policy}; frame-ancestors 'none'")) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_are_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::]",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn no_path_is_a_job() {
        for name in ["", "..", ".", "a/b", "a%2fb", "a b", "ä", &"a".repeat(256)] {
            assert!(!is_job(name), "{name}");
        }
        assert!(is_job("123") && is_job("0f-a_b.1764000000000"));
    }
}
