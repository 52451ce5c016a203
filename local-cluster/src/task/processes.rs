//! Finds a task's processes by a mark in their environment, even those that have left their
//! session, parent and connection.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The environment variable that marks a task's processes.
pub(crate) const MARK: &str = "FARGATE_LOCAL_TASK";

/// Interval between checks whether signalled processes have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The task's living processes.
pub(crate) fn of(task: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={task}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        // The environment of others' processes, and of those that just ended, cannot be read.
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// Signals all of them. Returns their number.
pub(crate) fn signal(task: &str, signal: Signal) -> usize {
    let found = of(task);
    for pid in &found {
        // It may have ended meanwhile.
        let _ = kill_process(*pid, signal);
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
