//! `resume`, `stop`, `archive`: what acts on a job, under its lease and by the same engine as the
//! stages.

use std::{
    io,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use states::{
    AnyJob, DirectoryLease, EngineError, Goal, JobIo, Note, Outcome, RunOutcome, Seen, StopReason,
    TaskControl,
};
use tokio::signal::unix::{SignalKind, signal};
use transports::delivery;

use super::{Failure, PlaceArgs, Target, own_cluster::ActOn};
use crate::{
    console::stderr_line,
    stages::{self, JobEngine, output::Output},
    telemetry,
};

type Work = states::Work<delivery::Session, DirectoryLease>;

/// How long a piece of output that is being written may take once somebody wants to leave.
const LAST_PIECE: Duration = Duration::from_secs(2);

/// `fargate-replay resume`.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is the script's; 255 if the job could not be driven on. Ctrl-C leaves the job as it is."
)]
pub struct Resume {
    /// A GitLab job id, or a snapshot's name in the directory
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    on: ActOn,
}

/// `fargate-replay stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// A GitLab job id, or a snapshot's name in the directory
    #[arg(value_name = "JOB")]
    job: String,
    /// Why, for the job's record and ECS's
    #[arg(long, value_name = "TEXT", default_value = "stopped by hand with fargate-replay")]
    reason: String,
    #[command(flatten)]
    on: ActOn,
}

/// `fargate-replay archive`.
#[derive(Debug, Args)]
pub struct Archive {
    /// A GitLab job id, or a snapshot's name in the directory
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    on: ActOn,
}

