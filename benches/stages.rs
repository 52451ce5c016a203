//! Measures the stages as processes, beside OpenSSH's client, against the same sshd. `cargo bench
//! --bench stages`.
//!
//! Needs OpenSSH and moto: `scripts/test` installs them; `FARGATE_TEST_PYTHON` names the Python
//! that has moto. Prints medians, ratios and missed targets.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use e2e::*;

use cluster::Cluster;
use runner::Job;

/// The size of the streamed output, bytes.
const STREAM: u64 = 300_000_000;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let cluster = Cluster::moto();
    let mut missed = prepare(&cluster);
    let bench = Bench::new(&cluster);
    missed.extend(bench.empty_script());
    missed.extend(bench.stream());
    bench.job.cleanup();
    for target in &missed {
        println!("MISSED: {target}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(missed: &mut Vec<String>, what: &str, measured: f64, met: bool) {
    if !met {
        missed.push(format!("{what}: {measured:.2}"));
    }
}

/// Measures the time from a task's sshd first accepting until `prepare` has ended.
fn prepare(cluster: &Cluster) -> Vec<String> {
    let Cluster::Moto(moto) = cluster else { unreachable!("moto was started") };
    let (mut after, mut ssh) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let job = Job::on(cluster);
        let known = moto.addresses();
        let mut child = job.spawn(&["prepare"]);
        let address =
            poll(|| moto.addresses().into_iter().find(|address| !known.contains(address)));
        poll(|| {
            TcpStream::connect_timeout(
                &SocketAddr::from((address, moto.ssh_port)),
                Duration::from_millis(5),
            )
            .ok()
        });
        let accepted = Instant::now();
        assert!(child.wait().unwrap().success(), "{}", job.log());
        after.push(accepted.elapsed());
        ssh.push(time(&mut openssh(&job, address, moto.ssh_port, "true"), 0));
        job.cleanup();
    }
    let (after, ssh) = (median(after), median(ssh));
    println!(
        "prepare ends {after:.1?} after sshd first accepts; one `ssh … true` takes {ssh:.1?}; ratio {:.2} (target: at most 400 ms)",
        after.as_secs_f64() / ssh.as_secs_f64()
    );
    let mut missed = Vec::new();
    check(
        &mut missed,
        "prepare, seconds after sshd first accepts, at most 0.4",
        after.as_secs_f64(),
        after <= Duration::from_millis(400),
    );
    missed
}

fn poll<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns OpenSSH's client with its defaults and the job's own key.
fn openssh(job: &Job, address: Ipv4Addr, port: u16, command: &str) -> Command {
    let key = job.files(".key").pop().unwrap();
    let known_hosts = format!("UserKnownHostsFile={}", job.metadata.join("known_hosts").display());
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-p",
        &port.to_string(),
        "-o",
        &known_hosts,
        "-o",
        "StrictHostKeyChecking=accept-new",
    ]);
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-i"])
        .arg(key)
        .arg(format!("root@{address}"))
        .arg(command);
    ssh
}

struct Bench {
    job: Job,
    address: Ipv4Addr,
    port: u16,
}

impl Bench {
    fn new(cluster: &Cluster) -> Self {
        let Cluster::Moto(moto) = cluster else { unreachable!("moto was started") };
        let job = Job::on(cluster);
        let known = moto.addresses();
        job.prepare();
        let address =
            moto.addresses().into_iter().find(|address| !known.contains(address)).unwrap();
        Self { job, address, port: moto.ssh_port }
    }

    /// A new script each time: a stage that has succeeded is not run again.
    fn ours(&self, script: &str) -> Command {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let script =
            self.job.script(format!("{script}\n# {}\n", RUNS.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_fargate"));
        command
            .env_clear()
            .envs(self.job.stage_environment())
            .arg("--config")
            .arg(&self.job.config);
        command.args(["custom", "run"]).arg(script).arg("build_script");
        command
    }

    /// Uses a new process and a new connection each time.
    fn empty_script(&self) -> Vec<String> {
        let (mut ours, mut ssh) = (Vec::new(), Vec::new());
        time(&mut openssh(&self.job, self.address, self.port, "true"), 0);
        time(&mut self.ours(""), 0);
        for _ in 0..21 {
            ours.push(time(&mut self.ours(""), 0));
            ssh.push(time(&mut openssh(&self.job, self.address, self.port, "true"), 0));
        }
        let (ours, ssh) = (median(ours), median(ssh));
        let ratio = ours.as_secs_f64() / ssh.as_secs_f64();
        println!(
            "`run` of an empty script: {ours:.1?}; `ssh … true`: {ssh:.1?}; ratio {ratio:.2} (target: at most 0.60)"
        );
        let mut missed = Vec::new();
        check(&mut missed, "`run` of an empty script × ssh, at most 0.60", ratio, ratio <= 0.6);
        missed
    }

    /// Measures the same command on the same file by both.
    fn stream(&self) -> Vec<String> {
        let file = self.job.metadata.join("stream");
        std::fs::File::create(&file).unwrap().set_len(STREAM).unwrap();
        let text = format!("cat '{}'", file.display());
        let (mut ours, mut ssh, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        time(&mut openssh(&self.job, self.address, self.port, &text), STREAM);
        for _ in 0..5 {
            let (spent, peak) = time_and_peak(&mut self.ours(&text), STREAM);
            ours.push(spent);
            peaks.push(peak);
            ssh.push(time(&mut openssh(&self.job, self.address, self.port, &text), STREAM));
        }
        let speed = |spent: Duration| STREAM as f64 / spent.as_secs_f64() / 1e6;
        let (ours, ssh, peak) = (
            speed(median(ours)),
            speed(median(ssh)),
            peaks.into_iter().max().unwrap_or_default() as f64 / 1024.0,
        );
        let ratio = ours / ssh;
        println!(
            "300 MB of output: {ours:.0} MB/s; `ssh`: {ssh:.0} MB/s; ratio {ratio:.2} (target: at least 1.00)"
        );
        println!("peak resident memory of `run` while streaming: {peak:.1} MiB (target: under 12)");
        let mut missed = Vec::new();
        check(&mut missed, "300 MB of output × ssh's speed, at least 1.00", ratio, ratio >= 1.0);
        check(&mut missed, "MiB resident, under 12", peak, peak < 12.0);
        missed
    }
}

fn time(command: &mut Command, bytes: u64) -> Duration {
    time_and_peak(command, bytes).0
}

/// Measures a process from start to end; its output is read through a pipe, as by gitlab-runner.
/// Also returns its peak resident memory in KiB, as last read.
fn time_and_peak(command: &mut Command, bytes: u64) -> (Duration, u64) {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut buffer, mut size, mut peak, mut reads) = (vec![0; 256 * 1024], 0, 0, 0_u32);
    loop {
        match output.read(&mut buffer).unwrap() {
            0 => break,
            n => size += n as u64,
        }
        reads += 1;
        if reads % 64 == 0 {
            peak = peak.max(high_water(&child));
        }
    }
    peak = peak.max(high_water(&child));
    let status = child.wait().unwrap();
    let spent = start.elapsed();
    assert!(status.success() && size == bytes, "{command:?}: {status}, {size} bytes");
    (spent, peak)
}

/// `VmHWM` of a process, KiB; 0 when it has ended.
fn high_water(child: &Child) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}
