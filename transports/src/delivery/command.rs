//! The commands that are run in the container.

use std::sync::LazyLock;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use states::{RunContainer, RunId, RunOrder, SharedVolume, ShellFacts, Signal};

use super::interpreter::Interpreter;

/// The supervisor, which runs in the container for every verb. Must not contain a single quote.
static SUPERVISOR: LazyLock<String> = LazyLock::new(|| {
    compact(concat!(
        include_str!("follow.sh"),
        include_str!("usage.sh"),
        include_str!("supervisor.sh"),
        include_str!("verbs.sh")
    ))
});
/// The supervisor in tasks with a container of the job's own.
static JOB_SUPERVISOR: LazyLock<String> = LazyLock::new(|| {
    compact(concat!(
        include_str!("follow.sh"),
        include_str!("usage.sh"),
        include_str!("supervisor.sh"),
        include_str!("job.sh"),
        include_str!("verbs.sh")
    ))
});
/// The supervisor for a terminal: output goes in armor.
pub(super) static ARMORED_SUPERVISOR: LazyLock<String> = LazyLock::new(|| {
    compact(concat!(
        include_str!("armor.sh"),
        include_str!("usage.sh"),
        include_str!("supervisor.sh"),
        include_str!("limiter.sh"),
        include_str!("job.sh"),
        include_str!("verbs.sh")
    ))
});
/// The standby, which serves starts of runs in the coordinator.
static STANDBY: LazyLock<String> = LazyLock::new(|| {
    compact(concat!(
        include_str!("follow.sh"),
        include_str!("usage.sh"),
        include_str!("supervisor.sh"),
        include_str!("limiter.sh"),
        include_str!("standby.sh")
    ))
});
/// The standby in tasks with a container of the job's own.
static JOB_STANDBY: LazyLock<String> = LazyLock::new(|| {
    compact(concat!(
        include_str!("follow.sh"),
        include_str!("usage.sh"),
        include_str!("supervisor.sh"),
        include_str!("job.sh"),
        include_str!("limiter.sh"),
        include_str!("standby.sh")
    ))
});
/// A standby's wrapper.
static READY_WRAPPER: LazyLock<String> = LazyLock::new(|| compact(include_str!("ready.sh")));
/// The program that becomes the script, in a standby.
static STARTER: LazyLock<String> = LazyLock::new(|| compact(include_str!("starter.sh")));
/// The wrapper, which is the script's parent in the container. Must not contain a single quote.
static WRAPPER: LazyLock<String> = LazyLock::new(|| compact(include_str!("wrapper.sh")));
/// The wrapper that can also place a script for the job's container.
pub(super) static ANY_WRAPPER: LazyLock<String> =
    LazyLock::new(|| compact(concat!(include_str!("place.sh"), include_str!("wrapper.sh"))));

/// The loop that runs in the job's container. Must not contain a single quote or a circumflex.
const LOOP: &str = concat!(include_str!("usage.sh"), include_str!("loop.sh"));

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
    place: Place,
    arguments: Vec<String>,
}

const STANDBY_VERB: &str = "standby";

/// The directories that a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Place {
    /// The coordinator's private directory.
    directory: String,
    /// The run.
    run: String,
    /// The directory that the job's container shares; empty in tasks without one.
    shared: String,
    /// Whether the run is in the job's container.
    is_in_job: bool,
}

impl Place {
    fn of(facts: &ShellFacts, order: &RunOrder) -> Self {
        Self {
            directory: facts.run_dir.clone(),
            run: order.run.as_str().to_owned(),
            shared: facts.job.as_ref().map_or_else(String::new, |job| job.run_dir.clone()),
            is_in_job: order.container == RunContainer::Job,
        }
    }
}

pub(super) fn probe(nonce: &str, name: &str, shared: Option<&SharedVolume>) -> Command {
    let Some(SharedVolume { run, builds, cache }) = shared else {
        return Command::new("probe", nonce, Place::default(), &[name]);
    };
    let place = Place { shared: run.clone(), ..Place::default() };
    Command::new("probe", nonce, place, &[name, builds, cache, &job_loop(run).replace('\n', "^")])
}

