//! Looks into saved jobs. See docs/operations.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    fargate_driver::replay::main()
}
