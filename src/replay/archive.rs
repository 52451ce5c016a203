//! `archive`: archives a job whose task has ended.

use std::process::ExitCode;

use ::replay::{Failure, Locator};
use clap::Args;
use states::{Seen, TaskControl as _};

use super::{
    act::{block_on, claim, end},
    cluster_check::JobArgs,
    configuration::Configuration,
};

/// `fargate-replay archive`.
#[derive(Debug, Args)]
pub struct Archive {
    #[command(flatten)]
    job: JobArgs,
}

impl Archive {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], also while the job's task lives.
    pub fn run(
        &self,
        locator: &Locator<'_>,
        configuration: &Configuration<'_>,
    ) -> Result<ExitCode, Failure> {
        block_on(async {
            let (engine, work) = claim(locator, configuration, &self.job, "archive")?;
            let header = work.snapshot.job.header();
            let alive = |task: &dyn std::fmt::Display, status: &dyn std::fmt::Display| {
                Failure::Other(format!(
                    "task {task} of the job is {status}: `fargate-replay stop {}` ends it and archives the job.",
                    self.job.job
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