impl Resume {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also when another process works on the job.
    pub fn run(&self, place: &PlaceArgs) -> Result<ExitCode, Failure> {
        block_on(async {
            let (engine, mut work) = take_up(place, &self.job, self.on, "resume")?;
            begin(&engine, &mut work, "resume").await;
            if stages::has_ended(&work.snapshot) {
                engine.request_stop(&mut work, StopReason::Asked("resumed by hand".to_owned()));
            }
            let never_sent =
                matches!(&work.snapshot.job, AnyJob::Executing(job) if !job.state.started);
            let goal = match &work.snapshot.job {
                AnyJob::Provisioning(_)
                | AnyJob::Pending(_)
                | AnyJob::Running(_)
                | AnyJob::Reachable(_) => Goal::Reach,
                AnyJob::Executing(job) => {
                    say(&format!(
                        "following the script of {} from byte {} of its output",
                        job.state.order.stage, job.state.offset
                    ));
                    Goal::Run
                }
                AnyJob::Stopping(_) => Goal::End,
            };
            let Some(outcome) = drive(&engine, &mut work, goal).await? else {
                return Ok(ExitCode::from(130));
            };
            let snapshot = work.snapshot.clone();
            work.close().await;
            match outcome {
                Outcome::Reachable(Some(last)) if goal == Goal::Run => match last.outcome {
                    RunOutcome::Exited { code, total } => {
                        say(&format!(
                            "the script of {} ended with exit status {code} after {total} bytes of output",
                            last.stage
                        ));
                        Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
                    }
                    lost => Err(Failure::Other(format!(
                        "the script's exit status is lost: {}",
                        diagnosis::lost_run(&lost).unwrap_or_default()
                    ))),
                },
                Outcome::Reachable(_) => {
                    say(
                        "the job's container answers, and no script runs in it: the job waits for gitlab-runner, or for `stop`",
                    );
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::MustEnd(reason) => Err(Failure::Other(format!(
                    "{}the job has to end: {} `fargate-replay stop` ends its task.",
                    if never_sent {
                        "the driver was gone before the container had confirmed the script. "
                    } else {
                        ""
                    },
                    diagnosis::stop_reason(&reason)
                ))),
                Outcome::Ended(reason) => {
                    say(&format!(
                        "the job is over and archived: {}",
                        diagnosis::stop_reason(&reason)
                    ));
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::Unfinished => Err(Failure::Other(stages::remains(&snapshot))),
                Outcome::Stopping(_) => {
                    Err(Failure::Other("the job's task has not ended yet".to_owned()))
                }
            }
        })
    }
}

impl Stop {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also when another process works on the job.
    pub fn run(&self, place: &PlaceArgs) -> Result<ExitCode, Failure> {
        block_on(async {
            let (engine, work) = take_up(place, &self.job, self.on, "stop")?;
            end(&engine, work, "stop", &self.reason).await
        })
    }
}

impl Archive {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also while the job's task lives.
    pub fn run(&self, place: &PlaceArgs) -> Result<ExitCode, Failure> {
        block_on(async {
            let (engine, work) = take_up(place, &self.job, self.on, "archive")?;
            let header = work.snapshot.job.header();
            let alive = |task: &dyn std::fmt::Display, status: &dyn std::fmt::Display| {
                Failure::Other(format!(
                    "task {task} of the job is {status}: `fargate-replay stop {}` ends it and archives the job.",
                    self.job
                ))
            };
            let control = |e: states::ControlError| Failure::Other(diagnosis::explain_control(&e));
            let cluster = &header.spec.cluster;
            if let Some(task) = work.snapshot.job.task() {
                let described = engine
                    .control()
                    .describe(cluster, std::slice::from_ref(task))
                    .await
                    .map_err(control)?;
                match described.first().map(|described| &described.seen) {
                    Some(Seen::Task(report)) if report.status.has_ended() => {}
                    Some(Seen::Missing) => {}
                    Some(Seen::Task(report)) => return Err(alive(task, &report.status)),
                    None => {
                        return Err(Failure::Other(format!(
                            "ECS did not say how task {task} is. Try again."
                        )));
                    }
                }
            } else if let Some(task) = engine
                .control()
                .find(cluster, &header.spec.started_by)
                .await
                .map_err(control)?
                .first()
            {
                return Err(alive(task, &"launched"));
            }
            end(&engine, work, "archive", "archived by hand: its task is over").await
        })
    }
}

async fn end(
    engine: &JobEngine,
    mut work: Work,
    purpose: &str,
    reason: &str,
) -> Result<ExitCode, Failure> {
    begin(engine, &mut work, purpose).await;
    engine.request_stop(&mut work, StopReason::Asked(reason.to_owned()));
    let Some(outcome) = drive(engine, &mut work, Goal::End).await? else {
        return Ok(ExitCode::from(130));
    };
    match outcome {
        Outcome::Ended(reason) => {
            say(&format!("the job is over and archived: {}", diagnosis::stop_reason(&reason)));
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Unfinished => Err(Failure::Other(format!(
            "{} The job is kept: `{purpose}` again goes on.",
            stages::remains(&work.snapshot)
        ))),
        other => Err(Failure::Other(format!("the job did not end: {other:?}"))),
    }
}

/// Finds the job, and becomes the only one who works on it.
fn take_up(
    place: &PlaceArgs,
    job: &str,
    on: ActOn,
    purpose: &str,
) -> Result<(JobEngine, Work), Failure> {
    let target = place.find(job)?;
    let id = target.snapshot.job.header().id.clone();
    let (engine, config) = acting(target, on)?;
    for complaint in telemetry::start(&config) {
        say(&complaint);
    }
    let lease = engine.store().try_lease(&id, purpose)?;
    let snapshot = engine
        .store()
        .read(&id)?
        .ok_or_else(|| Failure::Other(format!("job {id} has just ended")))?;
    let work = engine.work(snapshot, lease);
    Ok((engine, work))
}

/// From here on, what is done is on record, and in the job's trace.
async fn begin(engine: &JobEngine, work: &mut Work, purpose: &str) {
    telemetry::job::opened(engine.store().directory(), &work.snapshot, purpose);
    engine.open(work, purpose).await;
}

/// What acts on a job that was found.
pub(super) fn acting(
    target: Target,
    on: ActOn,
) -> Result<(JobEngine, crate::config::Config), Failure> {
    if target.archived {
        let job = &target.snapshot.job.header().about.job_id;
        return Err(Failure::Other(format!(
            "job {job} is over and archived: `fargate-replay show {job}` tells how it ended"
        )));
    }
    let Some(place) = target.place else {
        return Err(Failure::Other(format!(
            "{} is a copy: only a job in its metadata directory can be acted on",
            target.path.display()
        )));
    };
    let Some(config) = place.config else {
        return Err(Failure::Other(
            "this acts on the job's task: name the driver's configuration with --config".to_owned(),
        ));
    };
    place.store.refuse_exposed()?;
    on.refuse_others(&target.snapshot, &config)?;
    Ok((stages::engine(&config, place.store), config))
}

/// Drives the job; `None` when somebody left by Ctrl-C or SIGTERM. What was begun is in the
/// snapshot, and what was handed on is marked: the next process goes on there.
async fn drive(
    engine: &JobEngine,
    work: &mut Work,
    goal: Goal,
) -> Result<Option<Outcome>, Failure> {
    let Some(drove) = until_left(engine, work, goal).await? else {
        let left = "left as it is; `resume` goes on from here";
        telemetry::job::closed(&Ok(Outcome::Unfinished), goal, &work.snapshot);
        say(left);
        return Ok(None);
    };
    telemetry::job::closed(&drove, goal, &work.snapshot);
    drove.map(Some).map_err(failed)
}

async fn until_left(
    engine: &JobEngine,
    work: &mut Work,
    goal: Goal,
) -> io::Result<Option<Result<Outcome, EngineError>>> {
    let desk = Arc::new(Desk { writing: Mutex::new(false), leaving: Mutex::new(false) });
    let mut io = Follower { stdout: Output::stdout(), desk: Arc::clone(&desk) };
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
    set(&desk.leaving);
    if is(&desk.writing) {
        // Bytes that were written and not marked would come twice.
        let last = std::future::poll_fn(|context| match drive.as_mut().poll(context) {
            Poll::Pending if is(&desk.writing) => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let _ = tokio::time::timeout(LAST_PIECE, last).await;
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

struct Desk {
    writing: Mutex<bool>,
    leaving: Mutex<bool>,
}

fn set(flag: &Mutex<bool>) {
    *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
}

fn is(flag: &Mutex<bool>) -> bool {
    *flag.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands the script's output on, and tells on stderr what happens.
struct Follower {
    stdout: Output,
    desk: Arc<Desk>,
}

impl JobIo for Follower {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        if is(&self.desk.leaving) {
            std::future::pending::<()>().await;
        }
        set(&self.desk.writing);
        let written = self.stdout.write(&bytes).await;
        *self.desk.writing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        written
    }

    fn note(&mut self, note: Note<'_>) {
        telemetry::noted(&note);
        match note {
            Note::Entered { state, .. } => say(&format!("the job is {state}")),
            Note::ConnectionLost(why) => say(&format!(
                "the connection was lost ({why}); the script goes on there. Reconnecting …"
            )),
            Note::Reconnected { offset } => say(&format!("reconnected, at byte {offset}")),
            Note::Unreachable(error) => tracing::debug!("{error}"),
            Note::Waiting(what) => say(&format!("waiting: {what}")),
            Note::Observed(saw) => tracing::debug!(?saw, "observed"),
        }
    }

    /// Ctrl-C leaves the job alone, so nothing is ever cancelled here.
    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}

/// A line for the person; standard output is the script's.
pub(super) fn say(line: &str) {
    stderr_line(format_args!("fargate-replay: {line}"));
}

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
