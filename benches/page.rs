//! The page of 500 jobs: `cargo bench --bench page`.
//!
//! `PAGE_JOBS` sets another number. The jobs are those in `fixtures/`, under names of their own. The
//! reference is the minimum for a page that keeps nothing: listing the directory and reading each
//! file. Needs nothing installed. Prints medians, ratios, and missed targets.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use fargate_driver::service::{page, source::View};
use replay::{Location, overview::Scanner, summary::Summary};
use states::{DirectoryStore, Timestamp};

const ROUNDS: usize = 21;
/// The target time of a page.
const BOUND: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let jobs = std::env::var("PAGE_JOBS").map_or(500, |jobs| jobs.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    fill(place.path(), jobs);
    let reference = median(|| {
        for entry in fs::read_dir(place.path()).unwrap() {
            black_box(fs::read(entry.unwrap().path()).unwrap());
        }
    });
    println!("{jobs} jobs; reference, the directory listed and each file read: {reference:.2?}");

    let store = DirectoryStore::look(place.path()).with_notes(Summary::note);
    let location = Location { store, settings: None, manager: "runner-1".to_owned() };
    let now = Timestamp::now();
    let report = |what: &str, time: Duration, bound: Option<Duration>| {
        let is_missed = bound.is_some_and(|bound| time > bound);
        let ratio = time.as_secs_f64() / reference.as_secs_f64();
        println!("{what}: {time:.2?}, {ratio:.1} times{}", if is_missed { "  MISSED" } else { "" });
        !is_missed
    };
    let first = median(|| {
        black_box(Scanner::new(location.clone()).scan(now).unwrap());
    });
    report("the first scan, which reads all snapshots", first, None);
    let mut scanner = Scanner::new(location.clone());
    let overview = scanner.scan(now).unwrap();
    let again = median(|| {
        black_box(scanner.scan(now).unwrap());
    });
    let mut is_met = report("another scan, which reads what has changed", again, Some(BOUND));
    let view = View { overview: overview.into(), calls: Vec::new(), pools: Vec::new() };
    let content = page::content(&view);
    let rendered = median(|| {
        black_box(page::page("runner-1", &page::content(&view)));
    });
    println!("the page's content is {} bytes", content.len());
    is_met &= report("the page, rendered", rendered, Some(BOUND));
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fill(directory: &Path, jobs: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let files: Vec<PathBuf> = ["snapshots/v1", "stuck"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"))
        .collect();
    for (number, file) in files.iter().cycle().take(jobs).enumerate() {
        fs::copy(file, directory.join(format!("job-{number}.ron"))).unwrap();
    }
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}
