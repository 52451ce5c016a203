//! What goes with a binary: shell completions and man pages, made from the definition of its
//! command line.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Command, Subcommand};
use clap_complete::Shell;

/// Sub-commands that both binaries have.
#[derive(Debug, Subcommand)]
pub enum Manual {
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages: one for the program, one for each of its commands
    Man {
        /// The directory that gets them, for instance /usr/local/share/man/man1
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

impl Manual {
    /// Does it for a binary's command line.
    ///
    /// # Errors
    /// When the output or a page cannot be written; a closed pipe is no error.
    pub fn run(&self, mut command: Command) -> Result<ExitCode, String> {
        match self {
            Self::Completions { shell } => {
                let name = command.get_name().to_owned();
                // Generated into memory: the generator panics where it cannot write.
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut command, name, &mut script);
                match io::stdout().write_all(&script) {
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                        return Err(format!("cannot write the completions: {e}"));
                    }
                    _ => {}
                }
            }
            Self::Man { directory } => {
                fs::create_dir_all(directory).map_err(|e| {
                    format!("cannot make the directory {}: {e}", directory.display())
                })?;
                command.build();
                pages(&command, command.get_name(), directory)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A page for the command and for each below it that people see, named as git's are:
/// `fargate-custom-run.1`.
fn pages(command: &Command, name: &str, directory: &Path) -> Result<(), String> {
    let mut page = Vec::new();
    // The long name is what building the command gave it.
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    let path = directory.join(format!("{name}.1"));
    rendered
        .and_then(|()| fs::write(&path, page))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below
        .into_iter()
        .try_for_each(|below| pages(below, &format!("{name}-{}", below.get_name()), directory))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "program", about = "Does things")]
    struct Program {
        #[command(subcommand)]
        _command: Manual,
    }

    #[test]
    fn each_command_has_a_page_with_its_arguments() {
        use clap::CommandFactory as _;
        let directory = tempfile::tempdir().unwrap();
        Manual::Man { directory: directory.path().to_owned() }.run(Program::command()).unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["program-completions.1", "program-man.1", "program.1"]);
        let page = fs::read_to_string(directory.path().join("program-man.1")).unwrap();
        assert!(page.contains("DIRECTORY") && page.contains("program\\-man"), "{page}");
    }
}
