//! A service for one session: the API, and the other end of its data channel, message by message.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use states::{ConnectError, HostIdentity, Target, TaskArn};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};
use transports::{
    Terminal,
    ecs_exec::{
        Container, ExecApi, ExecTerminal, ExecTransport, ListedSession, NotDone, NotOpened,
        OpenedSession,
        channel::{DataKey, NoKey},
        frame::{Frame, Kind, MessageId, payload_type},
    },
};

pub(crate) const TOKEN: &str = "a-secret-that-is-nowhere-else";
const SESSION: &str = "ecs-execute-command-0123456789";
const PATH: &str = "/v1/data-channel/ecs-execute-command-0123456789?role=publish_subscribe&cell-number=AAEAAT+/x==";
/// The time limit for an expected event.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// How long to wait for an event that must not come.
const SHORT: Duration = Duration::from_millis(300);

/// The AWS calls.
#[derive(Clone)]
struct Api {
    url: String,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl ExecApi for Api {
    async fn identify(&self, _: &Target) -> Result<Container, ConnectError> {
        Ok(Container { identity: HostIdentity("runtime".to_owned()), target: "ecs:x".to_owned() })
    }

    async fn execute(&self, _: &Target, _: &str) -> Result<OpenedSession, NotOpened> {
        Ok(OpenedSession { id: SESSION.to_owned(), url: self.url.clone(), token: TOKEN.to_owned() })
    }

    async fn sign(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Ok(vec![("x-signed".to_owned(), "yes".to_owned())])
    }

    async fn data_key(&self, _: &str, _: &[(&str, &str)]) -> Result<DataKey, NoKey> {
        Err(NoKey { why: "not here".to_owned(), transient: true })
    }

    async fn terminate(&self, session: &str) -> Result<(), NotDone> {
        self.terminated.lock().unwrap().push(session.to_owned());
        Ok(())
    }

    async fn sessions(&self, _: &str) -> Result<Vec<ListedSession>, NotDone> {
        // Interactive terminals list sessions first.
        Ok(Vec::new())
    }
}

/// The agent's and the service's side of a data channel.
pub(crate) struct Service {
    socket: WebSocketStream<TcpStream>,
    terminated: Arc<Mutex<Vec<String>>>,
    /// The request that opened the connection: path, headers.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    /// The number of the next output.
    next: i64,
}

/// Opens a session whose command has said nothing yet.
pub(crate) async fn session() -> (ExecTerminal, Service) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}{PATH}", listener.local_addr().unwrap());
    let terminated = Arc::<Mutex<Vec<String>>>::default();
    let transport = ExecTransport::new(Api { url, terminated: Arc::clone(&terminated) });
    let accepted = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut path, mut headers) = (String::new(), HashMap::new());
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let look = |request: &Request, response: Response| {
            path = request.uri().path_and_query().unwrap().to_string();
            headers = request
                .headers()
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned()))
                .collect();
            Ok(response)
        };
        let socket = accept_hdr_async(tcp, look).await.unwrap();
        Service { socket, terminated, path, headers, next: 0 }
    };
    let target = target();
    let (terminal, service) = tokio::join!(transport.run(&target, "/bin/sh", (200, 50)), accepted);
    (terminal.unwrap(), service)
}

/// Opens a session whose command runs; the terminal's size has been sent.
pub(crate) async fn running() -> (ExecTerminal, Service) {
    let (terminal, mut service) = session().await;
    service.opening().await;
    service.say(b"BOOT\n").await;
    assert_eq!(service.acknowledged().await, 0);
    let size = service.input().await;
    assert_eq!((size.sequence, size.payload_type), (0, payload_type::SIZE));
    service.acknowledge(&size).await;
    assert_eq!(read(&terminal, 5).await, b"BOOT\n");
    (terminal, service)
}

impl Service {
    /// Returns the connection's next message, undecoded.
    pub(crate) async fn message(&mut self) -> Message {
        timeout(LONG, self.socket.next()).await.expect("a message comes").unwrap().unwrap()
    }

