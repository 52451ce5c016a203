//! `fargate-replay list --archived` and `stats` over an archive of 100,000 jobs: `cargo bench
//! --bench archive`.
//!
//! `ARCHIVE_JOBS` sets another number. The jobs are copies of those in `fixtures/` that are over,
//! under names of their own, each in a real file. The reference is the minimum: listing the same
//! directory with each file's size and time, and reading the index once. Needs nothing installed,
//! and half a gigabyte in the temporary directory. Prints medians, ratios, peak memory, and missed
//! targets.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use states::{AnyJob, JobId, Snapshot};

const ROUNDS: usize = 5;
/// The target time of a listing.
const BOUND: Duration = Duration::from_secs(2);
/// Its target memory, in KiB: some hundred bytes for each job, and not its snapshot.
const MOST_MEMORY: u64 = 100 * 1024;

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let jobs = std::env::var("ARCHIVE_JOBS").map_or(100_000, |jobs| jobs.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let bytes = fill(&place.path().join("archive"), jobs);
    println!(
        "{jobs} archived jobs of {} bytes on average, made in {:.1?}",
        bytes / jobs.max(1) as u64,
        began.elapsed()
    );

    let (first, memory) = timed(place.path(), &["stats"]);
    println!("first of all, which makes the index: {first:.1?}, {memory} KiB");
    let floor = median((0..ROUNDS).map(|_| reference(place.path())).collect());
    println!("reference, the directory listed and the index read: {floor:.2?}");
    let mut met = true;
    for arguments in [
        &["list", "--archived"][..],
        &["list", "--archived", "--json"],
        &["list"],
        &["stats"],
        &["stats", "--json"],
    ] {
        let runs: Vec<_> = (0..ROUNDS).map(|_| timed(place.path(), arguments)).collect();
        let memory = runs.iter().map(|(_, memory)| *memory).max().unwrap_or(0);
        let time = median(runs.into_iter().map(|(time, _)| time).collect());
        let ratio = time.as_secs_f64() / floor.as_secs_f64();
        let missed = if time > BOUND || memory > MOST_MEMORY { "  MISSED" } else { "" };
        met &= missed.is_empty();
        println!(
            "{:<24} {time:>8.2?}, {ratio:.1} of the reference, {memory} KiB{missed}",
            arguments.join(" ")
        );
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes the archive. Returns its size in bytes.
fn fill(archive: &Path, jobs: usize) -> u64 {
    fs::create_dir_all(archive).unwrap();
    let models = models();
    let mut bytes = 0;
    for number in 0..jobs {
        let (model, id) = &models[number % models.len()];
        // The snapshot holds the id, too, with the same length.
        let name = format!("{number:0width$}", width = id.len());
        let text = model.replace(id, &name);
        bytes += text.len() as u64;
        fs::write(archive.join(format!("{name}.{number}.ron")), text).unwrap();
    }
    bytes
}

/// Returns the finished jobs among the fixtures, with their ids.
fn models() -> Vec<(String, String)> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut models = Vec::new();
    for directory in ["snapshots/v1", "stuck"] {
        for entry in fs::read_dir(fixtures.join(directory)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let snapshot = Snapshot::parse(&text).unwrap();
            if matches!(snapshot.job, AnyJob::Stopping(_)) {
                let id: &JobId = &snapshot.job.header().id;
                models.push((text, id.to_string()));
            }
        }
    }
    assert!(models.len() >= 10, "{}", models.len());
    models
}

/// Measures the command's time, and its peak memory in KiB.
fn timed(directory: &Path, arguments: &[&str]) -> (Duration, u64) {
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fargate-replay"));
    command.arg("--directory").arg(directory).args(arguments).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut memory = 0;
    let status = loop {
        // The kernel records the peak; the last read before the end misses at most a moment.
        memory = peak(child.id()).unwrap_or(0).max(memory);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "{arguments:?}");
    (began.elapsed(), memory)
}

/// `VmHWM`, in KiB.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()
}

fn reference(directory: &Path) -> Duration {
    let began = Instant::now();
    let mut seen = 0;
    for entry in fs::read_dir(directory.join("archive")).unwrap() {
        seen += entry.unwrap().metadata().unwrap().len();
    }
    let mut index = fs::File::open(directory.join("archive/index")).unwrap();
    seen += io::copy(&mut index, &mut io::sink()).unwrap();
    assert!(seen > 0);
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
