//! Measures the cost of following a run in the container, beside the same run followed by polling.
//! `cargo bench -p fargate-transports --bench supervisor`.
//!
//! The delivery protocol's commands run in local shells, as in its tests: over pipes as by SSH, and
//! over a terminal as by ECS Exec. The reference in the same run is the protocol's fallback: no
//! FIFO, no file system notifications. Needs dash, bash and busybox. `FARGATE_BENCH_SILENCE` is the
//! length of the silence in seconds, a minute by default.
//!
//! Runs in a job's own container are measured beside the same runs in the coordinator.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/shells/image.rs"]
mod image;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/shells/local.rs"]
mod local;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/shells/pty.rs"]
mod pty;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use states::{Run as _, RunEvent, RunId, RunOrder, ShellFacts};
use transports::delivery::{self, Followed};

use crate::{
    image::{Image, JobContainer},
    local::{By, Local, Surroundings},
};

/// Empty scripts per shell.
const SCRIPTS: usize = 41;
/// The time until the processes of a run are idle.
const SETTLED: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let silence =
        std::env::var("FARGATE_BENCH_SILENCE").map_or(60, |seconds| seconds.parse().unwrap());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        empty_scripts().await;
        job_containers().await;
        silent_scripts(Duration::from_secs(silence)).await;
    });
    ExitCode::SUCCESS
}

/// A shell, and how it gets its commands.
const CONTAINERS: [(&str, Surroundings, By); 8] = [
    ("dash, by pipes", Surroundings::System, By::Pipes),
    ("bash, by pipes", Surroundings::Bash, By::Pipes),
    ("busybox sh, by pipes", Surroundings::BusyboxShell, By::Pipes),
    ("busybox alone, by pipes", Surroundings::BusyboxAlone, By::Pipes),
    ("dash, by a terminal", Surroundings::System, By::Terminal),
    ("bash, by a terminal", Surroundings::Bash, By::Terminal),
    ("busybox sh, by a terminal", Surroundings::BusyboxShell, By::Terminal),
    ("busybox alone, by a terminal", Surroundings::BusyboxAlone, By::Terminal),
];

struct Container {
    local: Local,
    facts: ShellFacts,
}

impl Container {
    /// `polls` removes the tools that the fallback lacks.
    async fn new(surroundings: Surroundings, by: By, polls: bool) -> Self {
        let mut local = Local::new(surroundings, by);
        if polls {
            local.replaced = vec![("mkfifo", "no-mkfifo"), ("inotifyd", "no-inotifyd")];
        }
        let mut facts = delivery::probe(&local, None).await.unwrap();
        facts.follows_with_tail &= !polls;
        Self { local, facts }
    }

    async fn start(&self, run: &str, script: &'static str) -> Followed {
        let script = Bytes::from_static(script.as_bytes());
        delivery::start(&self.local, &self.facts, &order(run), script).await.unwrap()
    }

    async fn attach(&self, run: &str) -> Followed {
        delivery::attach(&self.local, &self.facts, &order(run), 0).await.unwrap()
    }

    /// Measures the time from sending an empty script to its exit status.
    async fn empty_script(&self, number: usize) -> Duration {
        let start = Instant::now();
        let mut run = self.start(&format!("empty-{number}"), "").await;
        while !matches!(run.next().await.unwrap(), RunEvent::Exited { .. }) {}
        start.elapsed()
    }

    /// Returns the processor time of the container's processes, and of the children that they
    /// waited for.
    fn processor_time(&self) -> Duration {
        let root = self.local.path("tmp").display().to_string().into_bytes();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let directory = entry.ok()?.path();
            let environment = std::fs::read(directory.join("environ")).ok()?;
            memchr::memmem::find(&environment, &root).map(|_| directory)
        });
        processes.filter_map(|directory| processor_time(&directory)).sum()
    }
}

fn order(run: &str) -> RunOrder {
    RunOrder {
        run: RunId::new(run).unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    }
}

fn processor_time(process: &std::path::Path) -> Option<Duration> {
    // Nanoseconds of its own (proc_pid_schedstat); hundredths of seconds of its children: fields 16
    // and 17 of proc_pid_stat(5).
    let own =
        std::fs::read_to_string(process.join("schedstat")).ok()?.split(' ').next()?.parse().ok()?;
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let children: u64 = stat
        .rsplit_once(')')?
        .1
        .split(' ')
        .skip(14)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Some(Duration::from_nanos(own) + Duration::from_millis(10 * children))
}

