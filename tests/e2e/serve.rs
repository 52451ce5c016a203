//! Starts the manager's service, `fargate serve`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::runner::Job;

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
        let mut process = Self::command(job).spawn().unwrap();
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_fargate"));
        command
            .env_clear()
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(job.path("."))
            .arg("--config")
            .arg(&job.config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
