//! Measures the ECS Exec transport, beside its own ceiling and beside SSH. `cargo bench --bench
//! ecs_exec`.
//!
//! The local cluster, in this process, plays ECS and the exec agent. Like AWS's, it reads at most
//! 1024 bytes of a terminal and then rests a millisecond, unless a test sets other rules. Stages
//! are processes, as gitlab-runner starts them. Needs nothing installed. Prints medians, ratios and
//! missed targets.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]
// The future of a whole job by ECS Exec, in one place.
#![recursion_limit = "256"]

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fargate_driver::{
    control::{EcsControl, ExecCalls},
    local,
};
use local_cluster::{AgentRules, ExecFaults, ExecSettings, Faults, LocalCluster, Settings};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use states::{Target, TaskArn};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use transports::{
    Declaration, Terminal as _,
    delivery::terminal::armor::{ArmorDecoder, Piece},
    ecs_exec::{
        self, ExecTransport,
        channel::{DataChannel, Event, Opening, Transmit},
        frame::{Frame, Kind, MessageId, payload_type},
    },
    ssh,
};

/// The agent's limit, in bytes of a terminal per second: 1024 in a millisecond.
const CEILING: f64 = 1_024_000.0;
/// The part of it that remains with base64.
const ARMORED: f64 = CEILING * 3.0 / 4.0;
const INCOMPRESSIBLE: usize = 6_000_000;
const LOG: usize = 40_000_000;
/// The target without that limit.
const LIFTED: usize = 100_000_000;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut missed = Vec::new();
    let mut target = |what: &str, measured: f64, met: bool| {
        if !met {
            missed.push(format!("{what}: {measured:.2}"));
        }
    };
    {
        let bench = Bench::new(true);
        let file = bench.file("incompressible", &incompressible(INCOMPRESSIBLE));
        let raw = bench.raw(
            &bench.file("characters", STANDARD.encode(incompressible(INCOMPRESSIBLE)).as_bytes()),
        );
        let packed = bench.output(&ecs_exec::DECLARATION, &file);
        let ratio = packed / ARMORED;
        println!(
            "a terminal of ECS Exec, `cat` of characters, nothing else: {:.0} kB/s; the ceiling: {:.0}",
            raw / 1e3,
            CEILING / 1e3
        );
        println!(
            "incompressible output through `run`: {:.0} kB/s; base64 leaves {:.0} of the ceiling; ratio {ratio:.2} (target: at least 0.90); {:.2} of what it leaves of that terminal",
            packed / 1e3,
            ARMORED / 1e3,
            packed / (raw * 3.0 / 4.0)
        );
        target(
            "incompressible output × what the ceiling leaves, at least 0.90",
            ratio,
            ratio >= 0.9,
        );
        let text = log(LOG);
        let plain = bench.output(&ecs_exec::DECLARATION, &bench.file("log", &text));
        let ratio = plain / packed;
        println!(
            "log text through `run`: {:.1} MB/s; × incompressible {ratio:.1} (target: at least 3)",
            plain / 1e6
        );
        target("log text × incompressible output, at least 3", ratio, ratio >= 3.0);
        let (exec, ssh) = bench.empty_script();
        let agent = AgentRules::quick();
        println!(
            "`run` of an empty script: {exec:.1?}; by SSH on the same cluster: {ssh:.1?}; ratio {:.2}; the agent's own delays are {:?} of it (AWS's: a second and more)",
            exec.as_secs_f64() / ssh.as_secs_f64(),
            agent.start + agent.first_output,
        );
    }
    {
        let bench = Bench::new(true);
        let (near, far) = (bench.upload(0), bench.upload(20));
        println!(
            "a script of 5 MB, beyond an empty one: {near:.1?}; at 20 ms each way: {far:.1?} (target: at most 3 s); ratio {:.2}",
            far.as_secs_f64() / near.as_secs_f64()
        );
        let (short, longer) = bench.delivery();
        println!(
            "a script of 100 bytes, which is in the line of its order, at 20 ms each way: {short:.1?}; of 9 KiB, which waits for an answer: {longer:.1?}; ratio {:.2}",
            short.as_secs_f64() / longer.as_secs_f64()
        );
        target(
            "seconds for 5 MB at 20 ms each way, at most 3",
            far.as_secs_f64(),
            far <= Duration::from_secs(3),
        );
    }
    {
        let bench = Bench::new(false);
        let raw = bench
            .raw(&bench.file("characters", STANDARD.encode(incompressible(LIFTED)).as_bytes()));
        let packed = bench
            .output(&ecs_exec::DECLARATION, &bench.file("incompressible", &incompressible(LIFTED)));
        let ssh =
            bench.output(&ssh::DECLARATION, &bench.file("incompressible", &incompressible(LIFTED)));
        println!(
            "without the ceiling: the terminal {:.1} MB/s, incompressible output through `run` {:.1} MB/s (by SSH: {:.1})",
            raw / 1e6,
            packed / 1e6,
            ssh / 1e6
        );
    }
    let client = client();
    println!(
        "the client alone, from messages to output: {:.1} MB/s (target: at least 30)",
        client / 1e6
    );
    target("the client alone, MB/s, at least 30", client / 1e6, client >= 30e6);
    for target in &missed {
        println!("MISSED: {target}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A cluster with a job on it for each transport.
struct Bench {
    runtime: Runtime,
    cluster: Option<LocalCluster>,
    place: TempDir,
    environment: Vec<(String, String)>,
}

impl Bench {
    fn new(ceiling: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut agent = AgentRules::quick();
        if !ceiling {
            agent.rest = Duration::ZERO;
        }
        let settings = Settings {
            exec: ExecSettings { agent, ..ExecSettings::default() },
            ..Settings::default()
        };
        let cluster = runtime.block_on(LocalCluster::start(settings)).unwrap();
        let place = tempfile::Builder::new().prefix("fargate-bench-").tempdir().unwrap();
        let mut environment = local::environment(&cluster.endpoint(), cluster.credentials());
        for (name, value) in [
            ("PATH", std::env::var("PATH").unwrap()),
            ("HOME", place.path().display().to_string()),
            ("BUILD_FAILURE_EXIT_CODE", "91".to_owned()),
            ("SYSTEM_FAILURE_EXIT_CODE", "92".to_owned()),
            ("CUSTOM_ENV_CI_RUNNER_SHORT_TOKEN", "bench".to_owned()),
        ] {
            environment.push((name.to_owned(), value));
        }
        let bench = Self { runtime, cluster: Some(cluster), place, environment };
        for (number, transport) in
            [&ecs_exec::DECLARATION, &ssh::DECLARATION].into_iter().enumerate()
        {
            let cluster = bench.cluster.as_ref().unwrap();
            let text = local::configuration(
                transport,
                cluster.ssh_port(),
                &bench.place.path().join(transport.name()),
            );
            fs::write(bench.config(transport), text).unwrap();
            // The job's response, as gitlab-runner writes it: each transport's job has a number of
            // its own.
            let repository = "https://gitlab.example/group/project.git";
            let response =
                format!(r#"{{"id":{},"git_info":{{"repo_url":"{repository}"}}}}"#, number + 1);
            fs::write(bench.response(transport), response).unwrap();
            bench.stage(transport, &["prepare"], 0);
        }
        bench
    }

    fn config(&self, transport: &Declaration) -> PathBuf {
        self.place.path().join(format!("{}.toml", transport.name()))
    }

    fn response(&self, transport: &Declaration) -> PathBuf {
        self.place.path().join(format!("{}.json", transport.name()))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.place.path().join(name);
        fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }

    /// Measures a stage in a process of its own, from start to end. Its output is read through a
    /// pipe.
    fn stage(&self, transport: &Declaration, arguments: &[&str], bytes: usize) -> Duration {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fargate"));
        command.env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.env("JOB_RESPONSE_FILE", self.response(transport));
        command.arg("--config").arg(self.config(transport)).arg("custom").args(arguments);
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (mut buffer, mut size) = (vec![0; 256 * 1024], 0);
        loop {
            match output.read(&mut buffer).unwrap() {
                0 => break,
                n => size += n,
            }
        }
        let status = child.wait().unwrap();
        let spent = start.elapsed();
        assert!(
            status.success() && (bytes == 0 || size == bytes),
            "{command:?}: {status}, {size} bytes"
        );
        spent
    }

    fn run(&self, transport: &Declaration, script: &str, bytes: usize) -> Duration {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        // A new script each time: a stage that has succeeded is not run again.
        let script = format!("{script}\n# {}\n", RUNS.fetch_add(1, Ordering::Relaxed));
        let script = self.file("script", script.as_bytes());
        self.stage(transport, &["run", script.to_str().unwrap(), "build_script"], bytes)
    }

    /// Measures the output of a file in bytes per second, with a whole stage's overhead.
    fn output(&self, transport: &Declaration, file: &Path) -> f64 {
        let size = fs::metadata(file).unwrap().len() as usize;
        let spent = median(|| self.run(transport, &format!("cat '{}'", file.display()), size), 3);
        size as f64 / spent.as_secs_f64()
    }

    /// Measures `run` of an empty script by both transports, in turns.
    fn empty_script(&self) -> (Duration, Duration) {
        self.in_turns((&ecs_exec::DECLARATION, ""), (&ssh::DECLARATION, ""))
    }

    /// Measures the time of a 5 MB script beyond an empty one, with this delay in each direction.
    fn upload(&self, latency_ms: u64) -> Duration {
        let exec = ExecFaults { latency_ms, ..ExecFaults::default() };
        self.cluster.as_ref().unwrap().set_faults(Faults { exec, ..Faults::default() });
        let large = format!(": '{}'", STANDARD.encode(incompressible(5_000_000 * 3 / 4)));
        let run = |script: &str| median(|| self.run(&ecs_exec::DECLARATION, script, 0), 3);
        run(&large).saturating_sub(run(""))
    }

    /// Measures, in turns, `run` of a script that is sent in the line of its order, and of one that
    /// is too long for that.
    fn delivery(&self) -> (Duration, Duration) {
        let script = |size: usize| format!("#{}", "x".repeat(size - 1));
        let (short, longer) = (script(100), script(9 * 1024));
        self.in_turns((&ecs_exec::DECLARATION, &short), (&ecs_exec::DECLARATION, &longer))
    }

    /// Measures `run` of two scripts without output, each by a transport.
    fn in_turns(
        &self,
        first: (&Declaration, &str),
        second: (&Declaration, &str),
    ) -> (Duration, Duration) {
        let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            firsts.push(self.run(first.0, first.1, 0));
            seconds.push(self.run(second.0, second.1, 0));
        }
        (middle(firsts), middle(seconds))
    }

    /// Measures how many bytes per second a terminal passes of these characters.
    fn raw(&self, file: &Path) -> f64 {
        let size = fs::metadata(file).unwrap().len() as usize;
        let cluster = self.cluster.as_ref().unwrap();
        let task = cluster.tasks().into_iter().find(|task| task.status == "RUNNING").unwrap();
        let (endpoint, credentials) = (cluster.endpoint(), cluster.credentials());
        // The client has a thread of its own, as in the driver's process.
        let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        client.block_on(async {
            let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
                .endpoint_url(endpoint)
                .region("us-east-1")
                .credentials_provider(aws_credential_types::Credentials::from_keys(
                    credentials.access_key_id.as_str(),
                    credentials.secret_access_key.as_str(),
                    None,
                ))
                .load()
                .await;
            let transport = ExecTransport::new(ExecCalls::new(EcsControl::with_config(config)));
            let target = target(&task.arn);
            let terminal = transport.run(&target, "/bin/sh", (200, 50)).await.unwrap();
            // Excludes the terminal's echo.
            let text = format!(
                "stty raw -echo; printf 'BEG''IN'; cat '{}'; printf 'E''ND'; kill -9 $$\n",
                file.display()
            );
            terminal.write(Bytes::from(text)).await.unwrap();
            let mut preamble = Vec::new();
            let mut received = loop {
                preamble.extend_from_slice(&terminal.read().await.unwrap().unwrap());
                if let Some(at) = preamble.windows(5).position(|window| window == b"BEGIN") {
                    break preamble.len() - at - 5;
                }
            };
            let start = Instant::now();
            let early = received;
            while received < size + 3 {
                received += terminal.read().await.unwrap().unwrap().len();
            }
            let spent = start.elapsed();
            terminal.close().await;
            (size - early) as f64 / spent.as_secs_f64()
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.shutdown());
        }
    }
}

fn target(task: &str) -> Target {
    Target {
        transport: "ecs-exec".into(),
        destination: states::Destination::Task,
        cluster: "local".to_owned(),
        task: TaskArn::new(task).unwrap(),
        container: "ci-coordinator".to_owned(),
        key: PathBuf::new(),
        pinned: None,
        host_proof: None,
        facts: None,
        shared: None,
        connect_timeout: Duration::from_secs(10),
        attempt_timeout: Duration::from_secs(30),
    }
}

/// Measures the client alone with incompressible output, in bytes per second: messages in, output
/// and acknowledgements out.
fn client() -> f64 {
    const BLOCK: usize = 196_608;
    const BLOCKS: usize = 200;
    let nonce = "0123456789abcdef0123456789abcdef";
    let mut text = Vec::new();
    for block in 0..BLOCKS {
        text.extend_from_slice(format!("~{nonce} D {} {BLOCK} p\n", block * BLOCK).as_bytes());
        text.extend_from_slice(STANDARD.encode(incompressible(BLOCK)).as_bytes());
        text.extend_from_slice(format!("\n~{nonce} E\n").as_bytes());
    }
    let mut messages = Vec::new();
    for (sequence, payload) in text.chunks(1024).enumerate() {
        let id = MessageId::random(rand::random());
        let (sequence, payload) =
            (i64::try_from(sequence).unwrap(), Bytes::copy_from_slice(payload));
        let message = Frame {
            kind: Kind::Output,
            sequence,
            flags: 0,
            id,
            created: 1,
            payload_type: payload_type::OUTPUT,
            payload,
        };
        messages.push(message.encode());
    }
    let spent = median(
        || {
            let start = Instant::now();
            let opening = Opening { token: String::new(), unix_millis: 1, seed: [7; 32] };
            let mut channel = DataChannel::new(opening, start);
            let mut armor = ArmorDecoder::default();
            let (mut received, mut acknowledgements) = (0, 0);
            for batch in messages.chunks(64) {
                for message in batch {
                    channel.on_frame(message, start);
                }
                while let Some(event) = channel.poll_event() {
                    if let Event::Output(bytes) = event {
                        armor.push(&bytes);
                    }
                }
                while let Some(piece) = armor.piece() {
                    if let Piece::Block { bytes, .. } = piece {
                        received += bytes.len();
                    }
                }
                while let Some(transmit) = channel.poll_transmit(start) {
                    acknowledgements += usize::from(matches!(transmit, Transmit::Binary(_)));
                }
            }
            let spent = start.elapsed();
            assert_eq!((received, acknowledgements), (BLOCK * BLOCKS, messages.len()));
            spent
        },
        5,
    );
    (BLOCK * BLOCKS) as f64 / spent.as_secs_f64()
}

fn incompressible(size: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut bytes = vec![0; size];
    rng.fill(&mut bytes[..]);
    bytes
}

/// Returns lines like a build's: times, levels, paths, numbers, some hashes.
fn log(size: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(11);
    let modules =
        ["parser", "network", "storage", "scheduler", "billing", "search", "frontend", "metrics"];
    let mut text = Vec::with_capacity(size + 200);
    let mut millis = 0_u64;
    while text.len() < size {
        millis += rng.random_range(0..40);
        let module = modules[rng.random_range(0..modules.len())];
        let number = rng.random_range(0..10_000_u32);
        let time = format!(
            "12:{:02}:{:02}.{:03}",
            millis / 60_000 % 60,
            millis / 1000 % 60,
            millis % 1000
        );
        let line = match rng.random_range(0..6) {
            0 => format!(
                "[{time}] INFO  {module}: compiled src/{module}/unit_{number}.rs in {} ms\n",
                rng.random_range(3..900)
            ),
            1 => format!("[{time}] DEBUG {module}: cache hit for {:016x}\n", rng.random::<u64>()),
            2 => format!("test {module}::tests::case_{number} ... ok\n"),
            3 => format!(
                "[{time}] INFO  {module}: downloaded package-{number} v1.{}.{} ({} kB)\n",
                number % 40,
                number % 7,
                number * 3
            ),
            4 => format!(
                "[{time}] WARN  {module}: retrying request {number} after {} ms: connection reset by peer\n",
                rng.random_range(10..500)
            ),
            _ => format!(
                "  --> src/{module}/unit_{number}.rs:{}:{}\n",
                rng.random_range(1..2000),
                rng.random_range(1..120)
            ),
        };
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(size);
    text
}

fn median(mut measure: impl FnMut() -> Duration, times: usize) -> Duration {
    middle((0..times).map(|_| measure()).collect())
}

fn middle(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}
