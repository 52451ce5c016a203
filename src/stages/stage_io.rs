//! Where a stage's output goes, and where its cancels come from: gitlab-runner's pipes and signals,
//! or a client of the service.

use std::{future::Future, io, pin::Pin};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::Output;
use crate::console::stderr_line;

/// A future of a trait object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stage's channel to gitlab-runner.
pub trait StageIo: Send {
    /// Writes some of these bytes to the stage's standard output, and returns how many. They have
    /// left the driver then.
    fn write(&mut self, bytes: Bytes) -> Pending<'_, io::Result<usize>>;

    /// Writes a line to the stage's standard error.
    fn line(&mut self, line: &str);

    /// Completes once for each cancel. Cancel-safe.
    fn cancelled(&mut self) -> Pending<'_, ()>;

    /// Says what the stage is about to begin. The process that continues the stage recognizes it by that.
    fn begins(&mut self, attempt: Attempt) -> Pending<'_, ()> {
        let _ = attempt;
        Box::pin(std::future::ready(()))
    }
}

/// What a stage has begun. A process that continues the stage for one that died must neither begin
/// it again nor repeat its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The run, or the token of the launch.
    pub key: String,
    /// How much of the run's output was written.
    pub offset: u64,
}

/// This process's own standard output and error, SIGTERM, and SIGINT from people at a terminal.
pub struct ProcessIo {
    stdout: Output,
    term: Signal,
    interrupt: Signal,
    /// A cancel that is to be reported again.
    repeats: bool,
}

impl ProcessIo {
    /// Starts to listen for signals.
    ///
    /// # Errors
    /// When no signal handler can be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            stdout: Output::stdout(),
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            repeats: false,
        })
    }

    /// Reports a cancel again, to the part that continues the stage.
    pub fn repeat_cancel(&mut self) {
        self.repeats = true;
    }
}

impl StageIo for ProcessIo {
    fn write(&mut self, bytes: Bytes) -> Pending<'_, io::Result<usize>> {
        Box::pin(async move { self.stdout.write(&bytes).await })
    }

    fn line(&mut self, line: &str) {
        stderr_line(line);
    }

    fn cancelled(&mut self) -> Pending<'_, ()> {
        Box::pin(async {
            if std::mem::take(&mut self.repeats) {
                return;
            }
            tokio::select! {
                _ = self.term.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        })
    }
}
