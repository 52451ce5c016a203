//! HTTP/1.1 as far as the tests need it: one request per connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// A request or an answer.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Request line or status line.
    pub first: String,
    /// Header lines, unchanged.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one message; `None` if the peer sends none.
    pub fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut message = Self { first: line(&mut reader)?, ..Self::default() };
        loop {
            match line(&mut reader)? {
                empty if empty.is_empty() => break,
                header => message.headers.push(header),
            }
        }
        match message.header("content-length") {
            Some(length) => {
                message.body = vec![0; length.parse().ok()?];
                reader.read_exact(&mut message.body).ok()?;
            }
            None if message.first.starts_with("HTTP") => {
                reader.read_to_end(&mut message.body).ok()?;
            }
            None => {}
        }
        Some(message)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .filter_map(|h| h.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }

    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// Writes it as the only message of its connection.
    pub fn write(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut bytes = format!("{}\r\n", self.first).into_bytes();
        let own = ["content-length", "connection", "transfer-encoding"];
        for header in &self.headers {
            let name = header.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if !own.contains(&name.as_str()) {
                bytes.extend_from_slice(format!("{header}\r\n").as_bytes());
            }
        }
        bytes.extend_from_slice(
            format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len()).as_bytes(),
        );
        bytes.extend_from_slice(&self.body);
        stream.write_all(&bytes)
    }
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
}

/// Makes a request to `http://host:port`.
pub fn request(endpoint: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Message {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let stream = TcpStream::connect(host).unwrap();
    let mut headers: Vec<String> = headers.iter().map(ToString::to_string).collect();
    headers.push(format!("Host: {host}"));
    Message { first: format!("{method} {path} HTTP/1.1"), headers, body: body.to_vec() }
        .write(&stream)
        .unwrap();
    Message::read(&stream).unwrap()
}