/// The loop that runs in the job's container. Must not contain a circumflex, which stands for the
/// ends of its lines where it is sent.
fn job_loop(run: &str) -> String {
    let mut text = "_runs=".to_owned();
    quote(&mut text, &format!("{run}/runs"));
    text.push('\n');
    text.push_str(&compact(LOOP));
    text
}

/// The command of the container with the job's image: arguments for the image's own entry point.
///
/// It waits until the supervisor has put the loop into the shared directory `run`, and becomes that
/// loop. So a task definition stays as it is when the loop changes. It ends at once on SIGTERM.
#[must_use]
pub fn job_container_command(run: &str) -> [String; 3] {
    let mut file = String::new();
    quote(&mut file, &format!("{run}/loop.sh"));
    let program = format!(
        "trap \"exit 143\" TERM; \
         until [ -f {file} ]; do {{ sleep 0.1 2>/dev/null || sleep 1; }} & wait \"$!\"; done; \
         . {file}"
    );
    ["sh".to_owned(), "-c".to_owned(), program]
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
    Command::new("start", nonce, Place::of(facts, order), &arguments)
}

/// The command of a standby, whose orders are marked by `nonce`.
pub(super) fn standby(nonce: &str, facts: &ShellFacts) -> Command {
    let place = Place {
        directory: facts.run_dir.clone(),
        shared: facts.job.as_ref().map_or_else(String::new, |job| job.run_dir.clone()),
        ..Place::default()
    };
    let arguments = [flag(facts.follows_with_tail), flag(facts.has_setsid), &STARTER];
    Command::new(STANDBY_VERB, nonce, place, &arguments)
}

/// A standby's order to start a run: a line, which the script follows.
pub(super) fn standby_order(
    standby: &str,
    nonce: &str,
    order: &RunOrder,
    script: &Bytes,
) -> String {
    let interpreter = Interpreter::of(script);
    let size = script.len().to_string();
    let digest = hex::encode(Sha256::digest(script));
    let mut line = standby.to_owned();
    for word in [
        size.as_str(),
        &digest,
        order.run.as_str(),
        order.forget.as_ref().map_or("", RunId::as_str),
        nonce,
        interpreter.program.as_deref().unwrap_or_default(),
        interpreter.argument.as_deref().unwrap_or_default(),
    ] {
        line.push(' ');
        quote(&mut line, word);
    }
    line.push('\n');
    line
}

pub(super) fn attach(nonce: &str, facts: &ShellFacts, order: &RunOrder, from: u64) -> Command {
    Command::new(
        "attach",
        nonce,
        Place::of(facts, order),
        &[&from.to_string(), flag(facts.follows_with_tail)],
    )
}

pub(super) fn signal(nonce: &str, facts: &ShellFacts, order: &RunOrder, signal: Signal) -> Command {
    let name = match signal {
        Signal::Term => "TERM",
        Signal::Kill => "KILL",
    };
    Command::new("signal", nonce, Place::of(facts, order), &[name])
}

impl Command {
    fn new(verb: &'static str, nonce: &str, place: Place, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { verb, nonce: nonce.to_owned(), place, arguments }
    }

