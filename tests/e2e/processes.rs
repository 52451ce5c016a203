//! Finds processes by a mark in their environment.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Finds processes with `mark` (`NAME=value`) in their environment.
pub fn marked(mark: &str) -> Vec<Pid> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| is_marked(*pid, mark)).collect()
}

fn is_marked(pid: Pid, mark: &str) -> bool {
    fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
        .is_ok_and(|e| e.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
}

/// Finds descendants of `parent` whose names have this prefix.
pub fn children_named(name: &str, parent: u32) -> Vec<Pid> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| {
        let Ok(about) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some((named, rest)) = about.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'))
        else {
            return false;
        };
        named.starts_with(name)
            && rest.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    });
    let mut found = Vec::new();
    for child in children {
        found.extend(children_named(name, child));
        found.extend(i32::try_from(child).ok().and_then(Pid::from_raw));
    }
    found
}

/// Returns a figure of a process's memory (`VmHWM`: its peak, `VmRSS`), in KiB.
pub fn memory(figure: &str, process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    value.unwrap_or("0 kB").trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns a process's peak memory, in KiB.
pub fn peak(process: u32) -> u64 {
    memory("VmHWM", process)
}

/// Kills them all, and no other process that has one of their numbers by now.
pub fn kill(mark: &str) {
    for pid in marked(mark) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_marked(pid, mark) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// Returns the living processes of a cluster's tasks, for any cluster.
pub fn task_processes(cluster: &crate::cluster::Cluster) -> Vec<i32> {
    match cluster {
        crate::cluster::Cluster::Local(local) => {
            let tasks = local.get("/_tasks");
            tasks
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|t| t["processes"].as_array().unwrap().clone())
                .filter_map(|p| i32::try_from(p.as_i64()?).ok())
                .collect()
        }
        crate::cluster::Cluster::Moto(moto) => moto
            .tasks()
            .iter()
            .flat_map(|(arn, _, _)| marked(&crate::moto::mark(arn)))
            .map(|pid| pid.as_raw_nonzero().get())
            .collect(),
    }
}

/// Creates the file `go` in the only task's temporary directory, for which a script waits, as an
/// engineer in the container would.
///
/// # Panics
/// When no process of the task runs.
pub fn release(cluster: &crate::cluster::Cluster) {
    // Any process will do: sessions and a script's children come and go meanwhile.
    let place = task_processes(cluster).into_iter().find_map(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let place =
            environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(b"TMPDIR="))?;
        Some(String::from_utf8_lossy(place).into_owned())
    });
    fs::write(format!("{}/go", place.expect("the script is alive")), "").unwrap();
}
