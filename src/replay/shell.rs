//! `shell`: a terminal in a job's container, by the job's transport, beside its script. It takes no
//! lease and changes no snapshot.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    pin::pin,
    process::ExitCode,
};

use ::replay::{Failure, Locator};
use bytes::Bytes;
use clap::Args;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use states::{AnyJob, ConnectError, Target};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use transports::{Command, Connector, Screen, Terminal, delivery::Chunk};

use super::{act, cluster_check::JobArgs, configuration::Configuration};
use crate::{control::EcsControl, transport};

/// `fargate-replay shell`.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is the shell's or the command's; 255 if there is no connection."
)]
pub struct Shell {
    #[command(flatten)]
    job: JobArgs,
    /// A command to run instead of a terminal, by the user's shell and without input
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Shell {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also when the job's container cannot be reached.
    pub fn run(
        &self,
        locator: &Locator<'_>,
        configuration: &Configuration<'_>,
    ) -> Result<ExitCode, Failure> {
        let found = locator.find(&self.job.job)?;
        let job = found.snapshot.job.clone();
        let (engine, config) = act::engine_for(found, configuration, &self.job)?;
        let reachable = match &job {
            AnyJob::Reachable(job) => &job.state,
            AnyJob::Executing(job) => &job.state.place,
            other => {
                return Err(Failure::Other(format!(
                    "the job is {}: there is a terminal only from when its container has answered until its end has begun",
                    other.name()
                )));
            }
        };
        if job.header().warm().is_some() {
            return Err(Failure::Other(
                "this is a warm task, which a job may claim at any moment: what a terminal leaves there would be that job's".to_owned(),
            ));
        }
        let target = engine.target(&job, job.header().destination(reachable.address.as_deref()));
        let transports = transport::all(config, &EcsControl::new(config.fargate.region.clone()));
        let failed = |e: ConnectError| Failure::Other(diagnosis::explain_connect(&e));
        let transport = transports.of(&target).map_err(failed)?;
        let interactive = transport.interactive().ok_or_else(|| {
            Failure::Other(format!("the transport {:?} has no terminals", target.transport))
        })?;
        act::block_on(async {
            if !self.command.is_empty() {
                let command = self.command.join(" ");
                let mut command =
                    report_waits(transport, &target, interactive.command(&target, &command))
                        .await
                        .map_err(failed)?;
                let code = relay_output(&mut *command).await;
                command.close().await;
                return code;
            }
            if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
                return Err(Failure::Other(
                    "a terminal is needed here; without one: `shell JOB -- COMMAND`".to_owned(),
                ));
            }
            let (columns, rows) = terminal_size();
            let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
            let screen = Screen { term, columns, rows };
            let terminal = report_waits(transport, &target, interactive.terminal(&target, &screen))
                .await
                .map_err(failed)?;
            let status = relay_terminal(&*terminal).await;
            terminal.close().await;
            Ok(ExitCode::from(u8::try_from(status?.unwrap_or(0)).unwrap_or(255)))
        })
    }
}

/// Waits for a connection, and reports what it waits for.
async fn report_waits<C>(
    transport: &dyn Connector,
    target: &Target,
    connects: impl Future<Output = C>,
) -> C {
    let mut connects = pin!(connects);
    loop {
        tokio::select! {
            biased;
            connected = &mut connects => return connected,
            what = transport.waits_for(&target.task) => act::report(&format!("waiting: {what}")),
        }
    }
}

/// Prints a command's output until it ends. Ctrl-C ends the command, if the transport can do that.
async fn relay_output(command: &mut dyn Command) -> Result<ExitCode, Failure> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut end_requested = false;
    loop {
        let chunk = tokio::select! {
            chunk = command.next() => Some(chunk),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let Some(chunk) = chunk else {
            if !std::mem::replace(&mut end_requested, true) && command.end().await {
                act::report("the command was asked to end; Ctrl-C again leaves it running");
            } else {
                act::report("left the command, which may continue in the container");
                return Ok(ExitCode::from(130));
            }
            continue;
        };
        match chunk {
            Chunk::Out(bytes) => {
                io::stdout().write_all(&bytes)?;
                io::stdout().flush()?;
            }
            Chunk::Err(bytes) => io::stderr().write_all(&bytes)?,
            Chunk::Ended { status } => {
                return Ok(ExitCode::from(
                    status.and_then(|s| u8::try_from(s).ok()).unwrap_or(255),
                ));
            }
            Chunk::Lost(why) => {
                return Err(Failure::Other(format!("the connection was lost: {why}")));
            }
        }
    }
}

/// Connects this terminal to that one until the shell there ends. Enter, `~`, `.` leaves a
/// connection that hangs.
async fn relay_terminal(terminal: &dyn Terminal) -> Result<Option<u32>, Failure> {
    let _raw = RawMode::enter()?;
    let (send, mut typed) = mpsc::channel::<Bytes>(16);
    // Reading a terminal blocks; the process ends without waiting for this thread.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = io::stdin().lock().read(&mut buffer) {
            if read == 0 || send.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
                break;
            }
        }
    });
    let (mut resized, mut hung_up) =
        (signal(SignalKind::window_change())?, signal(SignalKind::hangup())?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut escape = Escape::default();
    let lost = |why: String| Failure::Other(format!("the connection was lost: {why}"));
    loop {
        tokio::select! {
            read = terminal.read() => match read.map_err(lost)? {
                Some(bytes) => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(&bytes)?;
                    stdout.flush()?;
                }
                None => return Ok(terminal.status()),
            },
            Some(bytes) = typed.recv() => {
                if escape.is_completed_by(&bytes) {
                    return Ok(None);
                }
                terminal.write(bytes).await.map_err(lost)?;
            }
            _ = resized.recv() => {
                let (columns, rows) = terminal_size();
                terminal.resize(columns, rows).await.map_err(lost)?;
            }
            _ = hung_up.recv() => return Ok(None),
            _ = terminate.recv() => return Ok(None),
        }
    }
}

/// Recognises ssh's escape sequence: `~.` at the beginning of a line.
#[derive(Default)]
struct Escape(Vec<u8>);

impl Escape {
    fn is_completed_by(&mut self, bytes: &[u8]) -> bool {
        self.0.extend_from_slice(bytes);
        let found =
            self.0.windows(3).any(|keys| matches!(keys[0], b'\r' | b'\n') && &keys[1..] == b"~.");
        self.0.drain(..self.0.len().saturating_sub(2));
        found
    }
}

/// Returns this terminal's size in columns and rows.
fn terminal_size() -> (u32, u32) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (u32::from(size.ws_col), u32::from(size.ws_row))
        }
        _ => (80, 24),
    }
}

/// Keeps this terminal in raw mode until it is dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Escape;

    #[test]
    fn only_a_line_that_begins_with_it_is_the_escape_sequence() {
        let mut escape = Escape::default();
        assert!(
            !escape.is_completed_by(b"ls ~.\r")
                && !escape.is_completed_by(b"~")
                && escape.is_completed_by(b".")
        );
    }
}
