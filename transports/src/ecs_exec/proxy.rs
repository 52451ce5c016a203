//! Connects to a service: directly, or through the environment's proxy (`HTTPS_PROXY`, `ALL_PROXY`,
//! `NO_PROXY`). The AWS SDK uses the same library to read these.

use std::{io, time::Duration};

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::http::Uri;

/// How long a connection may take, and a proxy's answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest answer of a proxy's.
const LONGEST_ANSWER: usize = 8 * 1024;

/// Opens a TCP connection to the host, possibly through a proxy.
pub(super) async fn connect(proxies: &Matcher, host: &str, port: u16) -> io::Result<TcpStream> {
    // An IPv6 address in a URL, and in CONNECT.
    let name = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let url: Option<Uri> = format!("https://{name}:{port}/").parse().ok();
    match url.and_then(|url| proxies.intercept(&url)) {
        Some(proxy) => through(&proxy, &format!("{name}:{port}")).await,
        None => dial(host, port).await,
    }
}

/// Opens a TCP connection to the host.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let late = |_| io::Error::other(format!("no answer within {} s", WITHIN.as_secs()));
    let tcp = timeout(WITHIN, TcpStream::connect((host, port))).await.map_err(late)??;
    // Acknowledgements are small and must not wait for each other.
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// HTTP's CONNECT (RFC 9110, section 9.3.6).
async fn through(proxy: &Intercept, authority: &str) -> io::Result<TcpStream> {
    let uri = proxy.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let failed = |e: &dyn std::fmt::Display| {
        io::Error::other(format!("by the proxy {host} (HTTPS_PROXY): {e}"))
    };
    if uri.scheme_str() != Some("http") {
        return Err(failed(&format!(
            "it is to be spoken to by {}, expected http",
            uri.scheme_str().unwrap_or("nothing")
        )));
    }
    let mut tcp = dial(host, uri.port_u16().unwrap_or(80)).await.map_err(|e| failed(&e))?;
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(secret) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(secret.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let answered = async {
        tcp.write_all(&request).await?;
        answer(&mut tcp).await
    };
    let status = timeout(WITHIN, answered)
        .await
        .map_err(|_| failed(&"no answer in time"))?
        .map_err(|e| failed(&e))?;
    if status.starts_with('2') { Ok(tcp) } else { Err(failed(&format!("it answers {status}"))) }
}

/// Reads the status of an answer. Bytes after its head are not the proxy's, so they are not read.
async fn answer(tcp: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_ANSWER {
            return Err(io::Error::other("its answer has no end"));
        }
        head.push(tcp.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let status = head
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split_once(' '));
    status
        .map(|(_, status)| status.to_owned())
        .ok_or_else(|| io::Error::other("its answer is not HTTP's"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Starts a proxy that answers with this, and then echoes. Returns the request.
    async fn proxy(answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(answer).await.unwrap();
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            String::from_utf8(head).unwrap()
        });
        (port, asked)
    }

    #[tokio::test]
    async fn connect_opens_a_tunnel_through_the_proxy() {
        let (port, asked) =
            proxy(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst").await;
        let proxies = Matcher::builder()
            .https(format!("http://user:pass@127.0.0.1:{port}"))
            .no("elsewhere.test")
            .build();
        let mut tcp = connect(&proxies, "ssmmessages.eu-west-1.amazonaws.com", 443).await.unwrap();
        tcp.write_all(b" second").await.unwrap();
        let mut echo = [0; 12];
        tcp.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"first second");
        drop(tcp);
        let expected = "CONNECT ssmmessages.eu-west-1.amazonaws.com:443 HTTP/1.1\r\nHost: ssmmessages.eu-west-1.amazonaws.com:443\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n";
        assert_eq!(asked.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn proxy_refusals_omit_the_password() {
        for (answer, expected) in [
            (
                &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
                "it answers 407 Proxy Authentication Required",
            ),
            (b"SSH-2.0-x\r\n\r\n", "its answer is not HTTP's"),
        ] {
            let (port, _asked) = proxy(answer).await;
            let proxies =
                Matcher::builder().all(format!("http://user:pass@127.0.0.1:{port}")).build();
            let refused = connect(&proxies, "example.test", 443).await.unwrap_err().to_string();
            assert!(
                refused.contains(expected)
                    && refused.contains("127.0.0.1")
                    && !refused.contains("pass@"),
                "{refused}"
            );
        }
        let other = Matcher::builder().all("socks5h://127.0.0.1:1").build();
        assert!(
            connect(&other, "example.test", 443)
                .await
                .unwrap_err()
                .to_string()
                .contains("socks5h, expected http")
        );
    }

    #[tokio::test]
    async fn no_proxy_hosts_are_dialled_directly() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxies = Matcher::builder().all("http://192.0.2.1:1").no("127.0.0.0/8").build();
        let port = listener.local_addr().unwrap().port();
        connect(&proxies, "127.0.0.1", port).await.unwrap();
    }
}
