//! How far each container of a task has got.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use crate::definitions::Condition;

/// A container's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerState {
    pub(crate) is_started: bool,
    /// Whether it has stopped, or will never start.
    pub(crate) is_stopped: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason: Option<String>,
    /// Its first process, if it has one of its own.
    process: Option<Arc<OwnedFd>>,
}

impl ContainerState {
    /// Whether it has a log stream: that comes with the container.
    pub(crate) fn is_logged(&self) -> bool {
        self.is_started
    }
}

/// The states of a task's containers, by name.
#[derive(Debug, Default)]
pub(crate) struct ContainerStates(watch::Sender<BTreeMap<String, ContainerState>>);

impl ContainerStates {
    pub(crate) fn get(&self, name: &str) -> ContainerState {
        self.0.borrow().get(name).cloned().unwrap_or_default()
    }

    /// Records that a container has started. `process` is the ID of its first process.
    pub(super) fn start(&self, name: &str, process: Option<i32>) {
        let pid = process.and_then(Pid::from_raw);
        // A process that has ended already has nothing to be signalled.
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).map(Arc::new);
        self.change(name, |state| {
            state.is_started = true;
            state.process = process;
        });
    }

    /// Records that a container has stopped, or why it does not start. What is known first stays.
    pub(crate) fn stop(&self, name: &str, exit_code: Option<i32>, reason: Option<String>) {
        self.change(name, |state| {
            if !state.is_stopped {
                state.exit_code = exit_code;
                state.reason = reason;
            }
            state.is_stopped = true;
            state.process = None;
        });
    }

    /// Signals the first processes of all containers.
    pub(super) fn signal_all(&self, signal: Signal) {
        for state in self.0.borrow().values() {
            signal_one(state, signal);
        }
    }

    /// Signals the first process of a container.
    pub(super) fn signal(&self, name: &str, signal: Signal) {
        signal_one(&self.get(name), signal);
    }

    /// Returns the containers with a process of their own.
    pub(super) fn with_process(&self) -> Vec<String> {
        let states = self.0.borrow();
        states
            .iter()
            .filter(|(_, state)| state.process.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Waits until a container has stopped.
    pub(super) async fn until_stopped(&self, name: &str) {
        self.until(name, |state| state.is_stopped).await;
    }

    /// Waits until a container meets the condition. The error says why it never will.
    pub(super) async fn until_met(&self, name: &str, condition: Condition) -> Result<(), String> {
        let state = match condition {
            Condition::Start => {
                self.until(name, |state| state.is_started || state.is_stopped).await
            }
            Condition::Complete | Condition::Success => {
                self.until(name, |state| state.is_stopped).await
            }
        };
        match condition {
            _ if !state.is_started => Err(format!("dependency {name} did not start")),
            Condition::Success if state.exit_code != Some(0) => {
                Err(format!("dependency {name} did not exit successfully"))
            }
            _ => Ok(()),
        }
    }

    async fn until(&self, name: &str, is: impl Fn(&ContainerState) -> bool) -> ContainerState {
        let mut states = self.0.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = states.wait_for(|states| states.get(name).is_some_and(&is)).await;
        self.get(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut ContainerState)) {
        self.0.send_modify(|states| change(states.entry(name.to_owned()).or_default()));
    }
}

fn signal_one(state: &ContainerState, signal: Signal) {
    if let Some(process) = &state.process {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(process, signal);
    }
}
