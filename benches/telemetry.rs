//! Measures the cost of telemetry for a stage: `run` of an empty script, in turns. `cargo bench
//! --bench telemetry`.
//!
//! `FARGATE_BENCH_PLAIN` names a fargate built without the feature (`cargo build --release
//! --no-default-features --target-dir target/plain`); without it, that comparison is skipped, with
//! a message. Needs nothing installed. Prints medians, differences, ratios and missed targets.

#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

#[cfg(feature = "telemetry")]
#[path = "../tests/e2e/collector.rs"]
mod collector;
mod e2e;

use std::process::ExitCode;

use e2e::*;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "telemetry")]
    return with_telemetry::compare();
    #[cfg(not(feature = "telemetry"))]
    {
        eprintln!("built without telemetry: there is nothing to compare");
        ExitCode::FAILURE
    }
}

/// Waits until a condition holds: a collector listens within moments.
#[cfg(feature = "telemetry")]
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "it does not happen: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(feature = "telemetry")]
mod with_telemetry {
    use std::{
        path::Path,
        process::{Command, ExitCode, Stdio},
        time::{Duration, Instant},
    };

    use crate::{
        cluster::Cluster,
        collector::{Collector, Mood},
        runner::Job,
    };

    const ROUNDS: usize = 41;
    /// The time limit of a collector, and its tolerance: the runtime's timers count in
    /// milliseconds.
    const BOUND: Duration = Duration::from_millis(250);
    const MARGIN: Duration = Duration::from_millis(15);

    /// Returns a variant of a stage: its name, the collector's behaviour if there is one, the
    /// command.
    type Way<'a> = (&'static str, Option<Mood>, Box<dyn Fn() -> Command + 'a>);

    pub fn compare() -> ExitCode {
        let (cluster, collector) = (Cluster::local(), Collector::start());
        let job = Job::on(&cluster);
        let off = std::fs::read_to_string(&job.config).unwrap();
        let exporting = job.path("exporting.toml");
        std::fs::write(
            &exporting,
            format!("{off}\n[Telemetry]\nEndpoint = \"{}\"\n", collector.endpoint),
        )
        .unwrap();
        let script = job.script("");
        let stage = |binary: &str, config: &Path| {
            let mut command = Command::new(binary);
            command.env_clear().envs(job.stage_environment()).arg("--config").arg(config);
            command
                .args(["custom", "run"])
                .arg(&script)
                .arg("build_script")
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            command
        };
        job.prepare();
        let ours = env!("CARGO_BIN_EXE_fargate");
        let plain = std::env::var("FARGATE_BENCH_PLAIN").ok();
        let mut ways: Vec<Way<'_>> = vec![
            ("off", None, Box::new(|| stage(ours, &job.config))),
            ("local collector", Some(Mood::Fine), Box::new(|| stage(ours, &exporting))),
        ];
        match &plain {
            Some(plain) => {
                ways.push(("built without telemetry", None, Box::new(|| stage(plain, &job.config))))
            }
            None => println!(
                "FARGATE_BENCH_PLAIN is not set: telemetry off is not compared with a build without it"
            ),
        }
        // Of two equal commands in turns, the difference is noise.
        ways.push(("off again", None, Box::new(|| stage(ours, &job.config))));
        for (name, mood) in [
            ("503", Mood::Unavailable),
            ("hangs", Mood::Hangs),
            ("garbage", Mood::Garbage),
            ("dies", Mood::Dies),
        ] {
            ways.push((name, Some(mood), Box::new(|| stage(ours, &exporting))));
        }
        let mut spent: Vec<Vec<Duration>> = vec![Vec::new(); ways.len()];
        for round in 0..=ROUNDS {
            for ((_, mood, command), spent) in ways.iter().zip(&mut spent) {
                collector.set(mood.unwrap_or(Mood::Fine));
                let start = Instant::now();
                assert!(command().status().unwrap().success(), "{}", job.log());
                // The first round warms up.
                if round > 0 {
                    spent.push(start.elapsed());
                }
                // Each sends only its own data, not unsent data of the one before.
                for kept in job.files(".otlp") {
                    std::fs::remove_file(kept).unwrap();
                }
            }
        }
        job.cleanup();
        report(&ways.iter().map(|(name, mood, _)| (*name, *mood)).collect::<Vec<_>>(), spent)
    }

    fn report(ways: &[(&str, Option<Mood>)], spent: Vec<Vec<Duration>>) -> ExitCode {
        let medians: Vec<f64> = spent.into_iter().map(median).collect();
        let off = medians[0];
        let noise = ways
            .iter()
            .zip(&medians)
            .find(|((name, _), _)| *name == "off again")
            .map_or(0.0, |(_, again)| (again - off).abs());
        println!("`run` of an empty script, median of {ROUNDS}:");
        let mut missed = Vec::new();
        for ((name, mood), spent) in ways.iter().zip(&medians) {
            let more = (spent - off) * 1e3;
            println!("  {name:<24} {:>7.1} ms  {more:>+7.1} ms  × {:.3}", spent * 1e3, spent / off);
            let most = match mood {
                Some(Mood::Fine) => Some(10.0),
                Some(_) => Some((BOUND + MARGIN).as_secs_f64() * 1e3),
                // Disabled telemetry may cost two milliseconds, plus the difference of two equal
                // commands.
                None if *name == "built without telemetry" && -more > 2.0 + noise * 1e3 => {
                    missed.push(format!(
                        "off costs {:.1} ms more than a build without telemetry",
                        -more
                    ));
                    None
                }
                None => None,
            };
            if let Some(most) = most.filter(|most| more > *most) {
                missed.push(format!("{name}: {more:.1} ms more, at most {most:.0} ms"));
            }
        }
        for target in &missed {
            println!("MISSED: {target}");
        }
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn median(mut spans: Vec<Duration>) -> f64 {
        spans.sort_unstable();
        spans[spans.len() / 2].as_secs_f64()
    }
}
