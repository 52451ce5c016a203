//! `list`.

use clap::Args;

use super::{Failure, Place, Screen};

/// `fargate-replay list`.
#[derive(Debug, Args)]
pub struct List {}

impl List {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, _place: &Place, _screen: &mut Screen) -> Result<(), Failure> {
        Err(Failure::Other("not yet".to_owned()))
    }
}
