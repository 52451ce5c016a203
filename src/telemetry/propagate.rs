//! Passes the trace context to scripts, so that build tools can join the trace.

use bytes::Bytes;

use super::recorder;
use crate::runner::prepend;

/// Adds `TRACEPARENT` and the other allowed variables to the script's environment, if configured:
/// see [`prepend`].
#[must_use]
pub fn propagated(script: Bytes) -> Bytes {
    let Some(variables) = recorder::propagated_variables() else { return script };
    with(script, &variables)
}

fn with(script: Bytes, variables: &[(&str, String)]) -> Bytes {
    let mut exports = String::from("export");
    for (name, value) in variables {
        exports.push_str(&format!(" {name}='{}'", value.replace('\'', r"'\''")));
    }
    prepend(script, &(exports + ";"))
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
