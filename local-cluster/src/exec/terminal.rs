//! A command on a pseudo-terminal of its own.

use std::io;

use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use serde::Deserialize;
use tokio::process::Child;

use super::{Surroundings, words};

/// A running command: the leader of a session whose controlling terminal is the other end of this.
/// When both halves are gone, the kernel hangs up: the session's other processes get SIGHUP.
pub(super) struct Terminal {
    pub(super) child: Child,
    pub(super) reader: OwnedReadPty,
    pub(super) writer: OwnedWritePty,
}

/// Why the command did not start, in the words of AWS's agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("Commands cannot be empty for session type InteractiveCommands")]
    Empty,
    #[error("Unable to start command: Failed to parse commands input: {0}")]
    Words(#[from] words::Unfinished),
    #[error("Unable to start command: Failed to start pty: {0}")]
    Pty(#[from] pty_process::Error),
    #[error("Unable to start command: Failed to start pty: {0}")]
    Program(String),
}

impl Terminal {
    /// Starts a command without a shell.
    pub(super) fn start(command: &str, surroundings: &Surroundings) -> Result<Self, StartError> {
        let words = words::split(command)?;
        let (program, arguments) = words.split_first().ok_or(StartError::Empty)?;
        let (pty, pts) = pty_process::open()?;
        let mut command = surroundings.command(program);
        command.args(arguments).env("TERM", "xterm-256color");
        if surroundings.environment.get("LANG").is_none_or(String::is_empty) {
            command.env("LANG", "C.UTF-8");
        }
        let child =
            pty_process::Command::from(command).spawn(pts).map_err(|e| unstarted(program, e))?;
        let (reader, writer) = pty.into_split();
        Ok(Self { child, reader, writer })
    }
}

/// Describes why a program does not start, in Go's words.
fn unstarted(program: &str, error: pty_process::Error) -> StartError {
    let pty_process::Error::Io(e) = &error else { return StartError::Pty(error) };
    StartError::Program(match e.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: \"{program}\": executable file not found in $PATH")
        }
        io::ErrorKind::NotFound => format!("fork/exec {program}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("fork/exec {program}: permission denied"),
        _ => format!("fork/exec {program}: {e}"),
    })
}

/// The payload of a Size message.
#[derive(Debug, Deserialize)]
struct SizeData {
    cols: u32,
    rows: u32,
}

/// Sets the terminal's size from a Size message. As in AWS's agent, the upper halves are cut off.
pub(super) fn resize(writer: &OwnedWritePty, payload: &[u8]) -> Result<(), String> {
    let size: SizeData =
        serde_json::from_slice(payload).map_err(|e| format!("this is no size: {e}"))?;
    writer
        .resize(Size::new(size.rows as u16, size.cols as u16))
        .map_err(|e| format!("the size cannot be set: {e}"))
}
