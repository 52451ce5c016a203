//! A transport of the tests: a container's commands are local processes, with pipes for their input
//! and outputs. It reaches the tasks of the local cluster, which are processes of this machine.
//!
//! It shows the parts of a transport: this folder, and a line in `src/transport.rs`.

use std::{borrow::Cow, collections::BTreeMap, io, path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use aws_credential_types::provider::ProvideCredentials as _;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use states::{
    ConnectError, ConnectErrorKind, Greeting, HostIdentity, Readiness, Target, TransportRecord,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, ChildStdout},
    sync::mpsc,
};
use transports::{
    Connector, Declaration,
    delivery::{Channel, Chunk, Command, Exec, Session},
};

use super::Registration;
use crate::control::EcsControl;

pub(super) const REGISTRATION: Registration = Registration {
    declaration: &DECLARATION,
    connector: |_, control| Box::new(Pipes(control.clone())),
};

static DECLARATION: Declaration = Declaration {
    record: TransportRecord {
        name: Cow::Borrowed("pipes"),
        readiness: Readiness::Probed,
        attempt_timeout: Duration::from_secs(5),
    },
    about: "Local processes over pipes",
    table: None,
    is_offered: false,
    needs_address: false,
    needs_login: false,
    needs_execute_command: false,
};

/// It asks the local cluster about its tasks, at the address of the calls to ECS.
struct Pipes(EcsControl);

#[async_trait]
impl Connector for Pipes {
    async fn connect(&self, target: &Target) -> Result<(Session, Greeting), ConnectError> {
        let error = |kind, why: String| ConnectError {
            kind,
            message: format!("the processes of task {} are not reached: {why}", target.task),
            cause: states::ConnectCause::General,
        };
        let containers = containers(&self.0)
            .await
            .map_err(|e| error(ConnectErrorKind::Unreachable, e.to_string()))?;
        let container = containers
            .into_iter()
            .find(|container| container.task == target.task.as_str())
            .ok_or_else(|| error(ConnectErrorKind::Refused, "it does not run".to_owned()))?;
        Session::open(container, HostIdentity(target.task.to_string()), target).await
    }
}

/// A running task's container, as the local cluster shows it: environment and directory of its
/// processes.
#[derive(Deserialize)]
struct Container {
    task: String,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    /// The words in front of a command that lead it into the container's namespaces.
    enter: Vec<String>,
}

/// Returns the local cluster's containers.
async fn containers(control: &EcsControl) -> io::Result<Vec<Container>> {
    let lacking = |what| io::Error::other(format!("the configuration has no {what}"));
    let config = control.configuration().await;
    let endpoint = config.endpoint_url().ok_or_else(|| lacking("endpoint"))?;
    let provider = config.credentials_provider().ok_or_else(|| lacking("credentials"))?;
    let credentials = provider.provide_credentials().await.map_err(io::Error::other)?;
    let secret = credentials.secret_access_key();
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let request = format!(
        "GET /_containers HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    );
    let mut stream = BufReader::new(TcpStream::connect(host).await?);
    stream.write_all(request.as_bytes()).await?;
    let (mut line, mut size) = (String::new(), 0);
    while stream.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            size = value.trim().parse().map_err(io::Error::other)?;
        }
        line.clear();
    }
    // A proxy in between may keep the connection open.
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map_err(io::Error::other)
}

#[async_trait]
impl Exec for Container {
    async fn exec(&self, command: Command, input: Bytes) -> Result<Box<dyn Channel>, String> {
        let words = [self.enter.as_slice(), &["/bin/sh".to_owned()]].concat();
        let mut child = tokio::process::Command::new(&words[0])
            .args(&words[1..])
            .arg("-c")
            .arg(command.line())
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.directory)
            // Signals are for the driver, not for the container.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (later, mut sent) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            let Some(mut stdin) = stdin else { return };
            // A command may end without reading its input.
            let _ = stdin.write_all(&input).await;
            if command.follows() {
                // It ends when the channel is dropped.
                while let Some(input) = sent.recv().await {
                    let _ = stdin.write_all(&input).await;
                }
            }
        });
        Ok(Box::new(Running { child, out, err, input: later }))
    }

    fn sends_later(&self) -> bool {
        true
    }
}

struct Running {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    /// Keeps the command's input open.
    input: mpsc::Sender<Bytes>,
}

#[async_trait]
impl Channel for Running {
    async fn send(&mut self, input: Bytes) -> Result<(), String> {
        self.input.send(input).await.map_err(|e| e.to_string())
    }

    async fn next(&mut self) -> Chunk {
        let mut out = BytesMut::with_capacity(32 * 1024);
        let mut err = BytesMut::with_capacity(1024);
        loop {
            tokio::select! {
                size = read(&mut self.out, &mut out), if self.out.is_some() => match size {
                    Ok(0) => self.out = None,
                    Ok(_) => return Chunk::Out(out.freeze()),
                    Err(e) => return Chunk::Lost(e.to_string()),
                },
                size = read(&mut self.err, &mut err), if self.err.is_some() => match size {
                    Ok(0) => self.err = None,
                    Ok(_) => return Chunk::Err(err.freeze()),
                    Err(e) => return Chunk::Lost(e.to_string()),
                },
                status = self.child.wait(), if self.out.is_none() && self.err.is_none() => {
                    let code = status.ok().and_then(|status| status.code());
                    return Chunk::Ended { status: code.and_then(|code| u32::try_from(code).ok()) };
                }
            }
        }
    }
}

async fn read(from: &mut Option<impl AsyncRead + Unpin>, to: &mut BytesMut) -> io::Result<usize> {
    match from {
        Some(pipe) => pipe.read_buf(to).await,
        None => std::future::pending().await,
    }
}
