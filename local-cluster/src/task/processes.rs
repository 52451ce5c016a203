//! A task's processes, found by the mark in their environment: also those that have left their
//! session, their parent and their connection.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The environment variable that marks a task's processes.
pub(crate) const MARK: &str = "FARGATE_LOCAL_TASK";

/// Interval at which a process that got a signal to end is looked up.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The task's living processes.
pub(crate) fn of(task: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={task}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        // Processes of others, and those that just ended, have no environment to read.
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// Signals all of them; how many there were.
pub(crate) fn signal(task: &str, signal: Signal) -> usize {
    let found = of(task);
    for pid in &found {
        // It may have ended meanwhile.
        let _ = kill_process(*pid, signal);
    }
    found.len()
}

/// SIGTERM, then after `timeout` SIGKILL, until none is left.
pub(crate) async fn end(task: &str, timeout: Duration) {
    let kill_at = Instant::now() + timeout;
    let mut left = signal(task, Signal::TERM);
    while left > 0 {
        sleep(LOOK_AGAIN).await;
        left = if Instant::now() >= kill_at { signal(task, Signal::KILL) } else { of(task).len() };
    }
}
