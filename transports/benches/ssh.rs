//! The SSH transport beside OpenSSH's client, both as processes, against the same `sshd`, in turn.
//!
//! `cargo bench -p transports --bench ssh`. Prints medians and their ratios, and says which targets were missed.
//! `ROUNDS` (default 21) and `STREAMS` (default 5) set how often each is measured.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

#[path = "../tests/openssh/sshd.rs"]
mod sshd;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use sshd::Sshd;

/// The size of the streamed output, bytes.
const STREAM: u64 = 300_000_000;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    if !Sshd::is_installed() {
        println!("skipped: there is no /usr/sbin/sshd here (Debian: apt-get install openssh-server openssh-client)");
        return ExitCode::SUCCESS;
    }
    let bench = Bench::new();
    let missed = [bench.empty_script(), bench.stream()].concat();
    for target in &missed {
        println!("MISSED: {target}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How often something is measured.
fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

struct Bench {
    sshd: Sshd,
    run_once: PathBuf,
    user: String,
    /// Identity and shell facts from first contact, as `run_once` shows them.
    learned: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        let sshd = Sshd::start();
        let (run_once, user) = (example(), Sshd::user());
        let port = sshd.port().to_string();
        let first = Command::new(&run_once).args([&port, &user]).arg(sshd.key()).args(["", "", "", "", "", ""]).output().unwrap();
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        let learned = String::from_utf8(first.stdout).unwrap().lines().map(str::to_owned).collect();
        Self { sshd, run_once, user, learned }
    }

    fn ours(&self, run: &str, script: &str) -> Command {
        let file = self.sshd.file("script");
        std::fs::write(&file, script).unwrap();
        let mut command = Command::new(&self.run_once);
        command.arg(self.sshd.port().to_string()).arg(&self.user).arg(self.sshd.key()).args(&self.learned).arg(run).arg(file);
        command
    }

    /// As it comes, with no configuration of the user's.
    fn openssh(&self, command: &str) -> Command {
        let known_hosts = format!("UserKnownHostsFile={}", self.sshd.file("known_hosts").display());
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &self.sshd.port().to_string(), "-o", &known_hosts, "-o", "StrictHostKeyChecking=accept-new"]);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-i"]).arg(self.sshd.key());
        ssh.arg(format!("{}@127.0.0.1", self.user)).arg(command);
        ssh
    }

    /// A new connection each time, process start included.
    fn empty_script(&self) -> Vec<String> {
        let (mut ours, mut openssh) = (Vec::new(), Vec::new());
        time(&mut self.openssh("true"), 0);
        time(&mut self.ours("warm", ""), 0);
        for round in 0..times("ROUNDS", 21) {
            ours.push(time(&mut self.ours(&format!("empty-{round}"), ""), 0));
            openssh.push(time(&mut self.openssh("true"), 0));
        }
        let (ours, openssh) = (median(ours), median(openssh));
        let ratio = ours.as_secs_f64() / openssh.as_secs_f64();
        println!("empty script, connecting included: {ours:.1?}; `ssh … true`: {openssh:.1?}; ratio {ratio:.2} (target: at most 0.60)");
        if ratio <= 0.6 { vec![] } else { vec![format!("empty script: {ratio:.2} × ssh, at most 0.60 is wanted")] }
    }

    /// The same command on the same file by both.
    fn stream(&self) -> Vec<String> {
        let file = self.sshd.file("stream");
        std::fs::File::create(&file).unwrap().set_len(STREAM).unwrap();
        let script = format!("cat '{}'", file.display());
        let (mut ours, mut openssh, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        time(&mut self.openssh(&script), STREAM);
        for round in 0..times("STREAMS", 5) {
            let run = format!("stream-{round}");
            let mut command = self.ours(&run, &script);
            command.env("SHOW_PEAK", "1").stderr(std::fs::File::create(self.sshd.file("peak")).unwrap());
            ours.push(time(&mut command, STREAM));
            peaks.push(peak(&self.sshd.file("peak")));
            openssh.push(time(&mut self.openssh(&script), STREAM));
            // The spool of this run.
            std::fs::remove_dir_all(Path::new(&self.learned[1]).join(run)).unwrap();
        }
        let speed = |spent: Duration| STREAM as f64 / spent.as_secs_f64() / 1e6;
        let (ours, openssh, peak) = (speed(median(ours)), speed(median(openssh)), peaks.into_iter().max().unwrap_or_default());
        let ratio = ours / openssh;
        println!("300 MB of output: {ours:.0} MB/s; `ssh`: {openssh:.0} MB/s; ratio {ratio:.2} (target: at least 1.00)");
        println!("peak resident memory while streaming: {:.1} MiB (target: under 12)", peak as f64 / 1024.0);
        let mut missed = Vec::new();
        if ratio < 1.0 {
            missed.push(format!("300 MB of output: {ratio:.2} × ssh's speed, at least 1.00 is wanted"));
        }
        if peak >= 12 * 1024 {
            missed.push(format!("{peak} KiB resident, under 12 MiB is wanted"));
        }
        missed
    }
}

/// From the process's start until it has ended; its output is read by this one through a pipe, as gitlab-runner does.
fn time(command: &mut Command, bytes: u64) -> Duration {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut buffer, mut size) = (vec![0; 256 * 1024], 0);
    loop {
        match output.read(&mut buffer).unwrap() {
            0 => break,
            n => size += n as u64,
        }
    }
    let status = child.wait().unwrap();
    let spent = start.elapsed();
    assert!(status.success() && size == bytes, "{command:?}: {status}, {size} bytes");
    spent
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}

/// `VmHWM: … kB` from a file, in KiB.
fn peak(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    text.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no peak in {text:?}"))
}

/// Builds the example `run_once` and tells where it is.
fn example() -> PathBuf {
    let built =
        Command::new(env!("CARGO")).args(["build", "--release", "-q", "-p", "transports", "--example", "run_once"]).status().unwrap();
    assert!(built.success());
    // <target>/release/deps/ssh-…
    let this = std::env::current_exe().unwrap();
    this.parent().and_then(Path::parent).unwrap().join("examples/run_once")
}
