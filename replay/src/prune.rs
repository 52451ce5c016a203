//! `prune`: removes old jobs from the archive.

use std::{io::Write as _, time::Duration};

use clap::Args;
use states::{Pruned, Retention};

use crate::{Failure, Location, Screen};

/// `fargate-replay prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove jobs that ended longer ago than this, such as 7d [default, without --keep: the
    /// configuration's]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Remove all but so many of the newest
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    /// Runs the command.
    ///
    /// # Errors
    /// When neither the command line nor a configuration says what to keep, or a file cannot be
    /// removed.
    pub fn run(&self, location: &Location, screen: &mut Screen) -> Result<(), Failure> {
        let (age, count) = match (self.older_than, self.keep, &location.settings) {
            (None, None, Some(settings)) => (settings.retention.age, settings.retention.count),
            (None, None, None) => {
                return Err(Failure::Other(
                    "say what goes: --older-than, --keep, or a --config".to_owned(),
                ));
            }
            (age, keep, _) => (age.unwrap_or(Duration::MAX), keep.unwrap_or(usize::MAX)),
        };
        location.store.refuse_exposed()?;
        let Pruned { kept, removed } =
            location.store.prune(Retention { age, count }, self.dry_run)?;
        let would = if self.dry_run { "would be removed" } else { "removed" };
        writeln!(screen, "{removed} of {} archived jobs {would}", kept + removed)?;
        screen.flush()?;
        Ok(())
    }
}
