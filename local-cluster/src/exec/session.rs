//! The service's sessions.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::message::Message;
use crate::{
    clock::seconds,
    cluster::{Cluster, Task},
    ids::random_id,
};

/// How many sessions are remembered, running and ended.
const REMEMBERED: usize = 1000;
/// The API that the service's clients dial.
pub(super) const DATA_CHANNEL: &str = "/v1/data-channel/";

/// A session.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) container: String,
    /// The agent's name in Session Manager and the encryption context.
    pub(crate) target: String,
    /// When it was requested, in Unix time in seconds.
    pub(crate) began: f64,
    /// The service's cell number: an opaque value, with characters that clients may escape by
    /// mistake.
    cell: String,
    tokens: Mutex<Vec<(String, Instant)>>,
    control: mpsc::Sender<Control>,
    /// The text of `channel_closed`, once the session is over.
    ended: watch::Sender<Option<String>>,
}

/// A message of the service to a session.
pub(super) enum Control {
    /// A client has connected.
    Attach(Attachment),
    /// A client has requested another token.
    Resume,
    /// The session has to end.
    Terminate,
}

/// A client's connection.
pub(super) struct Attachment {
    pub(super) frames: mpsc::Sender<ToClient>,
    pub(super) input: mpsc::Receiver<Message>,
}

/// A message to a client.
#[derive(Debug, Clone)]
pub(super) enum ToClient {
    /// A message of the agent's.
    Frame(Bytes),
    /// The service's last message.
    Closed(Bytes),
}

impl Session {
    pub(super) fn new(
        cluster: &Cluster,
        task: &Task,
        container: &str,
    ) -> (Arc<Self>, mpsc::Receiver<Control>) {
        let (control, receiver) = mpsc::channel(16);
        let session = Arc::new(Self {
            id: format!("ecs-execute-command-{}", random_id(9)),
            container: container.to_owned(),
            target: format!(
                "ecs:{}_{}_{}",
                task.launch.cluster,
                task.id,
                task.runtime_id(container)
            ),
            began: seconds(),
            cell: format!("AAEAAT{}+/{}==", random_id(8), random_id(3)),
            tokens: Mutex::default(),
            control,
            ended: watch::Sender::new(None),
        });
        cluster.sessions.remember(Arc::clone(&session));
        (session, receiver)
    }

    /// The URL of the data channel, from the path on.
    pub(crate) fn path(&self) -> String {
        format!("{DATA_CHANNEL}{}?role=publish_subscribe&cell-number={}", self.id, self.cell)
    }

    /// Whether a client dials the URL of the session: byte for byte, or with the reserved
    /// characters escaped.
    pub(super) fn is_dialled_by(&self, query: &str) -> bool {
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let cell = value("cell-number")
            .map(|cell| cell.replace("%2B", "+").replace("%2F", "/").replace("%3D", "="));
        value("role") == Some("publish_subscribe") && cell.as_deref() == Some(&self.cell)
    }

    /// Returns another token, which opens a connection for a limited time.
    pub(crate) fn token(&self, lifetime: Duration) -> String {
        let token = format!("AAEAA{}", random_id(48));
        self.valid_tokens().push((token.clone(), Instant::now() + lifetime));
        token
    }

    pub(super) fn admits(&self, token: &str) -> bool {
        self.valid_tokens().iter().any(|(valid, _)| valid == token)
    }

    fn valid_tokens(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|(_, until)| *until > now);
        tokens
    }

    /// Returns the text that it ended with, if it has ended.
    pub(crate) fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    pub(super) fn end(&self, output: &str) {
        self.ended.send_replace(Some(output.to_owned()));
    }

    /// Passes a client's connection to the session. Returns `false` if it is over.
    pub(super) async fn attach(&self, attachment: Attachment) -> bool {
        self.control.send(Control::Attach(attachment)).await.is_ok()
    }

    /// Resumes the session for a client: the idle time starts again.
    pub(crate) fn resume(&self) {
        // Ended, or so busy that it is not idle anyway.
        let _ = self.control.try_send(Control::Resume);
    }

    /// Ends the session; a session that is over stays so.
    pub(crate) fn terminate(&self) {
        let control = self.control.clone();
        tokio::spawn(async move { control.send(Control::Terminate).await });
    }

    /// The service's last message.
    pub(super) fn closing(&self, output: &str) -> ToClient {
        ToClient::Closed(Message::closed(&self.id, &self.target, output).encode())
    }
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    known: Mutex<VecDeque<Arc<Session>>>,
}

impl Sessions {
    fn remember(&self, session: Arc<Session>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED
            && let Some(oldest) = known.iter().position(|session| session.ended().is_some())
        {
            known.remove(oldest);
        }
        known.push_back(session);
    }

    /// Returns the remembered sessions, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Session>> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|session| session.id == id)
            .cloned()
    }
}