    /// Formats a line for the user's login shell. It begins with `exec`, so that no shell stays as
    /// a process of its own.
    #[must_use]
    pub fn line(&self) -> String {
        let (supervisor, wrapper) = match (self.verb, self.place.shared.is_empty()) {
            (STANDBY_VERB, true) => (&STANDBY, &READY_WRAPPER),
            (STANDBY_VERB, false) => (&JOB_STANDBY, &READY_WRAPPER),
            (_, true) => (&SUPERVISOR, &WRAPPER),
            (_, false) if self.place.is_in_job => (&JOB_SUPERVISOR, &ANY_WRAPPER),
            (_, false) => (&JOB_SUPERVISOR, &WRAPPER),
        };
        let mut line = String::with_capacity(supervisor.len() + wrapper.len() + 512);
        line.push_str("exec /bin/sh -c ");
        for word in
            [supervisor, "fargate", wrapper, self.verb, &self.nonce].into_iter().chain(self.rest())
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

    /// Whether its input stays open: it follows a run's output, or takes orders.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self.verb, "start" | "attach" | STANDBY_VERB)
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
        let Place { directory, run, shared, is_in_job } = &self.place;
        [directory.as_str(), run, shared, if *is_in_job { "job" } else { "" }]
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
    use states::JobShell;

    use super::*;

    #[test]
    fn the_programs_have_no_single_quote() {
        // A program is then one quoted word, however the login shell treats escapes.
        assert!(
            [
                &SUPERVISOR,
                &JOB_SUPERVISOR,
                &ARMORED_SUPERVISOR,
                &WRAPPER,
                &ANY_WRAPPER,
                &STANDBY,
                &JOB_STANDBY,
                &READY_WRAPPER,
                &STARTER
            ]
            .iter()
            .all(|program| !program.contains('\''))
        );
        // It is sent as one line of one quoted word.
        let text = compact(LOOP);
        assert!(!text.contains(['\'', '^']));
    }

    /// As root, `rm` would delete the device for all processes.
    #[test]
    fn no_variable_of_the_programs_is_the_null_device() {
        let programs = [
            JOB_SUPERVISOR.as_str(),
            &ARMORED_SUPERVISOR,
            &ANY_WRAPPER,
            &JOB_STANDBY,
            &READY_WRAPPER,
            &STARTER,
            LOOP,
            include_str!("terminal/shell.sh"),
        ];
        assert!(
            programs
                .iter()
                .all(|program| !program.contains("=/dev/") && !program.contains("=\"/dev/"))
        );
    }

    #[test]
    fn commands_stay_far_below_the_kernels_limit() {
        let facts = ShellFacts {
            run_dir: "/tmp/x".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        };
        let order = RunOrder {
            run: RunId::new("0001-a").unwrap(),
            stage: "a".into(),
            forget: None,
            container: states::RunContainer::Coordinator,
        };
        let script = Bytes::from(vec![b'x'; 10_000_000]);
        assert!(start("nonce", &facts, &order, &script).line().len() < 8 * 1024);
        // Those for a container of the job's own need more.
        let job = JobShell {
            run_dir: "/fargate/runs".into(),
            has_bash: true,
            has_setsid: true,
            can_edit_hosts: true,
        };
        let facts = ShellFacts { job: Some(job), ..facts };
        let order = RunOrder { container: RunContainer::Job, ..order };
        assert!(start("nonce", &facts, &order, &script).line().len() < 16 * 1024);
    }

    #[test]
    fn usage_is_read_from_cgroups_of_both_versions() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let write = |name: &str, text: &str| {
            let file = root.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let read = |version: &str| {
            let program = format!(
                "{}_cgroup={}\nread_usage\necho \"$_memory $_cpu\"",
                compact(include_str!("usage.sh")),
                root.join(version).display()
            );
            let ran = std::process::Command::new("sh").args(["-c", &program]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&ran.stderr), "", "{version}");
            String::from_utf8(ran.stdout).unwrap()
        };
        write("2/memory.peak", "1181116006\n");
        write("2/cpu.stat", "usage_usec 8200000\nuser_usec 1\n");
        write("1/memory/memory.max_usage_in_bytes", "4096\n");
        write("1/cpuacct/cpuacct.usage", "8200000999\n");
        write("empty/memory.peak", "");
        // The root of a hierarchy of version 2 has no peak.
        write("root/cpu.stat", "usage_usec 7\n");
        assert_eq!(read("2"), "1181116006 8200000\n");
        assert_eq!(read("1"), "4096 8200000\n");
        assert_eq!(read("empty"), "- -\n");
        assert_eq!(read("root"), "- 7\n");
        assert_eq!(read("nowhere"), "- -\n");
    }

    #[test]
    fn quoting_round_trips() {
        let mut text = String::new();
        quote(&mut text, "it's");
        assert_eq!(text, r"'it'\''s'");
    }
}
