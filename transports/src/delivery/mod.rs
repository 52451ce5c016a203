//! The detached-script protocol: start, attach, signal.
//!
//! One command in the container starts a run: the supervisor (`supervisor.sh`), a small POSIX shell
//! program. It reads the script from its input into a private directory named by the run id. It
//! starts the script in a session of its own under a wrapper (`wrapper.sh`) that records the exit
//! status. Then it streams the output from a spool file. Dropping the connection ends the
//! streaming, never the script.
//!
//! ```text
//! <run dir>/<run id>/script     the script
//!                    out        the spool: stdout and stderr, in order
//!                    pid        wrapper's pid, its start time, the script's process group, between dots; blank until then
//!                    exit       exit status and size of the output, between dots; blank until the script ended
//!                    err        the wrapper's own error messages
//!                    alive      a FIFO that only the wrapper has open for writing, until it ends
//! ```
//!
//! A supervisor waits for the end of a run by reading: the pipe from the wrapper that it started
//! itself, or `alive` of a run that it attaches to. Both reach end of file when the wrapper dies,
//! by any signal. So the end is noticed at once, and a silent script costs nothing. `exit` remains
//! the only proof of an end; without a FIFO, the supervisor polls it every 50 ms.
//!
//! A supervisor's input stays open while its run is followed ([`Exec::exec`]). When the connection
//! is gone, the supervisor ends.
//!
//! The command's stdout carries the spool's bytes, unchanged, after a line that marks their
//! beginning. Its stderr carries control lines, each marked with a nonce that is new for each
//! command. So output of a shell's start-up files is mistaken for neither.
//!
//! The job can learn the nonce: its processes can read the supervisor's arguments
//! (`/proc/<pid>/cmdline`) and write marked lines themselves. But they can only lie about the job's
//! own script: its exit status, its end, the size of its output. The job controls all of these
//! anyway. Replies are parsed strictly and bounded, and affect no other job.
//!
//! # A standby
//!
//! Over a connection that is kept between runs, one command can start one run after another
//! ([`Session::stand_by`]). Opening a channel and starting the supervisor takes far longer than an
//! empty script does. The standby has started everything before the script comes:
//!
//! ```text
//! standby.sh: takes an order and the script ─▶ checks its digest ─▶ ready.sh: the wrapper ─▶ follows the run
//!                                                                       └─ starter.sh: becomes the script
//! ```
//!
//! The run's directory and the other verbs are the same.
//!
//! # The job's own container
//!
//! A job with an image of its own has two containers in one task. Both have a volume, but neither
//! processes nor a root file system in common. Commands of the protocol run in the coordinator, and
//! scripts run in either ([`states::RunContainer`]).
//!
//! ```text
//! coordinator                 volume                              job's container
//!                             <run>/loop.sh                       sh -c "…; . <run>/loop.sh"
//! supervisor ─ place.sh ───▶  <run>/runs/<run id>/script …
//!            ─ a line ─────▶  <run>/runs/orders (FIFO) ─────────▶ the loop starts the script
//!            ◀── follows ───  <run>/runs/<run id>/out, exit ◀──── the loop's wrapper writes
//! ```
//!
//! - The container's command is [`job_container_command`]: it waits until [`probe`] has put the
//!   loop there. So scripts are children of the image's own entry point and have its environment,
//!   user and working directory. Nothing of the image is used but `sh` and its builtins, and
//!   `sleep` and `setsid` if they exist.
//! - The loop starts a run once, however often it is ordered. It sends signals to the script's
//!   process group. Without `setsid`, and in shells that cannot make a group without a terminal, it
//!   finds the script's processes through `/proc`.
//! - Process ids mean nothing in the other container. A supervisor sees the end of a wrapper, and
//!   of the loop, at a FIFO that only these have open for writing.
//! - The supervisor counts the output, because the image may have no `wc`.
//! - The job may be root in its container, so everything in the volume may be a link to a file of
//!   the coordinator. The supervisor opens a file first, and then compares the descriptor's path in
//!   `/proc` with the one that it meant. It creates files only where none are, in a directory that
//!   it has checked in the same way.
//!
//! # What the container must have
//!
//! It needs `sh`, `cat`, `dd`, `mkdir`, `mv`, `rm`, `sleep`, `tail`, `tr` and `wc`: dash, bash or
//! busybox are enough. With `sha256sum`, the script's digest is checked on arrival; without it,
//! only its size. `head` and `mkfifo` are used if they exist. With GNU `tail`, or busybox's
//! `inotifyd`, the kernel announces writes to the spool (inotify); otherwise the supervisor polls
//! it every 50 ms. With a job's own container, the coordinator also needs `chmod`, `mkfifo`,
//! `readlink` and `rmdir`.

