//! Containers in memory: a script's text is its output, a line a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use states::*;
use tokio::time::Instant;

use crate::cloud::{Cloud, LISTENING_AFTER};

/// A container's runs.
pub type Runs = HashMap<String, Delivered>;

/// A script in a container.
pub struct Delivered {
    /// How often it was started. More than once is a defect.
    pub executions: u32,
    started: Instant,
    script: Bytes,
    signalled: Option<Instant>,
}

impl Delivered {
    /// Output until now, and the exit code once it ended.
    fn now(&self) -> (usize, Option<i32>) {
        let end = self.signalled.unwrap_or_else(Instant::now);
        let lines = usize::try_from(end.duration_since(self.started).as_secs()).unwrap();
        let all = self.script.iter().filter(|b| **b == b'\n').count();
        let output = self.script.split_inclusive(|b| *b == b'\n').take(lines).map(<[u8]>::len).sum();
        let code = if lines > all { Some(0) } else { self.signalled.map(|_| 143) };
        (output, code)
    }
}

/// The transport of one process.
#[derive(Clone)]
pub struct Wire(pub Arc<Cloud>);

impl Transport for Wire {
    type Session = Shell;

    async fn connect(&self, target: &Target) -> Result<(Shell, Greeting), ConnectError> {
        self.0.fuse.step().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let listens = {
            let state = self.0.state.lock().unwrap();
            let task = state.tasks.get(&target.address);
            task.is_some_and(|task| task.stopped.is_none() && task.launched.elapsed() >= LISTENING_AFTER)
        };
        if !listens {
            let message = format!("nothing listens at {}", target.address);
            return Err(ConnectError { kind: ConnectErrorKind::Refused, message, advice: String::new() });
        }
        let facts = ShellFacts { run_dir: "/tmp".into(), follows_with_tail: true, has_setsid: true, has_bash: true };
        let greeting = Greeting { identity: HostIdentity(target.address.clone()), facts };
        Ok((Shell { cloud: Arc::clone(&self.0), task: target.address.clone() }, greeting))
    }
}

/// A connection to a container.
pub struct Shell {
    cloud: Arc<Cloud>,
    task: String,
}

impl Shell {
    fn in_container<R>(&self, act: impl FnOnce(&mut Runs) -> R) -> Result<R, RunError> {
        let mut state = self.cloud.state.lock().unwrap();
        match state.tasks.get_mut(&self.task) {
            Some(task) if task.stopped.is_none() => Ok(act(&mut task.runs)),
            _ => Err(RunError::ConnectionLost("the container is gone".into())),
        }
    }
}

impl Session for Shell {
    type Run = Following;

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<Following, RunError> {
        self.cloud.fuse.step().await;
        self.in_container(|runs| {
            let fresh = || Delivered { executions: 1, started: Instant::now(), script, signalled: None };
            runs.entry(order.run.to_string()).or_insert_with(fresh);
        })?;
        self.cloud.fuse.step().await;
        Ok(Following { shell: self.again(), run: order.run.to_string(), offset: 0, told: false })
    }

    async fn attach(&self, run: &RunId, from: u64) -> Result<Following, RunError> {
        self.cloud.fuse.step().await;
        if !self.in_container(|runs| runs.contains_key(run.as_str()))? {
            return Err(RunError::Unknown(run.to_string()));
        }
        Ok(Following { shell: self.again(), run: run.to_string(), offset: usize::try_from(from).unwrap(), told: false })
    }

    async fn signal(&self, run: &RunId, _: Signal) -> Result<(), RunError> {
        self.cloud.fuse.step().await;
        let known =
            self.in_container(|runs| runs.get_mut(run.as_str()).map(|run| run.signalled.get_or_insert_with(Instant::now)).is_some())?;
        self.cloud.fuse.step().await;
        if known { Ok(()) } else { Err(RunError::Unknown(run.to_string())) }
    }

    async fn close(self) {}
}

impl Shell {
    fn again(&self) -> Self {
        Self { cloud: Arc::clone(&self.cloud), task: self.task.clone() }
    }
}

/// A run being followed.
pub struct Following {
    shell: Shell,
    run: String,
    offset: usize,
    told: bool,
}

impl Run for Following {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        self.shell.cloud.fuse.step().await;
        if !self.told {
            self.told = true;
            return Ok(RunEvent::Started);
        }
        loop {
            let (offset, run) = (self.offset, self.run.clone());
            let (output, code) = self.shell.in_container(|runs| {
                let run = &runs[&run];
                let (written, code) = run.now();
                (run.script.slice(offset.min(written)..written), code)
            })?;
            if !output.is_empty() {
                self.offset += output.len();
                return Ok(RunEvent::Output(output));
            }
            if let Some(code) = code {
                return Ok(RunEvent::Exited { code, total: self.offset as u64 });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
