//! Standard output to gitlab-runner: a pipe, whose reader may be slow.
//!
//! A blocking write would stop the connection's keep-alives and SIGTERM; a thread per write costs
//! half of the speed. So a pipe is reopened without blocking. Unlike O_NONBLOCK on the inherited
//! descriptor, that does not change the pipe for other processes.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
};

use tokio::{io::AsyncWriteExt, net::unix::pipe};

/// The destination of the script's output.
pub(crate) enum Output {
    /// A pipe, written without blocking.
    Pipe(pipe::Sender),
    /// A regular file: writes do not wait for a reader.
    File(File),
    /// A terminal or a socket: written by a thread.
    Other(tokio::io::Stdout),
}

impl Output {
    /// Returns this process's standard output.
    pub(crate) fn stdout() -> Self {
        if let Ok(pipe) = pipe::OpenOptions::new().open_sender("/proc/self/fd/1") {
            return Self::Pipe(pipe);
        }
        let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        match file {
            Ok(file) if file.metadata().is_ok_and(|about| about.is_file()) => Self::File(file),
            _ => Self::Other(tokio::io::stdout()),
        }
    }

    /// Writes as many bytes as possible at once, and returns how many. None of them stay in a
    /// buffer that would be lost with the process.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.write(bytes).await,
            Self::File(file) => file.write(bytes),
            Self::Other(stdout) => {
                let taken = stdout.write(bytes).await?;
                stdout.flush().await?;
                Ok(taken)
            }
        }
    }
}
