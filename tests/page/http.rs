//! The server: its pages, and what it refuses.

use std::{fs, sync::Arc, time::Duration};

use fargate_driver::service::http::{self, HttpError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    client::{Server, read_answer, read_until},
    directory::{Memory, calls_and_pools, directory, source, view},
};

#[tokio::test]
async fn pages_are_served_with_a_policy_and_are_not_kept() {
    let place = directory(3);
    let server = Server::start(Arc::new(source(place.path()))).await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("<h1>Jobs of runner-1</h1>"), "{}", page.body);
    assert!(page.body.contains("href=\"/job/job-0\""), "{}", page.body);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    assert!(!page.head.contains("access-control"), "{}", page.head);

    let job = server.get("/job/job-0").await;
    assert_eq!(job.status, 200, "{}", job.body);
    assert!(job.body.contains("<h2>Journal</h2>") && job.body.contains("href=\"/\""));
    assert!(!job.body.contains("<script") && !job.head.contains("script-src"), "{}", job.head);

    let head = server.send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn archived_jobs_have_a_page_and_unknown_ones_none() {
    let place = directory(1);
    let server = Server::start(Arc::new(source(place.path()))).await;
    let archived = server.get("/job/out-of-memory.1764000000000").await;
    assert_eq!(archived.status, 200, "{}", archived.body);
    assert!(archived.body.contains("out-of-memory"), "{}", archived.body);
    for path in [
        "/job/nothing",
        "/job/",
        "/job/..",
        "/job/../../etc/passwd",
        "/job/%2e%2e%2fjob-0",
        "/job/job-0/x",
        "/favicon.ico",
        "/metrics/",
        "//",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_allowed() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "ANY"] {
        let target = if method == "CONNECT" { "localhost:80" } else { "/" };
        let answer =
            server.send(&format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    }
    for body in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let answer = server.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{body}")).await;
        assert_eq!(answer.status, 413, "{body}");
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
    }
}

#[tokio::test]
async fn only_names_of_loopback_are_answered() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    for host in ["localhost", "LOCALHOST:9480", "127.0.0.1", "[::1]:80", "127.0.0.2:1"] {
        let answer = server.send(&format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for lines in [
        "GET / HTTP/1.1\r\nHost: evil.example",
        "GET / HTTP/1.1\r\nHost: localhost.evil.example:80",
        "GET / HTTP/1.1\r\nHost: localhost@evil.example",
        "GET / HTTP/1.1\r\nHost: evil@localhost",
        "GET / HTTP/1.1\r\nHost: 192.168.0.1",
        "GET / HTTP/1.1\r\nHost: ",
        "GET / HTTP/1.1\r\nAccept: */*",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost",
    ] {
        for path in ["/", "/metrics", "/events", "/healthz"] {
            let lines = lines.replacen("GET / ", &format!("GET {path} "), 1);
            let answer = server.send(&format!("{lines}\r\n\r\n")).await;
            assert_eq!(answer.status, 421, "{lines}");
        }
    }
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refusal = http::serve(listener, Memory::new(view(directory(0).path()))).await.unwrap_err();
    assert!(matches!(refusal, HttpError::NotLoopback(_)), "{refusal}");
    assert!(refusal.to_string().contains("127.0.0.1"), "{refusal}");
    let refusal = http::listen("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refusal, HttpError::NotLoopback(_)), "{refusal}");
    let taken = http::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let refusal = http::listen(address).await.unwrap_err().to_string();
    assert!(refusal.contains(&address.to_string()) && refusal.contains("--listen"), "{refusal}");
}

#[tokio::test]
async fn heads_of_any_size_are_not_read() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    for request in [long, many] {
        let mut stream = server.connect().await;
        // The server may end the connection before it has all of it.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    for begun in ["", "GET / HTTP/1.1\r\nHost: local"] {
        let mut stream = server.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let waited = began.elapsed();
        assert!(waited <= Duration::from_secs(11), "{begun:?}: {waited:?}");
        let answer = String::from_utf8(answer).unwrap();
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_others_to_end() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = server.connect().await;
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, "ok\n").await;
        held.push(stream);
    }
    let mut waits = server.connect().await;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    waits.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), waits.peek(&mut byte)).await;
    assert!(early.is_err(), "the 65th connection was answered");
    drop(held.pop());
    assert_eq!(read_answer(&mut waits).await.status, 200);
}

const FOLLOW: &str = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn events_bring_the_content_and_each_change() {
    let memory = Memory::new(view(directory(0).path()));
    let server = Server::start(Arc::clone(&memory) as _).await;
    let mut stream = server.connect().await;
    stream.write_all(FOLLOW.as_bytes()).await.unwrap();
    let first = read_until(&mut stream, "No job runs.").await;
    assert!(first.to_lowercase().contains("content-type: text/event-stream"), "{first}");
    assert!(
        first.contains("retry: 2000") && first.contains("data: <ul class=\"tiles\">"),
        "{first}"
    );
    *memory.view.lock().unwrap() = view(directory(1).path());
    read_until(&mut stream, "href=\"/job/job-0\"").await;
}

#[tokio::test]
async fn so_many_pages_follow_at_most_and_one_that_ends_makes_room() {
    let server = Server::start(Memory::new(view(directory(0).path()))).await;
    let mut followers = Vec::new();
    for _ in 0..16 {
        let mut stream = server.connect().await;
        stream.write_all(FOLLOW.as_bytes()).await.unwrap();
        read_until(&mut stream, "retry: ").await;
        followers.push(stream);
    }
    let refused = server.get("/events").await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    assert_eq!(server.get("/").await.status, 200, "the page itself is served");
    drop(followers.pop());
    // The server notices when it next writes or reads.
    let again = async {
        loop {
            let mut stream = server.connect().await;
            stream.write_all(FOLLOW.as_bytes()).await.unwrap();
            if read_until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("room for another one");
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let place = directory(1);
    let inner = place.path().join("metadata");
    fs::create_dir(&inner).unwrap();
    let server = Server::start(Arc::new(source(&inner))).await;
    let well = server.get("/healthz").await;
    assert_eq!((well.status, well.body.as_str()), (200, "ok\n"));
    fs::remove_dir(&inner).unwrap();
    // The scan of a second ago is not what makes a directory healthy.
    let ill = server.get("/healthz").await;
    assert_eq!(ill.status, 503);
    assert!(ill.body.contains(inner.to_str().unwrap()), "{}", ill.body);
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_said_on_the_page() {
    let place = directory(0);
    let inner = place.path().join("gone");
    let server = Server::start(Arc::new(source(&inner))).await;
    for path in ["/", "/metrics", "/healthz"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains("gone"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_wants_them() {
    let mut view = view(directory(30).path());
    calls_and_pools(&mut view);
    let server = Server::start(Memory::new(view)).await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    super::metrics::check(&answer.body);
}
