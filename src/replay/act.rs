//! What `resume`, `stop`, `archive` and `shell` share: they act on a job with the same engine as
//! the stages, the first three under its lease.

use std::{
    io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use ::replay::{Failure, FoundSnapshot, Locator};
use bytes::Bytes;
use states::{EngineError, Goal, JobIo, Note, Outcome, StopReason};
use tokio::signal::unix::{SignalKind, signal};

use super::{cluster_check::JobArgs, configuration::Configuration};
use crate::{
    config::Config,
    console::stderr_line,
    host::{self, JobEngine, Work},
    job_end::remains,
    logging, ownership,
    stages::output::Output,
    telemetry,
};

/// How long a write of output may still take after Ctrl-C or SIGTERM.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Finds the job and takes its lease.
pub(super) fn claim(
    locator: &Locator<'_>,
    configuration: &Configuration<'_>,
    job: &JobArgs,
    purpose: &str,
) -> Result<(JobEngine, Work), Failure> {
    let found = locator.find(&job.job)?;
    let id = found.snapshot.job.header().id.clone();
    let (engine, config) = engine_for(found, configuration, job)?;
    let (prices, manager) = (config.fargate.prices.as_deref(), ownership::manager(config));
    for complaint in telemetry::start(&config.telemetry, prices, &manager, None) {
        report(&complaint);
    }
    logging::start_telemetry();
    let lease = engine.store().try_lease(&id, purpose)?;
    let snapshot = engine
        .store()
        .read(&id)?
        .ok_or_else(|| Failure::Other(format!("job {id} has just ended")))?;
    let work = engine.work(snapshot, lease);
    Ok((engine, work))
}

/// Records this process in the journal and in the job's trace.
pub(super) async fn open(engine: &JobEngine, work: &mut Work, purpose: &str) -> telemetry::Stage {
    let stage = telemetry::job::opened(engine.store().directory(), &work.snapshot, purpose);
    engine.open(work, purpose).await;
    stage
}

/// Creates the engine for a job that was found.
pub(super) fn engine_for<'a>(
    found: FoundSnapshot,
    configuration: &'a Configuration<'_>,
    job: &JobArgs,
) -> Result<(JobEngine, &'a Config), Failure> {
    if found.archived {
        let job = &found.snapshot.job.header().about.job_id;
        return Err(Failure::Other(format!(
            "job {job} is over and archived: `fargate-replay show {job}` shows how it ended"
        )));
    }
    let Some(location) = found.location else {
        return Err(Failure::Other(format!(
            "{} is a copy: only a job in its metadata directory can be acted on",
            found.path.display()
        )));
    };
    let Some(config) = configuration.loaded() else {
        return Err(Failure::Other(
            "this acts on the job's task: name the driver's configuration with --config".to_owned(),
        ));
    };
    location.store.refuse_exposed()?;
    job.refuse_others(&found.snapshot, config)?;
    Ok((host::engine(config, location.store), config))
}

/// Drives the job. Returns `None` after Ctrl-C or SIGTERM: the snapshot and the mark of the output
/// say where the next process continues.
pub(super) async fn drive(
    engine: &JobEngine,
    work: &mut Work,
    goal: Goal,
    stage: telemetry::Stage,
) -> Result<Option<Outcome>, Failure> {
    let Some(drove) = stage.run(drive_until_signal(engine, work, goal)).await? else {
        telemetry::job::closed(stage, &Ok(Outcome::Unfinished), goal, &work.snapshot);
        report("left as it is; `resume` continues from here");
        return Ok(None);
    };
    telemetry::job::closed(stage, &drove, goal, &work.snapshot);
    drove.map(Some).map_err(failed)
}

/// Drives the job until Ctrl-C or SIGTERM.
async fn drive_until_signal(
    engine: &JobEngine,
    work: &mut Work,
    goal: Goal,
) -> io::Result<Option<Result<Outcome, EngineError>>> {
    let output_state = Arc::new(OutputState::default());
    let mut io = Follower { stdout: Output::stdout(), state: Arc::clone(&output_state) };
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let drive = engine.drive(work, goal, &mut io);
    tokio::pin!(drive);
    tokio::select! {
        biased;
        drove = &mut drive => return Ok(Some(drove)),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    output_state.closing.store(true, Ordering::SeqCst);
    let is_writing = || output_state.writing.load(Ordering::SeqCst);
    if is_writing() {
        // The next process would repeat bytes that were written and not marked.
        let last = std::future::poll_fn(|context| match drive.as_mut().poll(context) {
            Poll::Pending if is_writing() => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let _ = tokio::time::timeout(LAST_WRITE, last).await;
    }
    Ok(None)
}

fn failed(e: EngineError) -> Failure {
    match e {
        EngineError::Output(e) => Failure::Output(e),
        EngineError::Store(e) => Failure::Store(e),
        e @ EngineError::Unsuitable(_) => Failure::Other(e.to_string()),
    }
}

/// What the command and its [`Follower`] know of each other.
#[derive(Default)]
struct OutputState {
    /// Whether output is being written.
    writing: AtomicBool,
    /// Whether no more output may be written.
    closing: AtomicBool,
}

/// Writes the script's output to standard output, and events to standard error.
struct Follower {
    stdout: Output,
    state: Arc<OutputState>,
}

impl JobIo for Follower {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        if self.state.closing.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.state.writing.store(true, Ordering::SeqCst);
        let written = self.stdout.write(&bytes).await;
        self.state.writing.store(false, Ordering::SeqCst);
        written
    }

    fn note(&mut self, note: Note<'_>) {
        match note {
            Note::Entered { state, .. } => report(&format!("the job is {state}")),
            Note::ConnectionLost(why) => report(&format!(
                "the connection was lost ({why}); the script continues there. Reconnecting …"
            )),
            Note::Reconnected { offset } => report(&format!("reconnected, at byte {offset}")),
            Note::Unreachable(error) => tracing::debug!("{error}"),
            Note::Waiting(what) => report(&format!("waiting: {what}")),
            Note::Observed(saw) => tracing::debug!(?saw, "observed"),
        }
    }

    /// Never resolves: Ctrl-C leaves the job as it is.
    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}

/// Prints a line to standard error. Standard output has the script's output.
pub(super) fn report(line: &str) {
    stderr_line(format_args!("fargate-replay: {line}"));
}

/// Runs a command, and exports the telemetry that it recorded.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let done = future.await;
        telemetry::flush().await;
        done
    });
    runtime.shutdown_background();
    done
}

/// Stops the job's task and archives the job.
pub(super) async fn end(
    engine: &JobEngine,
    mut work: Work,
    purpose: &str,
    reason: &str,
) -> Result<ExitCode, Failure> {
    let stage = open(engine, &mut work, purpose).await;
    engine.request_stop(&mut work, StopReason::Asked(reason.to_owned()));
    let Some(outcome) = drive(engine, &mut work, Goal::End, stage).await? else {
        return Ok(ExitCode::from(130));
    };
    match outcome {
        Outcome::Ended(reason) => {
            report(&format!("the job is over and archived: {}", diagnosis::stop_reason(&reason)));
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Unfinished => Err(Failure::Other(format!(
            "{} The job is kept: `{purpose}` again continues.",
            remains(&work.snapshot)
        ))),
        other => Err(Failure::Other(format!("the job did not end: {other:?}"))),
    }
}
