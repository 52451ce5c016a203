//! The commands that are run in the container.

use std::sync::LazyLock;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use states::{RunId, RunOrder, ShellFacts, Signal};

use super::interpreter::Interpreter;

/// The supervisor, which runs in the container for every verb. Must not contain a single quote.
static SUPERVISOR: LazyLock<String> =
    LazyLock::new(|| compact(concat!(include_str!("follow.sh"), include_str!("supervisor.sh"))));
/// The supervisor for a terminal: output goes in armor.
pub(super) static ARMORED_SUPERVISOR: LazyLock<String> =
    LazyLock::new(|| compact(concat!(include_str!("armor.sh"), include_str!("supervisor.sh"))));
/// The wrapper, which is the script's parent in the container. Must not contain a single quote.
pub(super) static WRAPPER: LazyLock<String> = LazyLock::new(|| compact(include_str!("wrapper.sh")));

/// Removes comments and indentation, which would otherwise be sent with every command. Comments
/// must have lines of their own, and no string may span lines.
pub(super) fn compact(program: &str) -> String {
    let lines = program
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.fold(String::with_capacity(program.len()), |text, line| text + line + "\n")
}

/// One command of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    verb: &'static str,
    nonce: String,
    directory: String,
    run: String,
    arguments: Vec<String>,
}

pub(super) fn probe(nonce: &str, name: &str) -> Command {
    Command::new("probe", nonce, "", "", &[name])
}

pub(super) fn start(nonce: &str, facts: &ShellFacts, order: &RunOrder, script: &Bytes) -> Command {
    let interpreter = Interpreter::of(script);
    let program = interpreter.program.unwrap_or_default();
    let size = script.len().to_string();
    let digest = hex::encode(Sha256::digest(script));
    let forget = order.forget.as_ref().map_or("", RunId::as_str);
    let mut arguments = vec![
        forget,
        &size,
        &digest,
        flag(facts.follows_with_tail),
        flag(facts.has_setsid),
        &program,
    ];
    arguments.extend(interpreter.argument.as_deref());
    Command::new("start", nonce, &facts.run_dir, order.run.as_str(), &arguments)
}

pub(super) fn attach(nonce: &str, facts: &ShellFacts, run: &RunId, from: u64) -> Command {
    Command::new(
        "attach",
        nonce,
        &facts.run_dir,
        run.as_str(),
        &[&from.to_string(), flag(facts.follows_with_tail)],
    )
}

pub(super) fn signal(nonce: &str, facts: &ShellFacts, run: &RunId, signal: Signal) -> Command {
    let name = match signal {
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
    };
    Command::new("signal", nonce, &facts.run_dir, run.as_str(), &[name])
}

impl Command {
    fn new(
        verb: &'static str,
        nonce: &str,
        directory: &str,
        run: &str,
        arguments: &[&str],
    ) -> Self {
        let owned = |text: &str| text.to_owned();
        let arguments = arguments.iter().copied().map(owned).collect();
        Self { verb, nonce: owned(nonce), directory: owned(directory), run: owned(run), arguments }
    }

    /// Formats a line for the user's login shell. It begins with `exec`, so that no shell stays as
    /// a process of its own.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::with_capacity(SUPERVISOR.len() + WRAPPER.len() + 512);
        line.push_str("exec /bin/sh -c ");
        for word in [&SUPERVISOR, "fargate", &WRAPPER, self.verb, &self.nonce]
            .into_iter()
            .chain(self.rest())
        {
            quote(&mut line, word);
            line.push(' ');
        }
        line
    }

    /// The nonce that marks this command's control lines.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Whether it follows a run's output.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self.verb, "start" | "attach")
    }

    /// The offset of the first byte of output.
    pub(super) fn from(&self) -> u64 {
        if self.verb == "attach" {
            self.arguments.first().and_then(|from| from.parse().ok()).unwrap_or(0)
        } else {
            0
        }
    }

    /// Formats the supervisor's arguments for a shell that has the programs already. `mark` goes
    /// before the nonce.
    pub(super) fn words(&self, mark: &str) -> String {
        let mut words = String::new();
        for word in [self.verb, &format!("{mark}{}", self.nonce)].into_iter().chain(self.rest()) {
            words.push(' ');
            quote(&mut words, word);
        }
        words
    }

    fn rest(&self) -> impl Iterator<Item = &str> {
        [self.directory.as_str(), self.run.as_str()]
            .into_iter()
            .chain(self.arguments.iter().map(String::as_str))
    }
}

fn flag(yes: bool) -> &'static str {
    if yes { "1" } else { "0" }
}

/// Appends a word, quoted for POSIX shells and fish.
pub(super) fn quote(command: &mut String, word: &str) {
    command.push('\'');
    for c in word.chars() {
        if c == '\'' { command.push_str("'\\''") } else { command.push(c) }
    }
    command.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_have_no_single_quote() {
        // A program is then one quoted word, however the login shell treats escapes.
        assert!(
            [&SUPERVISOR, &ARMORED_SUPERVISOR, &WRAPPER]
                .iter()
                .all(|program| !program.contains('\''))
        );
    }

    /// As root, `rm` would delete the device for all processes.
    #[test]
    fn no_variable_of_the_programs_is_the_null_device() {
        let programs =
            [SUPERVISOR.as_str(), &ARMORED_SUPERVISOR, &WRAPPER, include_str!("terminal/shell.sh")];
        assert!(
            programs
                .iter()
                .all(|program| !program.contains("=/dev/") && !program.contains("=\"/dev/"))
        );
    }

    #[test]
    fn commands_stay_far_below_the_kernels_limit() {
        let facts =
            ShellFacts { run_dir: "/tmp/x".into(), follows_with_tail: true, has_setsid: true };
        let order = RunOrder {
            run: RunId::new("0001-a").unwrap(),
            stage: "a".into(),
            forget: None,
            container: states::RunContainer::Coordinator,
        };
        let script = Bytes::from(vec![b'x'; 10_000_000]);
        assert!(start("nonce", &facts, &order, &script).line().len() < 8 * 1024);
    }

    #[test]
    fn quoting_round_trips() {
        let mut text = String::new();
        quote(&mut text, "it's");
        assert_eq!(text, r"'it'\''s'");
    }
}
