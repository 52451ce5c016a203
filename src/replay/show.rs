//! `show`.

use clap::Args;

use super::{Failure, PlaceArgs, Screen};

/// `fargate-replay show`.
#[derive(Debug, Args)]
pub struct Show {
    /// A GitLab job id, a snapshot's name in the directory, or a file
    #[arg(value_name = "JOB|FILE")]
    job: String,
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, place: &PlaceArgs, _screen: &mut Screen) -> Result<(), Failure> {
        place.find(&self.job)?;
        Err(Failure::Other("not yet".to_owned()))
    }
}
