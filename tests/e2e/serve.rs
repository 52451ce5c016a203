//! Starts the manager's service, `fargate serve`.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::runner::{Job, under};

/// `fargate serve` for the metadata directory of a job.
pub struct Service {
    pub process: Child,
}

impl Service {
    /// Starts it, and waits until it listens.
    pub fn start(job: &Job) -> Self {
        Self::try_start(job).unwrap_or_else(|| panic!("it does not start: {}", job.log()))
    }

    /// The same; `None` if it refuses to start.
    pub fn try_start(job: &Job) -> Option<Self> {
        Self::start_under(&[], job)
    }

    /// The same, started by another program (`strace …`).
    pub fn start_under(before: &[&str], job: &Job) -> Option<Self> {
        Self::started(&mut Self::command_under(before, job))
    }

    /// The same, with a listener as its third file, as systemd passes it.
    pub fn start_with(listener: &UnixListener, job: &Job) -> Option<Self> {
        Self::started(&mut Self::command_with(listener, job))
    }

    /// Returns that command.
    pub fn command_with(listener: &UnixListener, job: &Job) -> Command {
        let moved =
            "LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec \"$@\" 3<&0 </dev/null";
        let mut command = Self::command_under(&["/bin/sh", "-c", moved, "sh"], job);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
        command
    }

    fn started(command: &mut Command) -> Option<Self> {
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        match lines.next() {
            Some(line) if line.starts_with("fargate serve: ready: ") => {
                thread::spawn(move || lines.for_each(drop));
                Some(Self { process })
            }
            other => {
                assert_eq!(other, None);
                process.wait().unwrap();
                None
            }
        }
    }

    /// Returns its command.
    pub fn command(job: &Job) -> Command {
        Self::command_under(&[], job)
    }

    fn command_under(before: &[&str], job: &Job) -> Command {
        // Only a service without a `LogFile` writes there.
        let stderr = OpenOptions::new().create(true).append(true).open(job.path("service-stderr"));
        let mut command = under(before, &job.binary);
        command
            .env_clear()
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(job.path("."))
            .arg("--config")
            .arg(&job.config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.unwrap())
            .process_group(0);
        command
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group(), signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its process ID is not reused before it is waited for.
        if !self.has_ended() {
            self.signal(Signal::KILL);
        }
        let _ = self.process.wait();
    }
}
