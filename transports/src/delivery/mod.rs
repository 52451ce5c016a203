//! The detached-script protocol: start, attach, signal.
//!
//! One command in the container starts a run: a small POSIX shell program, the supervisor
//! (`supervisor.sh`), reads the script from its input into a private directory named by the run id,
//! starts it in a session of its own under a wrapper (`wrapper.sh`) that records its exit status,
//! and streams its output from a spool file. Dropping the connection ends the streaming, never the
//! script.
//!
//! ```text
//! <run dir>/<run id>/script     the script
//!                    out        the spool: stdout and stderr, in order
//!                    pid        wrapper's pid, its start time, the script's process group, between dots; blank until then
//!                    exit       exit status and size of the output, between dots; blank until the script ended
//!                    err        what the wrapper itself had to complain about
//!                    alive      a FIFO that the wrapper alone has open for writing, for as long as it lives
//! ```
//!
//! A supervisor waits for the end of a run by reading: the pipe from the wrapper that it started
//! itself, or `alive` of a run that it attaches to. Both come to their end when the wrapper dies,
//! by whatever signal. So the end is noticed at once, and a script that says nothing costs nothing.
//! `exit` remains the only proof of an end; without a FIFO, it is looked at every 50 ms.
//!
//! A supervisor's input stays open for as long as its run is followed ([`Exec::exec`]): when the
//! connection is gone, it ends.
//!
//! On the command's stdout come the spool's bytes, as they are, after a line that marks their
//! beginning; on its stderr come control lines, each marked with a random word that is new for each
//! command, so that nothing a shell's start-up files print is mistaken for either.
//!
//! The word is no secret from the job: its processes can read it from the supervisor's arguments
//! (`/proc/<pid>/cmdline`) and write marked lines themselves. By that a job can lie about its own
//! script only: its exit status, its end, how much it wrote. It decides all of these anyway. So
//! replies are parsed strictly and bounded, and nothing that they say reaches beyond the job.
//!
//! It needs `sh`, `cat`, `dd`, `mkdir`, `mv`, `rm`, `sleep`, `tail`, `tr` and `wc`: dash, bash or
//! busybox are enough. With `sha256sum`, what arrived is compared with what was sent; without it,
//! only its size is. `head` and `mkfifo` are used where they are.
//! Where `tail` is GNU's, or busybox has `inotifyd`, the kernel announces what is written to the
//! spool (inotify); elsewhere the spool is looked at every 50 ms.

mod command;
mod control;
mod exec;
mod follow;
mod interpreter;
pub(crate) mod queue;
mod session;
pub mod terminal;

use bytes::Bytes;
use states::{
    ConnectCause, ConnectError, ConnectErrorKind, RunError, RunId, RunOrder, ShellFacts, Signal,
};

pub use command::Command;
pub use exec::{Channel, Chunk, Exec};
pub use follow::Followed;
pub use session::Session;

use control::{Control, Reply};

/// Learns what the container's shell can do, and makes the job's private directory there.
///
/// # Errors
/// When there is no usable shell, or nowhere to write.
pub async fn probe(exec: &dyn Exec) -> Result<ShellFacts, ConnectError> {
    let nonce = nonce();
    let mut control = Control::new(&nonce);
    let fail = |kind, cause, message: String| ConnectError { kind, message, cause };
    let mut channel =
        exec.exec(command::probe(&nonce, &self::nonce()), Bytes::new()).await.map_err(|e| {
            fail(
                ConnectErrorKind::Interrupted,
                ConnectCause::FirstCommandLost,
                format!("the connection ended before a command could be run: {e}"),
            )
        })?;
    loop {
        match channel.next().await {
            Chunk::Out(_) => {}
            Chunk::Err(bytes) => control.push(&bytes),
            Chunk::Ended { .. } => {
                let said = control.noise();
                return Err(fail(
                    ConnectErrorKind::NoShell,
                    ConnectCause::General,
                    format!(
                        "the container's shell does not run commands{}",
                        if said.is_empty() { String::new() } else { format!(": {said}") }
                    ),
                ));
            }
            Chunk::Lost(why) => {
                return Err(fail(
                    ConnectErrorKind::Interrupted,
                    ConnectCause::FirstCommandLost,
                    format!("the connection ended during the first command: {why}"),
                ));
            }
        }
        while let Some(reply) = control.reply() {
            match reply {
                Reply::Ready(facts) => return Ok(facts),
                Reply::NoPlace => {
                    return Err(fail(
                        ConnectErrorKind::NoShell,
                        ConnectCause::NoDirectory,
                        format!(
                            "the container has no directory that the user can write to: {}",
                            control.noise()
                        ),
                    ));
                }
                _ => {}
            }
        }
    }
}

/// Delivers and starts a script, and follows it from its first byte. A run that was started before
/// is followed.
///
/// # Errors
/// When the connection is lost (the script may run or not: attach or start again), or it cannot be
/// started.
pub async fn start(
    exec: &dyn Exec,
    facts: &ShellFacts,
    order: &RunOrder,
    script: Bytes,
) -> Result<Followed, RunError> {
    let nonce = nonce();
    let command = command::start(&nonce, facts, order, &script);
    let channel = exec.exec(command, script).await.map_err(RunError::ConnectionLost)?;
    Ok(Followed::new(channel, &nonce, 0))
}

/// Follows a run from byte `from` of its output.
///
/// # Errors
/// When the connection is lost.
pub async fn attach(
    exec: &dyn Exec,
    facts: &ShellFacts,
    run: &RunId,
    from: u64,
) -> Result<Followed, RunError> {
    let nonce = nonce();
    let channel = exec
        .exec(command::attach(&nonce, facts, run, from), Bytes::new())
        .await
        .map_err(RunError::ConnectionLost)?;
    Ok(Followed::new(channel, &nonce, from))
}

/// Sends a signal to the run's process group. One that is over is a success.
///
/// # Errors
/// When the connection is lost, or the container does not know the run.
pub async fn signal(
    exec: &dyn Exec,
    facts: &ShellFacts,
    run: &RunId,
    signal: Signal,
) -> Result<(), RunError> {
    let nonce = nonce();
    let mut control = Control::new(&nonce);
    let mut channel = exec
        .exec(command::signal(&nonce, facts, run, signal), Bytes::new())
        .await
        .map_err(RunError::ConnectionLost)?;
    loop {
        match channel.next().await {
            Chunk::Out(_) => {}
            Chunk::Err(bytes) => control.push(&bytes),
            Chunk::Ended { .. } => {
                return Err(RunError::Protocol(format!(
                    "no answer to a signal: {}",
                    control.noise()
                )));
            }
            Chunk::Lost(why) => return Err(RunError::ConnectionLost(why)),
        }
        while let Some(reply) = control.reply() {
            match reply {
                Reply::Done => return Ok(()),
                Reply::Unknown(why) => return Err(RunError::Unknown(why)),
                _ => {}
            }
        }
    }
}

/// A word that nobody else can know: 128 random bits.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}
