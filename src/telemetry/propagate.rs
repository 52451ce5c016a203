//! Passes the trace context to scripts, so that build tools can join the trace.

use bytes::Bytes;

use super::recorder;

/// Adds `TRACEPARENT` and the other allowed variables to the script's environment, if configured.
///
/// Assignments go in front of the first line after `#!`, on the same line, so that line numbers do
/// not change. Only shells of the Bourne family understand them; other scripts do not change.
#[must_use]
pub fn propagated(script: Bytes) -> Bytes {
    let Some(variables) = recorder::propagated_variables() else { return script };
    with(script, &variables)
}

fn with(script: Bytes, variables: &[(&str, String)]) -> Bytes {
    let first = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let at = if first.starts_with(b"#!") {
        if !is_shell(first) || first.len() == script.len() {
            return script;
        }
        first.len() + 1
    } else {
        0
    };
    let mut exports = String::from("export");
    for (name, value) in variables {
        exports.push_str(&format!(" {name}='{}'", value.replace('\'', r"'\''")));
    }
    exports.push_str("; ");
    [&script[..at], exports.as_bytes(), &script[at..]].concat().into()
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
        let variables =
            [("TRACEPARENT", "00-a-b-01".to_owned()), ("TRACESTATE", "it's=1; $(rm)".to_owned())];
        String::from_utf8(with(Bytes::from(script.to_owned()), &variables).to_vec()).unwrap()
    }

    #[test]
    fn the_interpreter_and_line_numbers_do_not_change() {
        let script = prepared("#!/usr/bin/env bash\n\nset -e\n");
        assert_eq!(
            script,
            "#!/usr/bin/env bash\nexport TRACEPARENT='00-a-b-01' TRACESTATE='it'\\''s=1; $(rm)'; \nset -e\n"
        );
    }

    #[test]
    fn a_script_without_an_interpreter_is_the_default_shells() {
        assert!(prepared("echo hi\n").starts_with("export TRACEPARENT="));
    }

    #[test]
    fn scripts_of_other_interpreters_do_not_change() {
        for script in ["#!/usr/bin/env python3\nprint(1)\n", "#!/usr/bin/pwsh\n1\n", "#!/bin/sh"] {
            assert_eq!(prepared(script), script);
        }
    }
}
