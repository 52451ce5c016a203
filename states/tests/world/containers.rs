//! Containers in memory. A script's text is its output, at a line a second unless its first line
//! says otherwise.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use states::*;
use tokio::time::Instant;

use super::{
    cloud::{Cloud, State, Task},
    crash_point::CrashPoint,
    fault_plan::Fault,
};

/// How long it takes to notice a silent connection.
const KEPT_ALIVE: Duration = Duration::from_secs(15);
/// A fault of a connection happens within this many milliseconds of its beginning.
const EVENTFUL: u64 = 12_000;

/// How often a follower polls.
const LOOKS_AGAIN: Duration = Duration::from_millis(100);

/// A container's runs. `None`: a run that was reported as never started, and never will be.
pub type Runs = HashMap<String, Option<Delivered>>;

/// A script that was started once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    pub task: String,
    pub run: String,
    pub script: Bytes,
}

/// The behaviour of a script.
#[derive(Debug, Clone)]
pub struct Program {
    pub output: Bytes,
    pub pace: Duration,
    pub code: i32,
    /// Whether only SIGKILL ends it early.
    pub deaf: bool,
}

impl Program {
    /// An optional first line `#! <milliseconds per line> <exit code> <deaf>` says how the rest is
    /// written. More words in it make scripts differ.
    pub fn of(script: &Bytes) -> Self {
        let plain =
            Self { output: script.clone(), pace: Duration::from_secs(1), code: 0, deaf: false };
        if !script.starts_with(b"#! ") {
            return plain;
        }
        let end = script.iter().position(|b| *b == b'\n').unwrap();
        let words: Vec<u32> = std::str::from_utf8(&script[3..end])
            .unwrap()
            .split(' ')
            .map(|word| word.parse().unwrap())
            .collect();
        let pace = Duration::from_millis(u64::from(words[0]));
        Self {
            output: script.slice(end + 1..),
            pace,
            code: i32::try_from(words[1]).unwrap(),
            deaf: words[2] == 1,
        }
    }
}

/// A script in a container.
pub struct Delivered {
    started: Instant,
    program: Program,
    /// When a signal ended it, and the resulting status.
    ended: Option<(Instant, i32)>,
    /// Whether it has got a signal.
    pub signalled: bool,
    /// The time after which it ends without a status.
    vanishes: Option<Duration>,
}

/// The progress of a run.
enum Now {
    Runs(usize),
    Exited(usize, i32),
    Vanished,
}

impl Delivered {
    fn now(&self) -> Now {
        let end = self.ended.map_or_else(Instant::now, |(at, _)| at);
        let lived = end.duration_since(self.started);
        if self.vanishes.is_some_and(|after| lived >= after) {
            return Now::Vanished;
        }
        let lines = usize::try_from(lived.as_millis() / self.program.pace.as_millis()).unwrap();
        let all = self.program.output.iter().filter(|b| **b == b'\n').count();
        let output =
            self.program.output.split_inclusive(|b| *b == b'\n').take(lines).map(<[u8]>::len).sum();
        match self.ended {
            _ if lines > all => Now::Exited(output, self.program.code),
            Some((_, code)) => Now::Exited(output, code),
            None => Now::Runs(output),
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.signalled = true;
        match signal {
            Signal::Term if self.program.deaf => {}
            Signal::Term => _ = self.ended.get_or_insert((Instant::now(), 143)),
            Signal::Kill => _ = self.ended.get_or_insert((Instant::now(), 137)),
        }
    }
}

/// The transport of one process.
#[derive(Clone)]
pub struct Wire {
    pub cloud: Arc<Cloud>,
    pub crash: Arc<CrashPoint>,
}

fn refused(kind: ConnectErrorKind, address: &str) -> ConnectError {
    ConnectError { kind, message: format!("{kind:?} at {address}"), cause: Default::default() }
}

impl Task {
    fn identity(&self, address: &str) -> String {
        let other =
            self.plan.identity_changes.is_some_and(|after| self.launched.elapsed() >= after);
        format!("{address}{}", if other { ", another" } else { "" })
    }

    /// How long a connection attempt takes now.
    fn answers_in(&self) -> Duration {
        let listens = self.plan.listens_after.is_some_and(|after| self.launched.elapsed() >= after);
        if listens { self.plan.answers_in } else { Duration::ZERO }
    }

