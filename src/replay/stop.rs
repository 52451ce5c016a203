//! `stop`: ends a job's task and archives the job.

use std::process::ExitCode;

use ::replay::{Failure, Locator};
use clap::Args;

use super::{
    act::{block_on, claim, end},
    cluster_check::JobArgs,
    configuration::Configuration,
};

/// `fargate-replay stop`.
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    job: JobArgs,
    /// Why, for the job's record and ECS's
    #[arg(long, value_name = "TEXT", default_value = "stopped by hand with fargate-replay")]
    reason: String,
}

impl Stop {
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
            let (engine, work) = claim(locator, configuration, &self.job, "stop")?;
            end(&engine, work, "stop", &self.reason).await
        })
    }
}
