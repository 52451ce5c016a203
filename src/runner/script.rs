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

/// Exports variables to a script's commands: see [`prepend`]. Values may hold any text.
#[must_use]
pub fn with_variables(script: Bytes, variables: &[(&str, String)]) -> Bytes {
    if variables.is_empty() {
        return script;
    }
    let quoted = |value: &str| value.replace('\'', r"'\''");
    let exports: String =
        variables.iter().map(|(name, value)| format!(" {name}='{}'", quoted(value))).collect();
    prepend(script, &format!("export{exports};"))
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
    fn values_of_variables_are_quoted() {
        let variables =
            [("TRACEPARENT", "00-a-b-01".to_owned()), ("TRACESTATE", "it's=1; $(rm)".to_owned())];
        let with = |script: &'static str| with_variables(Bytes::from(script), &variables);
        assert_eq!(
            with("#!/usr/bin/env bash\n\nset -e\n"),
            "#!/usr/bin/env bash\nexport TRACEPARENT='00-a-b-01' TRACESTATE='it'\\''s=1; $(rm)'; \nset -e\n"
        );
        assert!(with("echo hi\n").starts_with(b"export TRACEPARENT="));
        for script in ["#!/usr/bin/env python3\nprint(1)\n", "#!/usr/bin/pwsh\n1\n", "#!/bin/sh"] {
            assert_eq!(with(script), script);
        }
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
