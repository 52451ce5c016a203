//! gitlab-runner's scripts: text for a shell, to which the driver adds lines of its own.

use bytes::Bytes;

/// Puts commands in front of a script, for the shell that runs it.
///
/// They go in front of the first line after `#!`, on the same line, so that line numbers do not
/// change: `commands` is one line that ends with `;`. Only shells of the Bourne family understand
/// them; other scripts do not change.
#[must_use]
pub fn prepend(script: Bytes, commands: &str) -> Bytes {
    let first = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let at = if first.starts_with(b"#!") {
        if !is_shell(first) || first.len() == script.len() {
            return script;
        }
        first.len() + 1
    } else {
        0
    };
    [&script[..at], commands.as_bytes(), b" ", &script[at..]].concat().into()
}

fn is_shell(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    line.trim_start_matches("#!")
        .split_whitespace()
        .map(|word| word.rsplit('/').next().unwrap_or_default())
        .any(|word| ["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"].contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(script: &str) -> String {
        String::from_utf8(prepend(Bytes::from(script.to_owned()), "x=1;").to_vec()).unwrap()
    }

    #[test]
    fn the_interpreter_and_line_numbers_do_not_change() {
        assert_eq!(
            prepared("#!/usr/bin/env bash\n\nset -e\n"),
            "#!/usr/bin/env bash\nx=1; \nset -e\n"
        );
    }

    #[test]
    fn a_script_without_an_interpreter_is_the_default_shells() {
        assert_eq!(prepared("echo hi\n"), "x=1; echo hi\n");
    }

    #[test]
    fn scripts_of_other_interpreters_do_not_change() {
        for script in ["#!/usr/bin/env python3\nprint(1)\n", "#!/usr/bin/pwsh\n1\n", "#!/bin/sh"] {
            assert_eq!(prepared(script), script);
        }
    }
}
