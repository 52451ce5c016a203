//! Finds a task's processes by a mark in their environment, even those that have left their
//! session, parent and connection.

use std::{collections::HashMap, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

/// The environment variable that marks a task's processes.
pub(crate) const MARK: &str = "FARGATE_LOCAL_TASK";

/// Interval between checks whether signalled processes have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Returns the living processes of all tasks, by mark: the task's ID, or `ID/CONTAINER` in
/// containers with namespaces of their own. It reads every process once, however many
/// tasks there were.
fn by_mark() -> HashMap<String, Vec<Pid>> {
    let mut found: HashMap<String, Vec<Pid>> = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(pid) = Pid::from_raw(pid)
            && let Some(task) = mark_of(pid)
        {
            found.entry(task).or_default().push(pid);
        }
    }
    found
}

/// Returns the mark of a process. The environment of others' processes, and of those that just
/// ended, cannot be read.
fn mark_of(pid: Pid) -> Option<String> {
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let mark = environ.split(|byte| *byte == 0).find_map(|variable| {
        std::str::from_utf8(variable).ok()?.strip_prefix(MARK)?.strip_prefix('=')
    });
    mark.map(str::to_owned)
}

/// Returns the living processes of all tasks, by task, with those of containers that have
/// namespaces of their own.
pub(crate) fn by_task() -> HashMap<String, Vec<Pid>> {
    let mut found: HashMap<String, Vec<Pid>> = HashMap::new();
    for (mark, pids) in by_mark() {
        let task = mark.split('/').next().unwrap_or(&mark);
        found.entry(task.to_owned()).or_default().extend(pids);
    }
    found
}

/// Returns the living processes of the task's stand-ins.
fn of(task: &str) -> Vec<Pid> {
    by_mark().remove(task).unwrap_or_default()
}

/// Signals all of them. Returns their number.
pub(crate) fn signal(task: &str, signal: Signal) -> usize {
    let found = of(task);
    for pid in &found {
        // It may have ended meanwhile, and another process may have its number: on a busy machine,
        // numbers come again within seconds.
        let Ok(process) = pidfd_open(*pid, PidfdFlags::empty()) else { continue };
        if mark_of(*pid).as_deref() == Some(task) {
            let _ = pidfd_send_signal(&process, signal);
        }
    }
    found.len()
}

/// Sends SIGTERM, then SIGKILL after `timeout`, until none is left.
pub(crate) async fn end(task: &str, timeout: Duration) {
    let kill_at = Instant::now() + timeout;
    let mut left = signal(task, Signal::TERM);
    while left > 0 {
        sleep(LOOK_AGAIN).await;
        left = if Instant::now() >= kill_at { signal(task, Signal::KILL) } else { of(task).len() };
    }
}
