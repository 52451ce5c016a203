//! The driver. See the README.

use std::process::ExitCode;

fn main() -> ExitCode {
    fargate_driver::cli::main()
}
