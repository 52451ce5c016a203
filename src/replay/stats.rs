//! `stats`.

use clap::Args;

use super::{Failure, Place, Screen};

/// `fargate-replay stats`.
#[derive(Debug, Args)]
pub struct Stats {}

impl Stats {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, _place: &Place, _screen: &mut Screen) -> Result<(), Failure> {
        Err(Failure::Other("not yet".to_owned()))
    }
}
