//! Standard output as gitlab-runner gives it: a pipe, whose reader may be slow.
//!
//! A blocking write would stop the connection's keep-alives and SIGTERM; a thread per write costs
//! half of the speed. So a pipe is opened anew, without blocking: unlike O_NONBLOCK on the
//! inherited descriptor, that does not change the pipe for the others who have it.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
};

use tokio::{io::AsyncWriteExt, net::unix::pipe};

/// Where the script's output goes.
pub(crate) enum Output {
    /// A pipe, written without blocking.
    Pipe(pipe::Sender),
    /// A regular file: a write does not wait for anybody.
    File(File),
    /// A terminal, a socket: written by a thread.
    Other(tokio::io::Stdout),
}

impl Output {
    /// This process's standard output.
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

    /// Writes as much of it as goes at once, and says how much. Nothing of that is in a buffer that
    /// a killed process takes along.
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