    pub(crate) async fn opening(&mut self) -> String {
        match self.message().await {
            Message::Text(text) => text.to_string(),
            other => panic!("first comes {other:?}"),
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            match self.message().await {
                Message::Binary(bytes) => return Frame::parse(&bytes).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the next message, which must be input.
    pub(crate) async fn input(&mut self) -> Frame {
        let frame = self.frame().await;
        assert_eq!(frame.kind, Kind::Input, "{frame:?}");
        frame
    }

    /// Returns the number of the output that the next message acknowledges.
    pub(crate) async fn acknowledged(&mut self) -> i64 {
        let frame = self.frame().await;
        assert_eq!(frame.kind, Kind::Acknowledge, "{frame:?}");
        let said: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
        said["AcknowledgedMessageSequenceNumber"].as_i64().unwrap()
    }

    pub(crate) async fn acknowledgements(&mut self, count: usize) -> Vec<i64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(self.acknowledged().await);
        }
        numbers
    }

    /// Asserts that only keep-alives come for a while.
    pub(crate) async fn assert_silence(&mut self) {
        if let Ok(frame) = timeout(SHORT, self.frame()).await {
            panic!("unexpected: {frame:?}");
        }
    }

    /// Waits until the client has handled everything that was sent: it answers a ping that comes
    /// after it.
    pub(crate) async fn settled(&mut self) {
        self.socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
        loop {
            match self.message().await {
                Message::Pong(_) => return,
                Message::Binary(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn raw(&mut self, bytes: impl Into<Bytes>) {
        timeout(LONG, self.socket.send(Message::Binary(bytes.into())))
            .await
            .expect("the client reads")
            .unwrap();
    }

    pub(crate) async fn send(
        &mut self,
        kind: Kind,
        sequence: i64,
        payload_type: u32,
        payload: &[u8],
    ) {
        self.raw(encoded(kind, sequence, payload_type, payload)).await;
    }

    /// Sends output with this number.
    pub(crate) async fn output(&mut self, sequence: i64, payload: &[u8]) {
        self.send(Kind::Output, sequence, payload_type::OUTPUT, payload).await;
    }

    /// Sends the next output.
    pub(crate) async fn say(&mut self, payload: &[u8]) {
        self.output(self.next, payload).await;
        self.next += 1;
    }

    pub(crate) async fn acknowledge(&mut self, frame: &Frame) {
        self.raw(acknowledgement(frame)).await;
    }

    pub(crate) async fn close_channel(&mut self, output: &str) {
        self.send(
            Kind::ChannelClosed,
            0,
            0,
            serde_json::json!({ "Output": output }).to_string().as_bytes(),
        )
        .await;
    }

    /// Returns the connection itself, and the record of terminations.
    pub(crate) fn into_parts(self) -> (WebSocketStream<TcpStream>, Terminated) {
        (self.socket, Terminated(self.terminated))
    }
}

/// The sessions for which TerminateSession was called.
pub(crate) struct Terminated(Arc<Mutex<Vec<String>>>);

impl Terminated {
    pub(crate) async fn assert_called(&self) {
        let called = async {
            while self.0.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, called).await.expect("the session is terminated");
        assert_eq!(*self.0.lock().unwrap(), [SESSION]);
    }

    pub(crate) fn assert_never(&self) {
        assert_eq!(*self.0.lock().unwrap(), [""; 0]);
    }
}

pub(crate) fn encoded(kind: Kind, sequence: i64, payload_type: u32, payload: &[u8]) -> Bytes {
    let payload = Bytes::copy_from_slice(payload);
    Frame {
        kind,
        sequence,
        flags: 0,
        id: MessageId::random(rand::random()),
        created: 1,
        payload_type,
        payload,
    }
    .encode()
}

pub(crate) fn acknowledgement(frame: &Frame) -> Bytes {
    let said = serde_json::json!({
        "AcknowledgedMessageType": "input_stream_data",
        "AcknowledgedMessageId": frame.id.hyphenated(),
        "AcknowledgedMessageSequenceNumber": frame.sequence,
        "IsSequentialMessage": true,
    });
    encoded(Kind::Acknowledge, 0, 0, said.to_string().as_bytes())
}

/// Reads exactly so many bytes of output.
pub(crate) async fn read(terminal: &impl Terminal, size: usize) -> Vec<u8> {
    let mut output = Vec::new();
    while output.len() < size {
        let read = timeout(LONG, terminal.read()).await.expect("output comes");
        output.extend_from_slice(&read.unwrap().expect("the session goes on"));
    }
    assert_eq!(
        output.len(),
        size,
        "more than was expected: {:?}",
        String::from_utf8_lossy(&output[size..])
    );
    output
}

/// Reads to the end. Returns the output, and why it ended (`None`: the command just ended).
pub(crate) async fn read_to_end(terminal: &impl Terminal) -> (Vec<u8>, Option<String>) {
    let mut output = Vec::new();
    loop {
        match timeout(LONG, terminal.read()).await.expect("it ends") {
            Ok(Some(bytes)) => output.extend_from_slice(&bytes),
            Ok(None) => return (output, None),
            Err(why) => return (output, Some(why)),
        }
    }
}

pub(crate) fn target() -> Target {
    Target {
        transport: "ecs-exec".into(),
        destination: states::Destination::Task,
        cluster: "ci".to_owned(),
        task: TaskArn::new(
            "arn:aws:ecs:eu-west-1:111122223333:task/ci/0123456789abcdef0123456789abcdef",
        )
        .unwrap(),
        container: "ci-coordinator".to_owned(),
        key: PathBuf::new(),
        pinned: None,
        host_proof: None,
        facts: None,
        shared: None,
        connect_timeout: LONG,
        attempt_timeout: LONG,
    }
}
