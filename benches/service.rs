//! Measures the manager's service. `cargo bench --bench service`, or a part of it: `-- stages`,
//! `-- job`, `-- jobs`, `-- memory`.
//!
//! - `stages`: a stage of an empty script with the service and without, in one run. Needs OpenSSH
//!   and moto: `scripts/test` installs them; `FARGATE_TEST_PYTHON` names the Python that has moto.
//! - `job`: the stages of a job by OpenSSH with the service, and the same scripts by `ssh` over an
//!   open connection. Needs the same.
//! - `jobs`: 200 jobs at once on the local cluster: calls of DescribeTasks, the service's memory and
//!   processor time.
//! - `memory`: 1,000 stages that wait for their tasks.
//!
//! Prints medians, ratios and missed targets.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

mod e2e;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::*;
use fargate_driver::service::{
    hello,
    protocol::{Decoder, Message as _, Request, ToClient, ToService},
};
use local_cluster::{Settings, Times};
use serde_json::{Value, json};

use cluster::{Cluster, Local, eventually};
use processes::{memory, peak};
use runner::Job;
use serve::Service;

/// Jobs whose stages are measured, and stages of each kind of such a job: about as many as
/// gitlab-runner calls for one. A snapshot grows with each.
const MEASURED_JOBS: usize = 5;
const STAGES: usize = 8;
/// A pause in which the container, which has the same processors here, gets ready for the next run.
const PAUSE: Duration = Duration::from_millis(50);
/// The target: a stage through the service.
const TARGET: Duration = Duration::from_millis(10);
/// The stages that gitlab-runner calls for a job with a cache and artifacts.
const STAGES_OF_A_JOB: [&str; 8] = [
    "prepare_script",
    "get_sources",
    "restore_cache",
    "download_artifacts",
    "build_script",
    "after_script",
    "archive_cache",
    "upload_artifacts_on_success",
];
/// Jobs of eight stages that are measured.
const ROUNDS: usize = 9;
/// The target: what the driver adds to the scripts of such a job, in all.
const JOB_TARGET: Duration = Duration::from_millis(350);
/// Jobs at once.
const JOBS: usize = 200;
/// The target: calls of DescribeTasks within a second.
const MOST_CALLS: usize = 5;
/// Stages that wait.
const WAITING: usize = 1000;

