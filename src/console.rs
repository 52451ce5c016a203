//! Lines for people, on a terminal or in the job log. Texts of projects, containers and AWS are in
//! them: none of them steers the terminal, or looks like a line of its own.
//!
//! What scripts print is not written by this: it is passed on as it is.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use states::foreign_text::tame;

/// Writes one line to standard error.
pub fn stderr_line(line: impl Display) {
    // Whoever closed it does not want to read it; that is no reason to stop.
    let _ = writeln!(io::stderr().lock(), "{}", tame(&line.to_string()));
}

/// Writes one line to standard output.
pub fn stdout_line(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{}", tame(&line.to_string()));
}