mod command;
mod control;
mod exec;
mod follow;
mod interpreter;
pub(crate) mod queue;
mod session;
mod standby;
pub mod terminal;

use bytes::Bytes;
use states::{
    ConnectCause, ConnectError, ConnectErrorKind, RunError, RunOrder, SharedVolume, ShellFacts,
    Signal, trace::SPANS,
};
use tracing::{Span, field::Empty};

pub use command::{Command, job_container_command};
pub use exec::{Channel, Chunk, Exec};
pub use follow::Followed;
pub use session::Session;

use control::{Control, Reply};

/// Detects what the container's shell supports, and makes the job's private directory there. With a
/// shared volume, also gives the job's container its loop, and waits some seconds until it runs.
///
/// # Errors
/// When there is no usable shell, no writable directory, or the job's container does not come up.
pub async fn probe(
    exec: &dyn Exec,
    shared: Option<&SharedVolume>,
) -> Result<ShellFacts, ConnectError> {
    let nonce = nonce();
    let mut control = Control::new(&nonce);
    let fail = |kind, cause, message: String| ConnectError { kind, message, cause };
    let mut channel = exec
        .exec(command::probe(&nonce, &self::nonce(), shared), Bytes::new())
        .await
        .map_err(|e| {
            fail(
                ConnectErrorKind::Interrupted,
                ConnectCause::FirstCommandLost,
                format!("the connection ended before a command could be run: {e}"),
            )
        })?;
    let mut job = None;
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
                Reply::Ready(facts) if shared.is_some() == job.is_some() => {
                    return Ok(ShellFacts { job, ..facts });
                }
                Reply::Job(shell) => job = Some(shell),
                Reply::NoVolume => {
                    return Err(fail(
                        ConnectErrorKind::NoShell,
                        ConnectCause::SharedVolume,
                        format!(
                            "the user cannot prepare the volume for the job's container: {}",
                            control.noise()
                        ),
                    ));
                }
                Reply::NoJobTools(names) => {
                    return Err(fail(
                        ConnectErrorKind::NoShell,
                        ConnectCause::NoJobPrograms,
                        format!("the coordinator's image has no {names}"),
                    ));
                }
                Reply::NotUp => {
                    return Err(fail(
                        ConnectErrorKind::JobContainerNotUp,
                        ConnectCause::General,
                        "the container with the job's image does not take scripts".to_owned(),
                    ));
                }
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

/// Delivers and starts a script, and follows it from its first byte. If the run was started before,
/// only follows it.
///
/// # Errors
/// When the connection is lost, or the script cannot be started. After a lost connection the script
/// may run or not: attach or start again.
pub async fn start(
    exec: &dyn Exec,
    facts: &ShellFacts,
    order: &RunOrder,
    script: Bytes,
) -> Result<Followed, RunError> {
    start_within(start_span(order, &script), exec, facts, order, script).await
}

/// The span of a run's start, which lasts until the container has reported it.
fn start_span(order: &RunOrder, script: &Bytes) -> Span {
    tracing::info_span!(
        target: SPANS,
        "start",
        fargate.stage = order.stage,
        fargate.script.size = i64::try_from(script.len()).unwrap_or(i64::MAX),
        otel.status_description = Empty,
        error.type = Empty,
    )
}

async fn start_within(
    span: Span,
    exec: &dyn Exec,
    facts: &ShellFacts,
    order: &RunOrder,
    script: Bytes,
) -> Result<Followed, RunError> {
    let nonce = nonce();
    let command = command::start(&nonce, facts, order, &script);
    Followed::begin(exec.exec(command, script), &nonce, 0, span).await
}

/// Follows a run from byte `from` of its output.
///
/// # Errors
/// When the connection is lost.
pub async fn attach(
    exec: &dyn Exec,
    facts: &ShellFacts,
    order: &RunOrder,
    from: u64,
) -> Result<Followed, RunError> {
    let span = tracing::info_span!(
        target: SPANS,
        "attach",
        fargate.stage = order.stage,
        fargate.output.offset = i64::try_from(from).unwrap_or(i64::MAX),
        otel.status_description = Empty,
        error.type = Empty,
    );
    let nonce = nonce();
    let command = command::attach(&nonce, facts, order, from);
    Followed::begin(exec.exec(command, Bytes::new()), &nonce, from, span).await
}

/// Sends a signal to the run's process group. Succeeds if the run is over.
///
/// # Errors
/// When the connection is lost, or the container does not know the run.
pub async fn signal(
    exec: &dyn Exec,
    facts: &ShellFacts,
    order: &RunOrder,
    signal: Signal,
) -> Result<(), RunError> {
    let nonce = nonce();
    let mut control = Control::new(&nonce);
    let mut channel = exec
        .exec(command::signal(&nonce, facts, order, signal), Bytes::new())
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

/// Returns 128 random bits, in hexadecimal.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}
