//! A job's CI/CD variables, and how gitlab-runner replaces their names in texts.

use serde::{Deserialize, Serialize};

/// One variable (gitlab-runner, `common/spec`, `Variable`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// Its value, in which GitLab may have left names of variables.
    #[serde(default)]
    pub value: String,
    /// Whether GitLab shows it to everybody who sees the job: it is from `.gitlab-ci.yml`, or one
    /// of GitLab's own.
    #[serde(default)]
    pub public: bool,
    /// Whether the job gets it as a file.
    #[serde(default)]
    pub file: bool,
    /// Whether names of variables in the value stay as they are.
    #[serde(default)]
    pub raw: bool,
}

/// All variables of a job, in GitLab's order. The last one of a name counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables(Vec<Variable>);

impl Variables {
    /// Takes the variables as GitLab sent them, and replaces names in their values, as
    /// gitlab-runner does: once, except in raw ones.
    #[must_use]
    pub fn of_response(sent: &[Variable]) -> Self {
        let sent = Self(sent.to_vec());
        Self(sent.expanded(&sent.0))
    }

    /// Returns the value of a variable, if it exists and is not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let last = self.0.iter().rev().find(|variable| variable.key == name)?;
        Some(last.value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns these variables with all names in their values replaced.
    #[must_use]
    pub fn expanded(&self, variables: &[Variable]) -> Vec<Variable> {
        let expand = |variable: &Variable| Variable {
            value: if variable.raw { variable.value.clone() } else { self.expand(&variable.value) },
            ..variable.clone()
        };
        variables.iter().map(expand).collect()
    }

    /// Returns the variables that everybody may see who sees the job, without GitLab's own.
    pub fn public(&self) -> impl Iterator<Item = &Variable> {
        let is_gitlabs =
            |key: &str| key == "CI" || key.starts_with("CI_") || key.starts_with("GITLAB_");
        let is_last = |at: usize, key: &str| self.0[at + 1..].iter().all(|later| later.key != key);
        self.0
            .iter()
            .enumerate()
            .filter(move |(at, variable)| is_last(*at, &variable.key))
            .map(|(_, variable)| variable)
            .filter(move |variable| variable.public && !variable.file && !is_gitlabs(&variable.key))
    }

    /// Replaces `$NAME` and `${NAME}` in a text by the rules of Go's `os.Expand`, which
    /// gitlab-runner uses. A variable that does not exist is empty; `$$` is a dollar.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let (name, length) = name(after);
            match name {
                // A dollar that no name follows stays; a wrong brace goes.
                "" if length == 0 => expanded.push('$'),
                "$" => expanded.push('$'),
                name => expanded.push_str(self.get(name).unwrap_or_default()),
            }
            rest = &after[length..];
        }
        expanded + rest
    }
}

/// Returns the name that a text begins with, and the length of its notation.
fn name(text: &str) -> (&str, usize) {
    let is_special = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) => (&braced[..end], end + 2),
            None => ("", 1),
        };
    }
    if text.starts_with(is_special) {
        return (&text[..1], 1);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (&text[..end], end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(key: &str, value: &str) -> Variable {
        Variable { key: key.into(), value: value.into(), public: true, ..Variable::default() }
    }

    #[test]
    fn names_are_replaced_as_by_go() {
        let sent = [variable("A", "one"), variable("B", "$A-two"), variable("A_B", "three")];
        let variables = Variables::of_response(&sent);
        for (text, expanded) in [
            ("node:$A", "node:one"),
            ("${B}/x", "one-two/x"),
            ("$A_B.$A", "three.one"),
            ("$MISSING:${MISSING}", ":"),
            ("100$", "100$"),
            ("a$ b", "a$ b"),
            ("$$A", "$A"),
            ("${}x", "x"),
            ("${A", "A"),
            ("$1x$*", "x"),
            ("é$A é", "éone é"),
        ] {
            assert_eq!(variables.expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn the_last_value_counts_and_raw_ones_stay() {
        let raw = Variable { raw: true, ..variable("RAW", "$A") };
        let sent = [variable("A", "1"), raw, variable("A", "2"), variable("EMPTY", "")];
        let variables = Variables::of_response(&sent);
        assert_eq!(variables.get("A"), Some("2"));
        assert_eq!(variables.get("RAW"), Some("$A"));
        assert_eq!(variables.get("EMPTY"), None);
    }

    #[test]
    fn secrets_files_and_gitlabs_own_are_not_public() {
        let secret = Variable { public: false, ..variable("SECRET", "s") };
        let file = Variable { file: true, ..variable("FILE", "f") };
        let sent = [
            variable("CI_JOB_ID", "1"),
            variable("POSTGRES_DB", "old"),
            secret,
            file,
            variable("POSTGRES_DB", "new"),
            variable("GITLAB_CI", "true"),
        ];
        let variables = Variables::of_response(&sent);
        let public: Vec<_> = variables.public().map(|v| (v.key.as_str(), &*v.value)).collect();
        assert_eq!(public, [("POSTGRES_DB", "new")]);
    }

    /// A project may not show a secret by repeating its name in `.gitlab-ci.yml`.
    #[test]
    fn a_public_variable_that_a_secret_one_replaces_is_not_public() {
        let secret = Variable { public: false, ..variable("TOKEN", "secret") };
        let variables = Variables::of_response(&[variable("TOKEN", "public"), secret]);
        assert_eq!(variables.public().count(), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_expanded(text in "[${}A1é ]{0,30}") {
            let expanded = Variables::default().expand(&text);
            prop_assert!(expanded.len() <= text.len());
        }
    }
}