    /// The identity that answers a connection.
    fn greets(&self, address: &str) -> Result<String, (ConnectErrorKind, Option<Fault>)> {
        let age = self.launched.elapsed();
        match self.plan.listens_after {
            None => return Err((ConnectErrorKind::Refused, Some(Fault::NeverListens))),
            Some(after) if age < after || !self.lives() => {
                return Err((ConnectErrorKind::Refused, None));
            }
            Some(after) if age < after + self.plan.key_after => {
                return Err((ConnectErrorKind::AuthRefused, Some(Fault::KeyLate)));
            }
            Some(_) => {}
        }
        Ok(self.identity(address))
    }
}

impl Transport for Wire {
    type Session = Shell;

    async fn connect(&self, target: &Target) -> Result<(Shell, Greeting), ConnectError> {
        let by_ecs = target.destination == Destination::Task;
        let address = if by_ecs { target.task.to_string() } else { target.destination.to_string() };
        self.crash.step().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        if self.cloud.network_is_down() {
            tokio::time::sleep(target.connect_timeout).await;
            return Err(refused(ConnectErrorKind::TimedOut, &address));
        }
        let answers_in = self
            .cloud
            .state
            .lock()
            .unwrap()
            .tasks
            .get(&address)
            .map_or(Duration::ZERO, |task| task.answers_in());
        tokio::time::sleep(answers_in.min(target.attempt_timeout)).await;
        if answers_in > target.attempt_timeout {
            return Err(refused(ConnectErrorKind::TimedOut, &address));
        }
        let mut state = self.cloud.state.lock().unwrap();
        let identity = match state.tasks.get(&address).map(|task| task.greets(&address)) {
            None => return Err(refused(ConnectErrorKind::Unreachable, &address)),
            Some(Err((kind, fault))) => {
                fault.into_iter().for_each(|fault| state.faults.record(fault));
                let not_there = by_ecs && kind == ConnectErrorKind::Refused;
                return Err(refused(
                    if not_there { ConnectErrorKind::AgentNotConnected } else { kind },
                    &address,
                ));
            }
            Some(Ok(identity)) => identity,
        };
        if target.pinned.as_ref().is_some_and(|pinned| pinned.0 != identity) {
            state.faults.record(Fault::IdentityChanged);
            return Err(refused(ConnectErrorKind::IdentityChanged, &address));
        }
        let faults = &mut state.faults;
        if faults.inject(faults.odds.unconnected, Fault::Unconnected) {
            return Err(refused(ConnectErrorKind::Interrupted, &address));
        }
        let odds = (faults.odds.cut, faults.odds.frozen);
        let cut = faults
            .inject(odds.0, Fault::ConnectionCut)
            .then(|| Instant::now() + faults.millis(0..EVENTFUL));
        let cut = cut.or(faults.connections_live.map(|long| Instant::now() + long));
        let frozen = faults
            .inject(odds.1, Fault::ConnectionFrozen)
            .then(|| Instant::now() + faults.millis(0..EVENTFUL));
        let facts = ShellFacts {
            run_dir: "/tmp".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        };
        let greeting = Greeting { identity: HostIdentity(identity.clone()), facts };
        let shell = Shell {
            cloud: Arc::clone(&self.cloud),
            crash: Arc::clone(&self.crash),
            task: address,
            identity,
            cut,
            frozen,
        };
        Ok((shell, greeting))
    }
}

/// A connection to a container.
#[derive(Clone)]
pub struct Shell {
    cloud: Arc<Cloud>,
    crash: Arc<CrashPoint>,
    task: String,
    identity: String,
    cut: Option<Instant>,
    frozen: Option<Instant>,
}

impl Shell {
    /// A trip to the container, during which the process may die.
    async fn way(&self) -> Result<(), RunError> {
        self.crash.step().await;
        self.link().await
    }

    /// Fails if the connection has failed. A silent one fails late.
    async fn link(&self) -> Result<(), RunError> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
        if passed(self.cut) {
            return Err(RunError::ConnectionLost("cut".into()));
        }
        let silent = || passed(self.frozen) || self.cloud.network_is_down();
        if silent() {
            tokio::time::sleep(KEPT_ALIVE).await;
            if silent() {
                return Err(RunError::ConnectionLost("silent for too long".into()));
            }
        }
        Ok(())
    }

    fn in_container<R>(&self, act: impl FnOnce(&mut Runs) -> R) -> Result<R, RunError> {
        in_container(&mut self.cloud.state.lock().unwrap(), &self.task, &self.identity, act)
    }
}

fn in_container<R>(
    state: &mut State,
    address: &str,
    identity: &str,
    act: impl FnOnce(&mut Runs) -> R,
) -> Result<R, RunError> {
    match state.tasks.get_mut(address) {
        Some(task) if task.lives() && task.identity(address) == identity => {
            if task.plan.files_lost.is_some_and(|after| task.launched.elapsed() >= after) {
                task.plan.files_lost = None;
                task.runs.clear();
                state.faults.record(Fault::FilesLost);
            }
            Ok(act(&mut task.runs))
        }
        _ => Err(RunError::ConnectionLost("the container is gone".into())),
    }
}

