//! `export`.

use clap::Args;

use super::{Failure, PlaceArgs, Screen};

/// `fargate-replay export`.
#[derive(Debug, Args)]
pub struct Export {
    /// A GitLab job id, a snapshot's name in the directory, or a file
    #[arg(value_name = "JOB|FILE")]
    job: String,
}

impl Export {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, place: &PlaceArgs, _screen: &mut Screen) -> Result<(), Failure> {
        place.find(&self.job)?;
        Err(Failure::Other("not yet".to_owned()))
    }
}
