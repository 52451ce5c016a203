//! A small client of data channels, after AWS's session-manager-plugin.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use local_cluster::{Credentials, LocalCluster};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, client::IntoClientRequest},
};

pub(crate) use tokio_tungstenite::tungstenite::Message as Frame;

use crate::signer::{Headers, Signer};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) fn digest(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

/// A message, as a client writes it.
pub(crate) fn encode(kind: &str, sequence: i64, payload_type: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(116_u32.to_be_bytes());
    frame.extend(format!("{kind:<32}").as_bytes());
    frame.extend(1_u32.to_be_bytes());
    frame.extend(1_700_000_000_000_u64.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(0_u64.to_be_bytes());
    frame.extend([7; 16]);
    frame.extend(digest(payload));
    frame.extend(payload_type.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers that sign a request to this service.
pub(crate) fn signature(
    credentials: &Credentials,
    service: &str,
    method: &str,
    url: &str,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> Headers {
    let Credentials { access_key_id, secret_access_key } = credentials;
    Signer { access_key_id, secret_access_key, service, at: SystemTime::now() }
        .sign(method, url, headers, body)
}

async fn post(
    cluster: &LocalCluster,
    service: &str,
    target: &str,
    parameters: Value,
) -> Result<Value, String> {
    post_as(cluster, cluster.credentials(), service, target, &parameters).await
}

/// A call that is signed with these credentials.
pub(crate) async fn post_as(
    cluster: &LocalCluster,
    credentials: &Credentials,
    service: &str,
    target: &str,
    parameters: &Value,
) -> Result<Value, String> {
    let endpoint = cluster.endpoint();
    let host = endpoint.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await.unwrap();
    let body = parameters.to_string();
    let mut headers = vec![("x-amz-target", target.to_owned())];
    headers.extend(signature(
        credentials,
        service,
        "POST",
        &format!("{endpoint}/"),
        &headers,
        body.as_bytes(),
    ));
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    if head.contains(" 200 ") {
        Ok(body)
    } else {
        Err(format!("{}: {}", body["__type"].as_str().unwrap(), body["message"].as_str().unwrap()))
    }
}

pub(crate) async fn ecs(
    cluster: &LocalCluster,
    action: &str,
    parameters: Value,
) -> Result<Value, String> {
    post(cluster, "ecs", &format!("AmazonEC2ContainerServiceV20141113.{action}"), parameters).await
}

pub(crate) async fn ssm(
    cluster: &LocalCluster,
    action: &str,
    parameters: Value,
) -> Result<Value, String> {
    post(cluster, "ssm", &format!("AmazonSSM.{action}"), parameters).await
}

pub(crate) async fn kms(cluster: &LocalCluster, parameters: Value) -> Result<Value, String> {
    post(cluster, "kms", "TrentService.GenerateDataKey", parameters).await
}

/// A new task.
pub(crate) async fn task(cluster: &LocalCluster, exec: bool) -> String {
    let parameters = json!({
        "cluster": "local",
        "taskDefinition": "local-job",
        "enableExecuteCommand": exec,
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-local"] } },
    });
    let answer = ecs(cluster, "RunTask", parameters).await.unwrap();
    let task = answer["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
    if !exec {
        until(cluster, &task, |task| task["lastStatus"] == "RUNNING").await;
    }
    task
}

/// Describes the task until it looks as wanted.
pub(crate) async fn until(
    cluster: &LocalCluster,
    task: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let looking = async {
        loop {
            let answer =
                ecs(cluster, "DescribeTasks", json!({ "cluster": "local", "tasks": [task] }))
                    .await
                    .unwrap();
            if wanted(&answer["tasks"][0]) {
                return answer["tasks"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap()
}

/// The statuses of the task's agent, until it runs.
pub(crate) async fn managed_agent_states(cluster: &LocalCluster, task: &str) -> Vec<String> {
    let states = std::cell::RefCell::new(Vec::new());
    until(cluster, task, |task| {
        let agent = &task["containers"][0]["managedAgents"][0];
        if let Some(state) = agent["lastStatus"].as_str() {
            let mut states = states.borrow_mut();
            if states.last().is_none_or(|last: &String| last != state) {
                states.push(state.to_owned());
            }
        }
        agent["lastStatus"] == "RUNNING"
    })
    .await;
    states.into_inner()
}

/// Executes commands until one is taken and over.
pub(crate) async fn until_connected(cluster: &LocalCluster, task: &str) {
    let trying = async {
        loop {
            let parameters =
                json!({ "cluster": "local", "task": task, "command": "true", "interactive": true });
            if let Ok(answer) = ecs(cluster, "ExecuteCommand", parameters).await {
                let opened = Opened::from(&answer["session"]);
                ssm(cluster, "TerminateSession", json!({ "SessionId": opened.id })).await.unwrap();
                let over = async || {
                    ssm(cluster, "ResumeSession", json!({ "SessionId": opened.id }))
                        .await
                        .unwrap()
                        .get("TokenValue")
                        .is_none()
                };
                while !over().await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, trying).await.unwrap();
}

pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

/// What opens a session.
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) token: String,
}

impl From<&Value> for Opened {
    /// From an answer of ECS's or of SSM's.
    fn from(session: &Value) -> Self {
        let text = |small: &str, large: &str| {
            session
                .get(small)
                .or(session.get(large))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            id: text("sessionId", "SessionId"),
            url: text("streamUrl", "StreamUrl"),
            token: text("tokenValue", "TokenValue"),
        }
    }
}

/// Opens a WebSocket, or says with which status that was refused.
pub(crate) async fn dial(url: &str, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let address = url.trim_start_matches("ws://").split('/').next().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(e) => panic!("{e}"),
    }
}

pub(crate) async fn say(socket: &mut Socket, frame: Frame) {
    // The other end may have had enough.
    let _ = timeout(PATIENCE, socket.send(frame)).await.unwrap();
}

/// The close frame that comes next.
pub(crate) async fn closes(socket: &mut Socket) -> Option<String> {
    match timeout(PATIENCE, socket.next()).await.unwrap() {
        Some(Ok(Frame::Close(Some(close)))) => {
            Some(format!("{} {}", u16::from(close.code), close.reason))
        }
        _ => None,
    }
}

pub(crate) fn opening(token: &str) -> String {
    let opening = json!({
        "MessageSchemaVersion": "1.0", "RequestId": "r", "TokenValue": token, "ClientId": "c", "ClientVersion": "1.2.764.0",
    });
    opening.to_string()
}

/// What a client sees.
#[derive(Debug)]
pub(crate) enum Seen {
    Output {
        sequence: i64,
    },
    Acknowledged(i64),
    Closed(String),
    /// The connection is over: the close frame, if there was one.
    Lost(Option<String>),
    Other,
}

struct Keys {
    opening: LessSafeKey,
    sealing: LessSafeKey,
}

/// A client with a session.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) output: Vec<u8>,
    /// The flags of the output, in order.
    pub(crate) flags: Vec<u64>,
    pub(crate) longest: usize,
    pub(crate) acknowledges: bool,
    /// Messages that were damaged.
    pub(crate) dropped: usize,
    pub(crate) pauses: usize,
    pub(crate) starts: usize,
    /// The next sequence number of the input.
    pub(crate) next: i64,
    expected: i64,
    early: BTreeMap<i64, (u32, Vec<u8>)>,
    /// The last payload that was no output.
    special: Option<(u32, Vec<u8>)>,
    acknowledged: Vec<i64>,
    keys: Option<Keys>,
}

impl Client {
    pub(crate) async fn open(opened: &Opened, token: &str) -> Self {
        let mut socket = dial(&opened.url, &[]).await.unwrap();
        say(&mut socket, Frame::text(opening(token))).await;
        Self {
            socket,
            output: Vec::new(),
            flags: Vec::new(),
            longest: 0,
            acknowledges: true,
            dropped: 0,
            pauses: 0,
            starts: 0,
            next: 0,
            expected: 0,
            early: BTreeMap::new(),
            special: None,
            acknowledged: Vec::new(),
            keys: None,
        }
    }

    /// The same session over another connection.
    pub(crate) async fn reopen(mut self, opened: &Opened) -> Self {
        self.socket = dial(&opened.url, &[]).await.unwrap();
        say(&mut self.socket, Frame::text(opening(&opened.token))).await;
        self
    }

    pub(crate) fn continue_from(&mut self, other: &Self) {
        self.expected = other.expected;
        self.next = other.next;
    }

    pub(crate) async fn send(&mut self, sequence: i64, payload_type: u32, payload: &[u8]) {
        say(
            &mut self.socket,
            Frame::binary(encode("input_stream_data", sequence, payload_type, payload)),
        )
        .await;
    }

    /// Sends the next of the input, again and again.
    pub(crate) async fn send_until_acknowledged(&mut self, payload_type: u32, payload: &[u8]) {
        let sequence = self.next;
        self.next += 1;
        for _ in 0..300 {
            self.send(sequence, payload_type, payload).await;
            let seen = timeout(Duration::from_millis(100), async {
                while !self.acknowledged.contains(&sequence) {
                    if let Seen::Lost(why) = self.next().await {
                        panic!("the connection is lost: {why:?}");
                    }
                }
            });
            if seen.await.is_ok() {
                return;
            }
        }
        panic!("{sequence} is never acknowledged");
    }

    /// Sends the next of the input once, and waits a little for its acknowledgement.
    pub(crate) async fn is_acknowledged_soon(&mut self, payload_type: u32, payload: &[u8]) -> bool {
        self.send(self.next, payload_type, payload).await;
        let sequence = self.next;
        let acknowledged = async { while self.next_acknowledgement().await != sequence {} };
        timeout(Duration::from_millis(1500), acknowledged).await.is_ok()
    }

    pub(crate) async fn next_acknowledgement(&mut self) -> i64 {
        loop {
            if let Seen::Acknowledged(sequence) = self.next().await {
                return sequence;
            }
        }
    }

    /// Whether an acknowledgement can be read without waiting.
    pub(crate) async fn acknowledgement_is_there(&mut self) -> bool {
        matches!(timeout(Duration::ZERO, self.next()).await, Ok(Seen::Acknowledged(_)))
    }

    pub(crate) async fn is_silent(&mut self, during: Duration) -> bool {
        timeout(during, self.next()).await.is_err()
    }

    pub(crate) async fn until_output(&mut self, wanted: &[u8]) {
        let begun = self.output.len();
        while !self.output.windows(wanted.len()).any(|window| window == wanted) {
            match self.next().await {
                Seen::Lost(why) => panic!("the connection is lost after {begun} bytes: {why:?}"),
                Seen::Closed(why) => panic!("the session ended: {why}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn until_payload(&mut self, payload_type: u32) -> Value {
        loop {
            if let Some((found, payload)) = self.special.take()
                && found == payload_type
            {
                return serde_json::from_slice(&payload).unwrap();
            }
            self.next().await;
        }
    }

    /// All output, and the text of `channel_closed`.
    pub(crate) async fn until_closed(&mut self) -> (Vec<u8>, String) {
        loop {
            match self.next().await {
                Seen::Closed(text) => return (self.output.clone(), text),
                Seen::Lost(why) => panic!("the connection is lost: {why:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn until_closed_or_gone(&mut self) {
        while !matches!(self.next().await, Seen::Closed(_) | Seen::Lost(_)) {}
    }

    /// The close frame, if there was one; silence counts as loss.
    pub(crate) async fn until_lost(&mut self) -> Option<String> {
        loop {
            match timeout(Duration::from_millis(1500), self.next()).await {
                Ok(Seen::Lost(why)) => return why,
                Ok(Seen::Closed(text)) => panic!("the session ended: {text}"),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let frame = match timeout(PATIENCE, self.socket.next()).await.unwrap() {
            Some(Ok(Frame::Binary(frame))) => frame,
            Some(Ok(Frame::Close(close))) => {
                return Seen::Lost(
                    close.map(|close| format!("{} {}", u16::from(close.code), close.reason)),
                );
            }
            None | Some(Err(_)) => return Seen::Lost(None),
            Some(Ok(_)) => return Seen::Other,
        };
        let long = |at: usize| i64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
        let payload = &frame[120..];
        if frame[80..112] != digest(payload) {
            self.dropped += 1;
            return Seen::Other;
        }
        match std::str::from_utf8(&frame[4..36]).unwrap().trim() {
            "output_stream_data" => {
                let payload_type = u32::from_be_bytes(frame[112..116].try_into().unwrap());
                let sequence = long(48);
                if sequence == self.expected {
                    self.flags.push(long(56).cast_unsigned());
                }
                self.take(sequence, payload_type, payload.to_vec());
                if self.acknowledges {
                    let content = json!({
                        "AcknowledgedMessageType": "output_stream_data",
                        "AcknowledgedMessageId": "00000000-0000-4000-8000-000000000000",
                        "AcknowledgedMessageSequenceNumber": sequence,
                        "IsSequentialMessage": true,
                    });
                    say(
                        &mut self.socket,
                        Frame::binary(encode("acknowledge", 0, 0, content.to_string().as_bytes())),
                    )
                    .await;
                }
                Seen::Output { sequence }
            }
            "acknowledge" => {
                let content: Value = serde_json::from_slice(payload).unwrap();
                assert_eq!(
                    content["AcknowledgedMessageId"],
                    "07070707-0707-0707-0707-070707070707"
                );
                let sequence = content["AcknowledgedMessageSequenceNumber"].as_i64().unwrap();
                self.acknowledged.push(sequence);
                Seen::Acknowledged(sequence)
            }
            "channel_closed" => {
                let content: Value = serde_json::from_slice(payload).unwrap();
                Seen::Closed(content["Output"].as_str().unwrap().to_owned())
            }
            "pause_publication" => {
                self.pauses += 1;
                Seen::Other
            }
            "start_publication" => {
                self.starts += 1;
                Seen::Other
            }
            other => panic!("{other} is not for clients"),
        }
    }

    fn take(&mut self, sequence: i64, payload_type: u32, payload: Vec<u8>) {
        if sequence >= self.expected {
            self.early.insert(sequence, (payload_type, payload));
        }
        while let Some((payload_type, payload)) = self.early.remove(&self.expected) {
            self.expected += 1;
            if payload_type == 1 {
                let plain = match &self.keys {
                    Some(keys) => open(&keys.opening, &payload),
                    None => payload,
                };
                self.longest = self.longest.max(plain.len());
                self.output.extend(plain);
            } else {
                self.special = Some((payload_type, payload));
            }
        }
    }

    /// Takes a data key: the first half is the agent's to seal with, the second the client's.
    pub(crate) fn key(&mut self, plaintext: &Value) {
        let key = STANDARD.decode(plaintext.as_str().unwrap()).unwrap();
        let half = |half: &[u8]| LessSafeKey::new(UnboundKey::new(&AES_256_GCM, half).unwrap());
        self.keys = Some(Keys { opening: half(&key[..32]), sealing: half(&key[32..]) });
    }

    pub(crate) fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let keys = self.keys.as_ref().unwrap();
        let nonce = [9; 12];
        let mut sealed = plain.to_vec();
        keys.sealing
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut sealed,
            )
            .unwrap();
        [&nonce[..], &sealed].concat()
    }

    /// The answer to a challenge.
    pub(crate) fn meet(&self, challenge: &Value) -> String {
        let sealed = STANDARD.decode(challenge["Challenge"].as_str().unwrap()).unwrap();
        let plain = open(&self.keys.as_ref().unwrap().opening, &sealed);
        json!({ "Challenge": STANDARD.encode(self.seal(&plain)) }).to_string()
    }
}

fn open(key: &LessSafeKey, sealed: &[u8]) -> Vec<u8> {
    let nonce = Nonce::try_assume_unique_for_key(&sealed[..12]).unwrap();
    let mut plain = sealed[12..].to_vec();
    let length = key.open_in_place(nonce, Aad::empty(), &mut plain).unwrap().len();
    plain.truncate(length);
    plain
}
