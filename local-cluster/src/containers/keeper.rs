//! The process that keeps a task's containers, so that none outlives the task or the cluster.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::images::{self, tool_path};

/// The keeper of a task's containers. When it is dropped, all their processes are killed, and their
/// directory is removed.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    _input: ChildStdin,
    /// The first process of the PID namespace that all containers of the task are in.
    init: i32,
    directory: PathBuf,
}

impl Keeper {
    /// Starts it.
    pub(super) async fn start() -> Result<Self, String> {
        images::available()?;
        let made = tempfile::Builder::new().prefix("fargate-local-task-").tempdir();
        // From here on, the process removes it.
        let directory = made.map_err(|e| format!("no directory for the task: {e}"))?.keep();
        let started = Self::start_in(&directory).await;
        if started.is_err() {
            // It may have been removed by the process.
            let _ = std::fs::remove_dir_all(&directory);
        }
        started
    }

    async fn start_in(directory: &Path) -> Result<Self, String> {
        let failed = |e: io::Error| format!("the keeper of the task's containers: {e}");
        let mut child = Command::new(tool_path("sh")?)
            .arg("-c")
            .arg(include_str!("keeper.sh"))
            .arg("keeper.sh")
            .arg(directory)
            .env_clear()
            .env("PATH", super::HOST_PATH)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let missing = || io::Error::other("it has no pipes");
        let input = child.stdin.take().ok_or_else(missing).map_err(failed)?;
        let output = child.stdout.take().ok_or_else(missing).map_err(failed)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.map_err(failed)?;
        let Ok(init) = line.trim().parse() else {
            let mut why = String::new();
            if let Some(mut errors) = child.stderr.take() {
                drop(input);
                errors.read_to_string(&mut why).await.map_err(failed)?;
            }
            return Err(failed(io::Error::other(why.trim().to_owned())));
        };
        Ok(Self { child, _input: input, init, directory: directory.to_owned() })
    }

    /// Returns the task's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of the PID namespace.
    pub(super) fn pid_namespace(&self) -> String {
        format!("/proc/{}/ns/pid", self.init)
    }

    /// Kills all processes and removes the directory. Nothing is left when this returns.
    pub(super) async fn end(self) {
        let Self { mut child, _input, .. } = self;
        drop(_input);
        if let Err(e) = child.wait().await {
            tracing::warn!("the keeper of a task's containers is not waited for: {e}");
        }
    }
}
