//! `fargate-replay`: what happened to a job, what it waits for, and what can be done.
//!
//! A sub-command has a file of its own: [`list`], [`show`], [`stats`], [`step`], [`export`],
//! [`act`] (`resume`, `stop`, `archive`), [`prune`], [`shell`]. What they share:
//!
//! - [`place`] — where snapshots are, and which one `JOB|FILE` means;
//! - [`holder`], [`own_cluster`] — who works on a job; whose it is;
//! - the crate [`diagnosis`] — what is wrong, and what helps; [`story`] is what happened, as visits to
//!   states, [`words`] are observations and times in words;
//! - [`summary`], [`archive`], [`usual`] — a job in a line; all finished jobs, quickly; how long
//!   states last;
//! - [`page`] — pages in HTML;
//! - [`screen`] — colour, width and pipes.
//!
//! All that only look work on files alone, without AWS.

pub mod act;
pub mod archive;
pub mod export;
pub mod holder;
pub mod list;
pub mod own_cluster;
pub mod page;
pub mod place;
pub mod prune;
pub mod screen;
pub mod shell;
pub mod show;
pub mod stats;
pub mod step;
pub mod summary;
pub mod usual;
pub mod what_if;

use std::{io, process::ExitCode};

pub use ::diagnosis::{self, timeline, words};

use clap::{CommandFactory as _, Parser, Subcommand};

pub use place::{Place, PlaceArgs, PlaceError, Target};
pub use screen::{ColourArg, Screen};

use crate::{console::stderr_line, manual::Manual};

/// Tells why a GitLab job on Fargate is stuck or failed, from its saved snapshot, and unsticks it.
#[derive(Debug, Parser)]
#[command(name = "fargate-replay", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    /// When to use colour: auto, always or never; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColourArg::Auto)]
    #[arg(hide_possible_values = true, help_heading = place::EVERYWHERE)]
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
    /// Write a job into one file for a bug report, without names, addresses and secrets
    Export(export::Export),
    /// Replay a job's journal through today's machine, and tell whether it decides as it did
    Step(step::StepArgs),
    /// Drive a job on whose process is gone: wait, follow its script to the end, or finish its stop
    Resume(act::Resume),
    /// End a job's task and archive the job
    Stop(act::Stop),
    /// Archive a job whose task is over
    Archive(act::Archive),
    /// Remove old jobs from the archive
    Prune(prune::Prune),
    /// Open a terminal in a job's container, beside the running script
    Shell(shell::Shell),
    #[command(flatten)]
    Manual(Manual),
}

/// Why a command could not do what it was asked. The exit code is 1; clap's own, for bad usage, is
/// 2.
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

impl Failure {
    /// Whether another user could do it.
    fn is_denied(&self) -> bool {
        let (Self::Store(states::StoreError::Io { source, .. })
        | Self::Place(
            PlaceError::Store(states::StoreError::Io { source, .. })
            | PlaceError::Unreadable { source, .. },
        )) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.run() {
        Ok(code) => code,
        // Whoever closed the pipe (`| head`) has seen enough.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            stderr_line(format_args!("fargate-replay: {e}"));
            if e.is_denied() {
                stderr_line(
                    "fargate-replay: the metadata is the driver's: run this as the user that the driver runs as; to look, root may, too.",
                );
            }
            // As with ssh: resume and shell return somebody else's exit code, 1 may be that.
            if matches!(cli.command, Command::Resume(_) | Command::Shell(_)) {
                ExitCode::from(255)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

impl Cli {
    fn run(&self) -> Result<ExitCode, Failure> {
        let mut screen = Screen::stdout(self.color);
        let done = match &self.command {
            Command::List(list) => list.run(&self.place.resolve()?, &mut screen),
            Command::Show(show) => show.run(&self.place, &mut screen),
            Command::Stats(stats) => stats.run(&self.place.resolve()?, &mut screen),
            Command::Export(export) => export.run(&self.place, &mut screen),
            Command::Prune(prune) => prune.run(&self.place.resolve()?, &mut screen),
            Command::Step(step) => return step.run(&self.place, &mut screen),
            Command::Resume(resume) => return resume.run(&self.place),
            Command::Stop(stop) => return stop.run(&self.place),
            Command::Archive(archive) => return archive.run(&self.place),
            Command::Shell(shell) => return shell.run(&self.place),
            Command::Manual(manual) => return manual.run(Self::command()).map_err(Failure::Other),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
