//! ECS Exec: a task's exec agent, and the service between the agent and its clients.
//!
//! Both follow AWS's own sources: amazon-ssm-agent for the agent, session-manager-plugin for the
//! client's expectations. The service in between is not published.
//!
//! - `message`: the binary messages; `stream`: their order and their acknowledgements;
//! - `terminal`, `words`, `filter`, `pace`: a command on a pseudo-terminal, its words, its output
//!   and how fast that is read;
//! - `agent`: one session: all of these together; `handshake`, `cipher`, `keys`: its beginning;
//! - `slots`: which sessions run and which wait; `rules`: the agent's strictness and pace;
//! - `gateway`: a session's connections, over WebSocket, with their faults.

mod agent;
mod cipher;
mod filter;
pub(crate) mod gateway;
mod handshake;
pub(crate) mod keys;
mod message;
mod pace;

mod rules;
mod session;
mod slots;
mod stream;
mod terminal;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{process::Command, sync::watch};

use crate::{
    clock::seconds,
    cluster::{Cluster, Task},
};
pub use rules::{AgentRules, Overflow};
pub(crate) use session::{Session, Sessions};

/// A task's exec agent.
pub(crate) struct ExecAgent {
    state: watch::Sender<State>,
    /// By container.
    slots: Mutex<HashMap<String, slots::Slots>>,
}

#[derive(Debug, Clone)]
struct State {
    stage: Stage,
    started: Option<f64>,
    reason: Option<String>,
}

/// The stage of an agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It does not run yet.
    Pending,
    /// It runs, without a connection to the service.
    Running,
    /// It accepts sessions.
    Connected,
    /// It accepts no new sessions; those that it has continue.
    Leaving,
    /// It is gone, and its sessions with it.
    Gone,
}

/// Where a container's sessions run.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) environment: Arc<BTreeMap<String, String>>,
    pub(crate) directory: PathBuf,
    /// The words in front of a command that lead it into the container's namespaces.
    pub(crate) enter: Vec<String>,
}

impl Surroundings {
    /// Returns a command in them.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match self.enter.split_first() {
            Some((tool, words)) => {
                let mut command = Command::new(tool);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env_clear().envs(self.environment.iter()).current_dir(&self.directory);
        command
    }
}

/// Why a session is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// All slots are taken.
    Taken,
}

impl ExecAgent {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(State { stage: Stage::Pending, started: None, reason: None }),
            slots: Mutex::default(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.state.borrow().stage
    }

    /// Returns it as in the API's `managedAgents`.
    pub(crate) fn shown(&self) -> Value {
        let state = self.state.borrow();
        let status = match state.stage {
            Stage::Pending => "PENDING",
            Stage::Running | Stage::Connected | Stage::Leaving => "RUNNING",
            Stage::Gone => "STOPPED",
        };
        let mut shown = json!({ "name": "ExecuteCommandAgent", "lastStatus": status });
        if let Some(started) = state.started {
            shown["lastStartedAt"] = json!(started);
        }
        if let Some(reason) = &state.reason {
            shown["reason"] = json!(reason);
        }
        shown
    }

    /// Starts, connects, and runs.
    pub(crate) async fn serve(&self, cluster: &Cluster, task: &Task) -> Infallible {
        let times = &task.times;
        let (never, late, stops) = {
            let exec = &cluster.faults().exec;
            (exec.never_connects, Duration::from_millis(exec.late_ms), exec.agent_stops.clone())
        };
        tokio::time::sleep(times.exec_agent).await;
        if let Some(reason) = stops {
            self.state.send_modify(|state| {
                state.stage = Stage::Gone;
                state.reason = Some(reason);
            });
            return std::future::pending().await;
        }
        self.state.send_modify(|state| {
            state.stage = Stage::Running;
            state.started = Some(seconds());
        });
        if !never {
            tokio::time::sleep(times.exec_connects + late).await;
            self.enter(Stage::Connected);
            task.mark_ready();
        }
        std::future::pending().await
    }

    /// Enters a later stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.state.send_if_modified(|state| {
            let later = stage > state.stage;
            if later {
                state.stage = stage;
            }
            later
        });
    }

    /// Starts a session in a container.
    pub(crate) fn open(
        &self,
        cluster: &Arc<Cluster>,
        task: &Task,
        container: &str,
        command: &str,
    ) -> Result<Arc<Session>, NoSlot> {
        let rules = cluster.settings.exec.agent;
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let slots =
                slots.entry(container.to_owned()).or_insert_with(|| slots::Slots::new(&rules));
            // The agent drops a command with a parameter of Systems Manager before it takes a slot.
            let dropped = rules.strict && command.contains("{{ssm:");
            if dropped {
                tokio::sync::oneshot::channel().1
            } else {
                slots.ask().ok_or(NoSlot::Taken)?
            }
        };
        let (session, control) = Session::new(cluster, task, container);
        let late = task.times.next_session();
        task.note_session(late + rules.start + rules.first_output);
        let agent = agent::Agent::new(
            cluster,
            Arc::clone(&session),
            control,
            command,
            Arc::clone(&task.runtime.surroundings),
            late,
        );
        let mut state = self.state.subscribe();
        tokio::spawn(async move { agent.run(slot, &mut state).await });
        Ok(session)
    }
}
