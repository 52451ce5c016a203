//! `resume`: continues a job whose process is gone.

use std::process::ExitCode;

use ::replay::{Failure, Locator};
use clap::Args;
use states::{AnyJob, Goal, Outcome, RunOutcome, StopReason};

use super::{
    act::{block_on, claim, drive, open, report},
    cluster_check::JobArgs,
    configuration::Configuration,
};
use crate::job_end::{has_ended, remains};

/// `fargate-replay resume`.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is the script's; 255 if the job could not be continued. Ctrl-C leaves the job as it is."
)]
pub struct Resume {
    #[command(flatten)]
    job: JobArgs,
}

impl Resume {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also when another process works on the job.
    pub fn run(
        &self,
        locator: &Locator<'_>,
        configuration: &Configuration<'_>,
    ) -> Result<ExitCode, Failure> {
        block_on(async {
            let (engine, mut work) = claim(locator, configuration, &self.job, "resume")?;
            let stage = open(&engine, &mut work, "resume").await;
            if has_ended(&work.snapshot) {
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
                    report(&format!(
                        "following the script of {} from byte {} of its output",
                        job.state.order.stage, job.state.offset
                    ));
                    Goal::Run
                }
                AnyJob::Stopping(_) => Goal::End,
            };
            let Some(outcome) = drive(&engine, &mut work, goal, stage).await? else {
                return Ok(ExitCode::from(130));
            };
            let snapshot = work.snapshot.clone();
            work.close().await;
            match outcome {
                Outcome::Reachable(Some(last)) if goal == Goal::Run => match last.outcome {
                    RunOutcome::Exited { code, total } => {
                        report(&format!(
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
                    report(if snapshot.job.header().warm().is_some() {
                        "the warm task is ready, and waits for a job, or for `stop`"
                    } else {
                        "the job's container answers, and no script runs in it: the job waits for gitlab-runner, or for `stop`"
                    });
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
                    report(&format!(
                        "the job is over and archived: {}",
                        diagnosis::stop_reason(&reason)
                    ));
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::Unfinished => Err(Failure::Other(remains(&snapshot))),
                Outcome::Stopping(_) => {
                    Err(Failure::Other("the job's task has not ended yet".to_owned()))
                }
            }
        })
    }
}
