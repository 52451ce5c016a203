//! The command line of `fargate-replay`, and its commands that act on a job.
//!
//! Commands that only read are in the crate `replay`. Here, a command has a file of its own, too:
//!
//! - [`resume`], [`stop`], [`archive`], [`shell`];
//! - [`act`] — what they share: the job's lease, the engine, and output;
//! - [`cluster_check`] — whether a job belongs to the configured cluster and manager;
//! - [`configuration`] — the driver's configuration, loaded once.

pub mod act;
pub mod archive;
pub mod cluster_check;
pub mod configuration;
pub mod resume;
pub mod shell;
pub mod stop;

use std::{io, process::ExitCode};

use ::replay::{
    ColourArg, Failure, LocationArgs, Locator, Screen, export::Export, list::List,
    location::GLOBAL_OPTIONS, prune::Prune, show::Show, stats::Stats, step::StepArgs,
};
use clap::{CommandFactory as _, Parser, Subcommand};

use self::configuration::Configuration;
use crate::{console::stderr_line, manual::Manual};

/// Tells why a GitLab job on Fargate is stuck or failed, from its saved snapshot, and unsticks it.
#[derive(Debug, Parser)]
#[command(name = "fargate-replay", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    location: LocationArgs,
    /// When to use colour: auto, always or never; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColourArg::Auto)]
    #[arg(hide_possible_values = true, help_heading = GLOBAL_OPTIONS)]
    color: ColourArg,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs: what state they are in, for how long, and which need help
    List(List),
    /// Report on a job: its states, where time went, and what is wrong
    Show(Show),
    /// Summarise the archive: verdicts, causes, how long each state takes
    Stats(Stats),
    /// Write a job into one file for a bug report, without names, addresses and secrets
    Export(Export),
    /// Replay a job's journal through today's machine, and compare its states with the recorded ones
    Step(StepArgs),
    /// Continue a job whose process is gone: wait, follow its script to the end, or finish its stop
    Resume(resume::Resume),
    /// End a job's task and archive the job
    Stop(stop::Stop),
    /// Archive a job whose task has ended
    Archive(archive::Archive),
    /// Remove old jobs from the archive
    Prune(Prune),
    /// Open a terminal in a job's container, beside the running script
    Shell(shell::Shell),
    #[command(flatten)]
    Manual(Manual),
}

/// Parses the command line, runs its command, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.run() {
        Ok(code) => code,
        // The reader, such as `head`, closed the pipe: it has what it wants.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            stderr_line(format_args!("fargate-replay: {e}"));
            if e.is_denied() {
                stderr_line(
                    "fargate-replay: the metadata is the driver's: run this as the user that the driver runs as; to look, root may, too.",
                );
            }
            // As with ssh: resume and shell return the script's or the shell's exit code, which may
            // be 1.
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
        let configuration = Configuration::new(self.location.config.as_deref());
        let locator = Locator::new(&self.location, &configuration);
        let mut screen = Screen::stdout(self.color);
        let done = match &self.command {
            Command::List(list) => list.run(&locator.open()?, &mut screen),
            Command::Show(show) => show.run(&locator, &mut screen),
            Command::Stats(stats) => stats.run(&locator.open()?, &mut screen),
            Command::Export(export) => export.run(&locator, &mut screen),
            Command::Prune(prune) => prune.run(&locator.open()?, &mut screen),
            Command::Step(step) => return step.run(&locator, &mut screen),
            Command::Resume(resume) => return resume.run(&locator, &configuration),
            Command::Stop(stop) => return stop.run(&locator, &configuration),
            Command::Archive(archive) => return archive.run(&locator, &configuration),
            Command::Shell(shell) => return shell.run(&locator, &configuration),
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
