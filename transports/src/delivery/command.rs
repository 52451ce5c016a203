//! The commands that are run in the container.

use bytes::Bytes;
use states::{RunId, RunOrder, ShellFacts, Signal};

use super::interpreter::Interpreter;

/// Runs in the container for every verb. Must not contain a single quote.
const SUPERVISOR: &str = include_str!("supervisor.sh");
/// Runs in the container as the script's parent. Must not contain a single quote.
const WRAPPER: &str = include_str!("wrapper.sh");

pub(super) fn probe(nonce: &str, name: &str) -> String {
    command("probe", nonce, "", "", &[name])
}

pub(super) fn start(nonce: &str, facts: &ShellFacts, order: &RunOrder, script: &Bytes) -> String {
    let interpreter = Interpreter::of(script);
    let program = interpreter.program.unwrap_or_default();
    let size = script.len().to_string();
    let forget = order.forget.as_ref().map_or("", RunId::as_str);
    let mut arguments = vec![forget, &size, flag(facts.follows_with_tail), flag(facts.has_setsid), &program];
    arguments.extend(interpreter.argument.as_deref());
    command("start", nonce, &facts.run_dir, order.run.as_str(), &arguments)
}

pub(super) fn attach(nonce: &str, facts: &ShellFacts, run: &RunId, from: u64) -> String {
    command("attach", nonce, &facts.run_dir, run.as_str(), &[&from.to_string(), flag(facts.follows_with_tail)])
}

pub(super) fn signal(nonce: &str, facts: &ShellFacts, run: &RunId, signal: Signal) -> String {
    let name = match signal {
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
    };
    command("signal", nonce, &facts.run_dir, run.as_str(), &[name])
}

fn flag(yes: bool) -> &'static str {
    if yes { "1" } else { "0" }
}

/// `exec`, so that the login shell, whatever it is, does not stay as a process of its own.
fn command(verb: &str, nonce: &str, directory: &str, run: &str, arguments: &[&str]) -> String {
    let mut command = String::with_capacity(SUPERVISOR.len() + WRAPPER.len() + 512);
    command.push_str("exec /bin/sh -c ");
    for word in [SUPERVISOR, "fargate", WRAPPER, verb, nonce, directory, run].iter().chain(arguments) {
        quote(&mut command, word);
        command.push(' ');
    }
    command
}

/// Appends the word, quoted for POSIX shells and fish.
fn quote(command: &mut String, word: &str) {
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
        // So that each is one quoted word, whatever the login shell thinks of escapes.
        assert!(!SUPERVISOR.contains('\'') && !WRAPPER.contains('\''));
    }

    #[test]
    fn a_command_is_far_below_what_the_kernel_refuses() {
        let facts = ShellFacts { run_dir: "/tmp/x".into(), follows_with_tail: true, has_setsid: true, has_bash: true };
        let order = RunOrder { run: RunId::new("0001-a").unwrap(), stage: "a".into(), forget: None };
        let script = Bytes::from(vec![b'x'; 10_000_000]);
        assert!(start("nonce", &facts, &order, &script).len() < 8 * 1024);
    }

    #[test]
    fn quotes_survive() {
        let mut text = String::new();
        quote(&mut text, "it's");
        assert_eq!(text, r"'it'\''s'");
    }
}
