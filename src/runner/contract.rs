//! Exit codes, which tell gitlab-runner whose failure it is.

use std::{env, fs, path::PathBuf, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::console::stderr_line;

/// The exit codes that gitlab-runner's environment sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    build_failure: u8,
    system_failure: u8,
    exit_code_file: Option<PathBuf>,
}

/// An error of that environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// A variable is missing.
    #[error(
        "{0} is not in the environment. `fargate custom …` is meant to be run by gitlab-runner's custom executor, which sets it; to try a script by hand, use `fargate try SCRIPT`."
    )]
    Missing(&'static str),
    /// A variable is not an exit code.
    #[error("{name} is {value:?} in the environment, which is not an exit code from 1 to 255.")]
    NotACode {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The stage succeeded.
    Success,
    /// The script failed, or the project's choice was refused.
    BuildFailure {
        /// The script's own exit status, when there is one.
        code: Option<i32>,
        /// A message for the job log, if the script's output does not explain the failure.
        message: Option<String>,
    },
    /// Anything that is not the job's own fault.
    SystemFailure(String),
}

impl Contract {
    /// Reads the contract from the environment.
    ///
    /// # Errors
    /// When a code is missing or invalid.
    pub fn from_env() -> Result<Self, ContractError> {
        Ok(Self {
            build_failure: code("BUILD_FAILURE_EXIT_CODE")?,
            system_failure: code("SYSTEM_FAILURE_EXIT_CODE")?,
            exit_code_file: env::var_os("BUILD_EXIT_CODE_FILE")
                .filter(|f| !f.is_empty())
                .map(PathBuf::from),
        })
    }

    /// Reports the verdict: writes the script's exit status to gitlab-runner's file, and returns
    /// the code to exit with.
    #[must_use]
    pub fn conclude(&self, verdict: &Verdict) -> ExitCode {
        match verdict {
            Verdict::Success => ExitCode::SUCCESS,
            Verdict::BuildFailure { code, message } => {
                if let Some(message) = message {
                    stderr_line(message);
                }
                if let (Some(file), Some(code)) = (&self.exit_code_file, code)
                    && let Err(e) = fs::write(file, code.to_string())
                {
                    stderr_line(format_args!(
                        "fargate: the script's exit status {code} could not be written to {}: {e}",
                        file.display()
                    ));
                }
                ExitCode::from(self.build_failure)
            }
            Verdict::SystemFailure(message) => {
                stderr_line(message);
                ExitCode::from(self.system_failure)
            }
        }
    }
}

fn code(name: &'static str) -> Result<u8, ContractError> {
    let value = env::var(name).map_err(|_| ContractError::Missing(name))?;
    match value.trim().parse() {
        Ok(code) if code != 0 => Ok(code),
        _ => Err(ContractError::NotACode { name, value }),
    }
}