/// Starts the script, unless the run is known.
fn deliver(state: &mut State, shell: &Shell, run: &str, script: &Bytes) -> Result<(), RunError> {
    let faults = &mut state.faults;
    let odds = (faults.odds.not_started, faults.odds.no_status);
    let known = in_container(state, &shell.task, &shell.identity, |runs| {
        runs.get(run).map(Option::is_some)
    })?;
    match known {
        Some(true) => return Ok(()),
        Some(false) => return Err(RunError::Unknown(run.to_owned())),
        None => {}
    }
    let faults = &mut state.faults;
    if faults.inject(odds.0, Fault::NotStarted) {
        return Err(RunError::NotStarted("no space left on device".into()));
    }
    let vanishes = faults.inject(odds.1, Fault::NoStatus).then(|| faults.millis(0..5000));
    let delivered = Delivered {
        started: Instant::now(),
        program: Program::of(script),
        ended: None,
        signalled: false,
        vanishes,
    };
    state.executions.push(Execution {
        task: shell.task.clone(),
        run: run.to_owned(),
        script: script.clone(),
    });
    in_container(state, &shell.task, &shell.identity, |runs| {
        _ = runs.insert(run.to_owned(), Some(delivered))
    })
}

impl Session for Shell {
    type Run = Following;

    async fn start(&self, order: &RunOrder, script: Bytes) -> Result<Following, RunError> {
        self.way().await?;
        let (shell, run) = (self.clone(), order.run.to_string());
        let started = self
            .cloud
            .effect(&self.crash, move |state| deliver(state, &shell, &run, &script))
            .await;
        started.unwrap_or_else(|| Err(RunError::ConnectionLost("no answer".into())))?;
        self.way().await?;
        Ok(Following {
            shell: self.clone(),
            run: order.run.to_string(),
            offset: 0,
            announced: false,
        })
    }

    async fn attach(&self, order: &RunOrder, from: u64) -> Result<Following, RunError> {
        let run = &order.run;
        self.way().await?;
        match self.in_container(|runs| runs.get(run.as_str()).is_some_and(Option::is_some))? {
            true => Ok(Following {
                shell: self.clone(),
                run: run.to_string(),
                offset: usize::try_from(from).unwrap(),
                announced: false,
            }),
            false => Err(RunError::Unknown(run.to_string())),
        }
    }

    async fn signal(&self, order: &RunOrder, signal: Signal) -> Result<(), RunError> {
        let run = &order.run;
        self.way().await?;
        let (shell, id) = (self.clone(), run.to_string());
        let known = self
            .cloud
            .effect(&self.crash, move |state| {
                in_container(state, &shell.task, &shell.identity, |runs| {
                    // A run that has not started never will.
                    let run = runs.entry(id).or_default();
                    run.as_mut().map(|run| run.signal(signal)).is_some()
                })
            })
            .await;
        let known = known.unwrap_or_else(|| Err(RunError::ConnectionLost("no answer".into())))?;
        self.way().await?;
        if known { Ok(()) } else { Err(RunError::Unknown(run.to_string())) }
    }

    async fn close(self) {}
}

/// A run being followed.
pub struct Following {
    shell: Shell,
    run: String,
    offset: usize,
    announced: bool,
}

impl Run for Following {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        self.shell.way().await?;
        if !self.announced {
            self.announced = true;
            return Ok(RunEvent::Started);
        }
        loop {
            let (offset, run) = (self.offset, self.run.clone());
            let seen = self.shell.in_container(|runs| {
                let run = runs.get(&run).and_then(Option::as_ref)?;
                let now = run.now();
                let output = match now {
                    Now::Runs(written) | Now::Exited(written, _) => {
                        run.program.output.slice(offset.min(written)..written)
                    }
                    Now::Vanished => Bytes::new(),
                };
                Some((now, output))
            })?;
            let Some((now, output)) = seen else { return Err(RunError::Unknown(self.run.clone())) };
            if !output.is_empty() {
                self.offset += output.len();
                return Ok(RunEvent::Output(output));
            }
            match now {
                Now::Exited(_, code) => {
                    return Ok(RunEvent::Exited { code, total: self.offset as u64 });
                }
                Now::Vanished => return Err(RunError::NoStatus("its processes are gone".into())),
                Now::Runs(_) => {}
            }
            tokio::time::sleep(LOOKS_AGAIN).await;
            self.shell.link().await?;
        }
    }
}