async fn empty_scripts() {
    println!(
        "an empty script, from sending it to its exit status (median of {SCRIPTS}, in turns):"
    );
    for (name, surroundings, by) in CONTAINERS {
        let (notified, polls) = (
            Container::new(surroundings, by, false).await,
            Container::new(surroundings, by, true).await,
        );
        let (mut by_notified, mut by_polls) = (Vec::new(), Vec::new());
        for number in 0..SCRIPTS {
            by_notified.push(notified.empty_script(number).await);
            by_polls.push(polls.empty_script(number).await);
        }
        let (notified, polls) = (median(by_notified), median(by_polls));
        println!(
            "  {name}: {notified:.1?}; by polling: {polls:.1?}; ratio {:.2}",
            notified.as_secs_f64() / polls.as_secs_f64()
        );
    }
}

/// Output of the script whose speed is measured, in MB.
const OUTPUT: u64 = 300;
/// How often it is measured, in turns.
const OUTPUTS: usize = 5;

async fn job_containers() {
    println!("in the job's container, beside the same in the coordinator (medians, in turns):");
    for (name, surroundings, by) in [CONTAINERS[0], CONTAINERS[3], CONTAINERS[4]] {
        let local = Local::new(surroundings, by);
        // The kernel may share the processors among sessions (autogroup): both sides have as many.
        let image = JobContainer::start(&local, Image::ShAndSetsid);
        let facts = delivery::probe(&local, Some(&image.volume)).await.unwrap();
        let both = [states::RunContainer::Job, states::RunContainer::Coordinator];
        let mut number = 0;
        let mut measure = async |container, script: &str| {
            number += 1;
            let order = RunOrder { container, ..order(&format!("run-{number}")) };
            let (start, script) = (Instant::now(), Bytes::from(script.to_owned()));
            let mut run = delivery::start(&local, &facts, &order, script).await.unwrap();
            loop {
                if let RunEvent::Exited { total, .. } = run.next().await.unwrap() {
                    return (start.elapsed(), total);
                }
            }
        };
        let mut empty = [Vec::new(), Vec::new()];
        for _ in 0..SCRIPTS {
            for (container, times) in both.into_iter().zip(&mut empty) {
                times.push(measure(container, "").await.0);
            }
        }
        let [job, coordinator] = empty.map(median);
        println!(
            "  {name}, an empty script: {job:.1?}; {coordinator:.1?}; ratio {:.2}",
            job.as_secs_f64() / coordinator.as_secs_f64()
        );
        if by == By::Terminal {
            continue;
        }
        let script = format!("PATH=/usr/bin:/bin; yes 'a line of a log' | head -c {OUTPUT}000000");
        let mut output = [Vec::new(), Vec::new()];
        for _ in 0..OUTPUTS {
            for (container, times) in both.into_iter().zip(&mut output) {
                let (time, total) = measure(container, &script).await;
                assert_eq!(total, OUTPUT * 1_000_000);
                times.push(time);
            }
        }
        let [job, coordinator] = output.map(|times| OUTPUT as f64 / median(times).as_secs_f64());
        println!(
            "  {name}, {OUTPUT} MB: {job:.0} MB/s; {coordinator:.0} MB/s; ratio {:.2}",
            job / coordinator
        );
    }
}

async fn silent_scripts(silence: Duration) {
    let mut measured = Vec::new();
    for (name, surroundings, by) in CONTAINERS {
        // A terminal's old follower would continue beside the new one.
        let attached = if by == By::Pipes { &[false, true][..] } else { &[false] };
        for &attached in attached {
            for polls in [false, true] {
                let container = Container::new(surroundings, by, polls).await;
                // Blocks in the shell itself.
                let mut run =
                    container.start("silent", "mkfifo go; echo ready; read -r line <go").await;
                while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
                if attached {
                    drop(run);
                    run = container.attach("silent").await;
                    while !matches!(run.next().await.unwrap(), RunEvent::Output(_)) {}
                }
                measured.push((name, attached, polls, container, run));
            }
        }
    }
    tokio::time::sleep(SETTLED).await;
    let before: Vec<_> =
        measured.iter().map(|(.., container, _)| container.processor_time()).collect();
    tokio::time::sleep(silence).await;
    println!("processor time in the container during {silence:?} of silence:");
    let used: Vec<_> = measured
        .iter()
        .zip(before)
        .map(|((.., container, _), before)| container.processor_time().saturating_sub(before))
        .collect();
    for (pair, used) in measured.chunks(2).zip(used.chunks(2)) {
        let (name, attached, ..) = &pair[0];
        let verb = if *attached { "attached" } else { "started" };
        println!("  {name}, {verb}: {:.1?}; by polling: {:.1?}", used[0], used[1]);
    }
    for (.., container, _) in &measured {
        // This leaves no process behind.
        std::fs::OpenOptions::new().write(true).open(container.local.home().join("go")).unwrap();
    }
    for (.., run) in &mut measured {
        while !matches!(run.next().await.unwrap(), RunEvent::Exited { .. }) {}
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
