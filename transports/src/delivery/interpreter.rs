//! Finds the program that runs a script, from its first line, as the kernel does.

/// From a script's `#!` line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Interpreter {
    /// Program name or path; `None` means the user's login shell.
    pub(super) program: Option<String>,
    /// The one argument that the line may have.
    pub(super) argument: Option<String>,
}

/// Bytes of the first line that are read: the kernel's own limit (BINPRM_BUF_SIZE, `execve(2)`).
const LONGEST_LINE: usize = 255;

impl Interpreter {
    /// Reads the first line. Scripts are run as `program file`, so a missing execute permission or
    /// a `noexec` mount does not matter; `env NAME` becomes `NAME`.
    pub(super) fn of(script: &[u8]) -> Self {
        let line = &script[..script.len().min(LONGEST_LINE)];
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let Some(line) = line.strip_prefix(b"#!").and_then(|line| std::str::from_utf8(line).ok())
        else {
            return Self::default();
        };
        let (program, argument) = match line.trim().split_once(char::is_whitespace) {
            Some((program, argument)) => (program, Some(argument.trim())),
            None => (line.trim(), None),
        };
        if program.is_empty() || program.contains('\0') {
            return Self::default();
        }
        match (program.rsplit('/').next(), argument) {
            (Some("env"), Some(name))
                if !name.starts_with('-')
                    && !name.contains(char::is_whitespace)
                    && !name.contains('=') =>
            {
                Self { program: Some(name.to_owned()), argument: None }
            }
            _ => Self { program: Some(program.to_owned()), argument: argument.map(str::to_owned) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> (Option<String>, Option<String>) {
        let Interpreter { program, argument } = Interpreter::of(script.as_bytes());
        (program, argument)
    }

    #[test]
    fn reads_the_line_as_the_kernel_does() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            of("#!/usr/bin/env bash\n\nset -e"),
            (some("bash"), None),
            "gitlab-runner's scripts"
        );
        assert_eq!(of("#!/bin/sh -eu\n"), (some("/bin/sh"), some("-eu")));
        assert_eq!(of("#! /usr/bin/python3\n"), (some("/usr/bin/python3"), None));
        assert_eq!(of("#!/usr/bin/env -S bash -e\n"), (some("/usr/bin/env"), some("-S bash -e")));
        assert_eq!(of("echo hello\n"), (None, None));
        assert_eq!(of("#!"), (None, None));
        assert_eq!(of(""), (None, None));
    }
}