/// Measures, and returns whether the targets are met.
type Part = fn() -> bool;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let parts: [(&str, Part); 4] = [
        ("stages", measure_stages),
        ("job", measure_job),
        ("jobs", measure_jobs),
        ("memory", measure_memory),
    ];
    let chosen: Vec<String> = std::env::args().collect();
    let is_chosen = |name: &str| chosen.iter().any(|argument| argument == name);
    let all = !parts.iter().any(|(name, _)| is_chosen(name));
    let mut is_met = true;
    for (_, part) in parts.iter().filter(|(name, _)| all || is_chosen(name)) {
        is_met &= part();
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns whether the target is met.
fn measure_stages() -> bool {
    let mut is_met = true;
    for (name, cluster) in [
        ("SSH with OpenSSH's server", Cluster::moto()),
        ("ECS Exec on the local cluster", Cluster::local_by_ecs_exec()),
    ] {
        let (mut with, mut apart, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..MEASURED_JOBS {
            let job = Job::on(&cluster);
            job.prepare();
            without.extend((0..STAGES).map(|_| stage(&job)));
            let service = Service::start(&job);
            // Its first stage connects.
            stage(&job);
            with.extend((0..STAGES).map(|_| stage(&job)));
            apart.extend((0..STAGES).map(|_| {
                thread::sleep(PAUSE);
                stage(&job)
            }));
            drop(service);
            job.cleanup();
        }
        let [with, apart, without] = [with, apart, without].map(median);
        println!(
            "{name}: a stage of an empty script takes {with:.1?} with the service, {apart:.1?} if it begins {PAUSE:?} after the one before, and {without:.1?} without the service; ratio {:.2} (target: at most {TARGET:?})",
            with.as_secs_f64() / without.as_secs_f64()
        );
        is_met &= with <= TARGET;
    }
    if !is_met {
        println!("MISSED: a stage through the service takes longer than {TARGET:?}");
    }
    is_met
}

/// Measures in turns: a job's stages, the same scripts by `ssh` over an open connection, and the
/// scripts alone. Returns whether the target is met.
fn measure_job() -> bool {
    let cluster = Cluster::moto();
    let Cluster::Moto(moto) = &cluster else { unreachable!("moto was started") };
    let job = Job::on(&cluster);
    let known = moto.addresses();
    job.prepare();
    let address = moto.addresses().into_iter().find(|address| !known.contains(address)).unwrap();
    let _service = Service::start(&job);
    stage(&job);
    let socket = job.metadata.join("master");
    let mut master = ssh(&job, &socket)
        .args(["-M", "-N", "-p", &moto.ssh_port.to_string(), &format!("root@{address}")])
        .spawn()
        .unwrap();
    eventually("the master connection is open", || socket.exists());
    let (mut ours, mut theirs, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let scripts = STAGES_OF_A_JOB.map(|name| {
            // As long as a small one of gitlab-runner's.
            let text = format!("# {round}\n{}echo {name}\n", "export CI=true\n".repeat(200));
            (name, job.script(text))
        });
        let run = |command: &dyn Fn(&str, &Path) -> Command| {
            let begun = Instant::now();
            for (name, script) in &scripts {
                let ended = command(name, script).stderr(Stdio::null()).output().unwrap();
                assert_eq!(
                    ended.stdout,
                    format!("{name}\n").as_bytes(),
                    "{ended:?}\n{}",
                    job.log()
                );
            }
            begun.elapsed()
        };
        alone.push(run(&|_, script| {
            let mut command = Command::new("/bin/sh");
            command.arg(script);
            command
        }));
        ours.push(run(&|name, script| {
            let mut command = Command::new(&job.binary);
            command.env_clear().envs(job.stage_environment()).arg("--config").arg(&job.config);
            command.args(["custom", "run"]).arg(script).arg(name);
            command
        }));
        theirs.push(run(&|_, script| {
            let mut command = ssh(&job, &socket);
            command.args(["container", "/bin/sh -s"]).stdin(File::open(script).unwrap());
            command
        }));
    }
    let _ = master.kill();
    master.wait().unwrap();
    job.cleanup();
    let [ours, theirs, alone] = [ours, theirs, alone].map(median);
    let added = ours.saturating_sub(alone);
    println!(
        "eight stages of a job by OpenSSH take {ours:.1?} with the service, the same scripts by `ssh` over an open connection {theirs:.1?}, and alone {alone:.1?}; ratio to `ssh` {:.2}; the driver adds {added:.1?} (target: at most {JOB_TARGET:?})",
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
    let is_met = added <= JOB_TARGET;
    if !is_met {
        println!("MISSED: the driver adds more than {JOB_TARGET:?} to a job of eight stages");
    }
    is_met
}

/// Returns OpenSSH's client with the job's key, at the socket of an open connection.
fn ssh(job: &Job, socket: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
    command.args(["-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes", "-i"]);
    command.arg(job.files(".key").pop().unwrap()).arg("-S").arg(socket);
    command
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// All jobs are prepared, run a script of some seconds, and are cleaned up, at the same time.
fn measure_jobs() -> bool {
    let mut is_met = true;
    for (name, cluster) in [("SSH", Cluster::local()), ("ECS Exec", Cluster::local_by_ecs_exec())] {
        let manager = Job::on(&cluster);
        let service = Service::start(&manager);
        let began = Instant::now();
        thread::scope(|scope| {
            for number in 0..JOBS {
                let job = manager.beside(&cluster);
                scope.spawn(move || {
                    job.prepare();
                    let run = job.run("build_script", format!("sleep 2; echo {number}"));
                    assert_eq!(run.stdout, format!("{number}\n").as_bytes(), "{run:#?}");
                    job.cleanup_as_gitlab_runner();
                });
            }
        });
        eventually("all jobs are archived", || manager.archived().len() == JOBS);
        let process = service.process.id();
        let local = cluster.as_local();
        let most = local.most_within(1, "DescribeTasks");
        println!(
            "{JOBS} jobs at once by {name}, {:.1?}: {} calls of DescribeTasks, {most} within a second at most (target: {MOST_CALLS}); the service hosted {} of {} stages and took {:.1} MiB and {:.1?} of processor time",
            began.elapsed(),
            local.calls("DescribeTasks"),
            manager.log().matches("hosted by the service").count(),
            3 * JOBS,
            mebibytes(peak(process)),
            processor_time(process)
        );
        if most > MOST_CALLS {
            println!("MISSED: {most} calls of DescribeTasks within a second");
            is_met = false;
        }
    }
    is_met
}

/// The clients are connections of this process: a thousand processes would not fit.
fn measure_memory() -> bool {
    // A task without an address is only described.
    let times = Times { provisioning: Duration::from_secs(3600).into(), ..Times::default() };
    let cluster = Cluster::Local(Local::here(Settings { times, ..Settings::default() }));
    let manager = Job::on(&cluster);
    let service = Service::start(&manager);
    let process = service.process.id();
    let before = memory("VmRSS", process);
    let numbers: Vec<usize> = (0..WAITING).collect();
    let clients: Vec<UnixStream> = thread::scope(|scope| {
        let parts = numbers.chunks(WAITING / 8).map(|numbers| {
            let ask = |number: &usize| ask_to_prepare(&manager, *number);
            scope.spawn(move || numbers.iter().map(ask).collect::<Vec<_>>())
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    // Each is described a few times.
    thread::sleep(Duration::from_secs(10));
    let (now, most) = (memory("VmRSS", process), peak(process));
    println!(
        "{} waiting stages: the service takes {:.1} MiB, {:.1} MiB at most, and {:.1} MiB without stages: {:.1} KiB each",
        clients.len(),
        mebibytes(now),
        mebibytes(most),
        mebibytes(before),
        (most - before) as f64 / WAITING as f64
    );
    println!(
        "{} calls of DescribeTasks within a second at most",
        cluster.as_local().most_within(1, "DescribeTasks")
    );
    true
}

/// Returns the processor time that a process has taken.
fn processor_time(process: u32) -> Duration {
    /// Ticks per second of `/proc` (`USER_HZ`), the same on all of Linux's architectures that run
    /// this.
    const TICKS: u64 = 100;
    let about = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = about.rsplit_once(')').map_or("", |(_, rest)| rest);
    // utime and stime (proc_pid_stat(5)).
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS)
}

fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

/// Asks the service to prepare a job, and returns when its task is launched.
fn ask_to_prepare(manager: &Job, number: usize) -> UnixStream {
    let mut stream = UnixStream::connect(manager.metadata.join("fargate.sock")).unwrap();
    let mut decoder = Decoder::default();
    let text = fs::read_to_string(&manager.config).unwrap();
    let environment: BTreeMap<String, String> = manager.environment.iter().cloned().collect();
    let hello = hello(&text, environment.into_iter());
    send(&mut stream, &ToService::Hello(hello.clone()));
    assert_eq!(receive(&mut stream, &mut decoder), ToClient::Hello(hello));
    let mut response: Value =
        serde_json::from_slice(&fs::read(manager.response_file()).unwrap()).unwrap();
    response["id"] = (1_000_000 + number).into();
    let request = json!({
        "stage": "Prepare",
        "environment": { "variables": { "CI_RUNNER_SHORT_TOKEN": "tOk3n" }, "response": response },
        "trusts_variables": false,
        "flags": { "task_definition": null, "platform_version": null },
    });
    let request: Request = serde_json::from_value(request).unwrap();
    send(&mut stream, &ToService::Request(Box::new(request)));
    assert_eq!(receive(&mut stream, &mut decoder), ToClient::Accepted);
    let ToClient::Begins(_) = receive(&mut stream, &mut decoder) else {
        panic!("it does not begin")
    };
    send(&mut stream, &ToService::Heard);
    while !matches!(receive(&mut stream, &mut decoder), ToClient::Line(_)) {}
    stream
}

fn send(stream: &mut UnixStream, message: &ToService) {
    stream.write_all(&message.frame()).unwrap();
}

fn receive(stream: &mut UnixStream, decoder: &mut Decoder) -> ToClient {
    loop {
        if let Some(message) = decoder.message().unwrap() {
            return message;
        }
        let mut bytes = [0; 4096];
        let size = stream.read(&mut bytes).unwrap();
        assert_ne!(size, 0, "the service has ended the connection");
        decoder.buffer().extend_from_slice(&bytes[..size]);
    }
}

/// Returns the median time of a stage.
fn stage(job: &Job) -> Duration {
    static STAGES: AtomicU32 = AtomicU32::new(0);
    // A stage that repeats a successful one does nothing.
    let number = STAGES.fetch_add(1, Ordering::Relaxed);
    let script = job.script(format!("true # {number}\n")).display().to_string();
    let begun = Instant::now();
    let ended = job.stage(&["run", &script, "get_sources"]);
    let took = begun.elapsed();
    assert_eq!(ended.code, 0, "{ended:#?}\n{}", job.log());
    took
}
