//! `fargate-replay`: what happened to a job, what it waits for, and what can be done.
//!
//! A sub-command has a file of its own: [`list`], [`show`], [`stats`]. What they share:
//!
//! - [`place`] — where snapshots are, and which one `JOB|FILE` means;
//! - [`holder`] — who works on a job;
//! - [`story`] — what happened, as visits to states;
//! - [`diagnosis`] — what is wrong, and what helps;
//! - [`summary`], [`archive`], [`usual`] — a job in a line; all finished jobs, quickly; how long states last;
//! - [`page`] — pages in HTML;
//! - [`screen`] and [`words`] — colour, width and pipes; observations and times in words.
//!
//! All that only look work on files alone, without AWS.

pub mod archive;
pub mod diagnosis;
pub mod holder;
pub mod list;
pub mod page;
pub mod place;
pub mod screen;
pub mod show;
pub mod stats;
pub mod story;
pub mod summary;
pub mod usual;
pub mod words;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

pub use place::{Place, PlaceArgs, PlaceError, Target};
pub use screen::{ColourArg, Screen};

/// Tells why a GitLab job on Fargate is stuck or failed, from its saved snapshot, and unsticks it.
#[derive(Debug, Parser)]
#[command(name = "fargate-replay", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    /// When to use colour; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColourArg::Auto)]
    color: ColourArg,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs: what state they are in, for how long, and which need somebody
    List(list::List),
    /// Tell a job's story: its states, where time went, and what is wrong
    Show(show::Show),
    /// Summarise the archive: verdicts, causes, how long each state takes
    Stats(stats::Stats),
}

/// Why a command could not do what it was asked. The exit code is 1; clap's own, for bad usage, is 2.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The job or the directory is not to be found.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The directory or a snapshot cannot be used.
    #[error(transparent)]
    Store(#[from] states::StoreError),
    /// A page cannot be written.
    #[error(transparent)]
    Page(#[from] page::PageError),
    /// Output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Anything else, in a sentence for people.
    #[error("{0}")]
    Other(String),
}

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe (`| head`) has seen enough.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("fargate-replay: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(&self) -> Result<(), Failure> {
        let mut screen = Screen::stdout(self.color);
        match &self.command {
            Command::List(list) => list.run(&self.place.resolve()?, &mut screen),
            Command::Show(show) => show.run(&self.place, &mut screen),
            Command::Stats(stats) => stats.run(&self.place.resolve()?, &mut screen),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
