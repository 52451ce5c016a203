//! Measures how late a line of output is, because of other jobs' saves, with a thousand jobs in one
//! engine. `cargo bench --bench many_jobs`.
//!
//! Each job writes a line a second, so each is saved every two seconds and marks every line, in a
//! directory on disk. There are two references in the same run. One has its store in memory, where
//! a save takes no time. The other has an engine and a store per job, which save on the thread that
//! writes the output.

#![allow(clippy::unwrap_used, reason = "a benchmark may end by a panic")]

use std::{
    io,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use states::{
    AnyJob, ClientToken, ConnectError, ControlError, Described, DirectoryStore, Engine, Goal,
    Greeting, HostIdentity, InMemoryStore, InterfaceId, JobId, JobIo, LaunchSpec, Note, Outcome,
    Run, RunContainer, RunError, RunEvent, RunOrder, Script, Session, ShellFacts, Signal, Snapshot,
    SnapshotStore, StartedBy, StopAnswer, StopReason, Target, TaskArn, TaskControl, TaskReport,
    Transport,
};
use tokio::{task::JoinSet, time::Instant};

const JOBS: usize = 1000;
/// Lines of each job, and the time between two of them.
const LINES: u32 = 10;
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The target: how much later a line may be because of other jobs' saves, at the median.
const TARGET: Duration = Duration::from_millis(1);

/// Returns a job whose container is reachable.
const FIXTURE: &str = include_str!("../fixtures/snapshots/v2.4/reachable.ron");

fn main() -> ExitCode {
    // `cargo test --benches` calls it with other arguments; it is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let place = tempfile::tempdir().unwrap();
    let directory = |name: &str| DirectoryStore::open(place.path().join(name)).unwrap();
    let memory = measure(one_for_all(InMemoryStore::default));
    let disk = measure(one_for_all(|| directory("shared")));
    // A store with one job saves on the caller's thread.
    let blocking = measure(|start| Arc::new(engine(directory("blocking"), start)));
    println!("{JOBS} jobs in one engine, a line a second each: how late it is handed on");
    println!("  saves on disk:                          {disk}");
    println!("  reference: in memory                    {memory}");
    println!("  reference: saves on the output's thread {blocking}");
    println!(
        "  ratio of medians: {:.2} of in memory, {:.4} of the output's thread; a save on this disk: {:.2?}",
        disk.median.as_secs_f64() / memory.median.as_secs_f64(),
        disk.median.as_secs_f64() / blocking.median.as_secs_f64(),
        plain_save(&place.path().join("plain")),
    );
    let delay = disk.median.saturating_sub(memory.median);
    println!(
        "  delayed by other jobs' saves at the median: {delay:.2?} (target: at most {TARGET:?})"
    );
    if delay > TARGET { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The delays of lines.
struct Lateness {
    median: Duration,
    slowest_percent: Duration,
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "median {:.2?}, 99 of 100 within {:.2?}", self.median, self.slowest_percent)
    }
}

fn engine<S: SnapshotStore>(store: S, start: Instant) -> Engine<Idle, Talker, S> {
    Engine::new(Idle, Talker { start }, store, |job| job.as_str().into())
}

/// The same engine for each job.
fn one_for_all<S: SnapshotStore>(
    store: impl Fn() -> S,
) -> impl FnMut(Instant) -> Arc<Engine<Idle, Talker, S>> {
    let mut shared = None;
    move |start| Arc::clone(shared.get_or_insert_with(|| Arc::new(engine(store(), start))))
}

fn measure<S: SnapshotStore>(
    mut engine: impl FnMut(Instant) -> Arc<Engine<Idle, Talker, S>>,
) -> Lateness {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let late = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        // After all jobs have been entered, which saves each of them.
        let start = Instant::now() + Duration::from_secs(5);
        let mut jobs = JoinSet::new();
        for n in 0..JOBS {
            jobs.spawn(follow(engine(start), n, Collector { late: Arc::clone(&late) }));
        }
        for outcome in jobs.join_all().await {
            assert!(matches!(outcome, Outcome::Reachable(Some(_))), "{outcome:?}");
        }
    });
    let mut late = std::mem::take(&mut *late.lock().unwrap());
    assert_eq!(late.len(), JOBS * LINES as usize);
    late.sort();
    Lateness { median: late[late.len() / 2], slowest_percent: late[late.len() * 99 / 100] }
}

async fn follow<S: SnapshotStore>(
    engine: Arc<Engine<Idle, Talker, S>>,
    n: usize,
    mut io: Collector,
) -> Outcome {
    let mut snapshot = Snapshot::parse(FIXTURE).unwrap();
    let AnyJob::Reachable(job) = &mut snapshot.job else { panic!("the fixture") };
    Arc::make_mut(&mut job.header).id = JobId::new(format!("job-{n}")).unwrap();
    let lease = engine.store().lease(&job.header.id, "bench", Duration::ZERO).await.unwrap();
    let mut work = engine.work(snapshot, lease);
    engine.open(&mut work, "run build_script").await;
    let script = Script { text: Bytes::new(), digest: "0".to_owned() };
    engine.request_run(&mut work, "build_script", script, RunContainer::Coordinator).unwrap();
    engine.drive(&mut work, Goal::Run, &mut io).await.unwrap()
}

/// Measures the minimum of a save: write, fsync, rename, fsync of the directory.
fn plain_save(path: &Path) -> Duration {
    let began = std::time::Instant::now();
    let beside = path.with_extension("tmp");
    let mut file = std::fs::File::create(&beside).unwrap();
    io::Write::write_all(&mut file, FIXTURE.as_bytes()).unwrap();
    file.sync_data().unwrap();
    std::fs::rename(&beside, path).unwrap();
    std::fs::File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
    began.elapsed()
}

/// Records how late each line comes.
struct Collector {
    late: Arc<Mutex<Vec<Duration>>>,
}

impl JobIo for Collector {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        let due = u64::from_le_bytes(bytes.as_ref().try_into().unwrap());
        let late = since_epoch(Instant::now()).saturating_sub(due);
        self.late.lock().unwrap().push(Duration::from_nanos(late));
        Ok(bytes.len())
    }

    fn note(&mut self, _: Note<'_>) {}

    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}

/// Returns nanoseconds since the first call.
fn since_epoch(at: Instant) -> u64 {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    u64::try_from(at.saturating_duration_since(epoch).as_nanos()).unwrap()
}

/// Containers whose scripts print when each line was due.
struct Talker {
    start: Instant,
}

/// One of them.
struct Container {
    began: Instant,
}

impl Transport for Talker {
    type Session = Container;

    async fn connect(&self, target: &Target) -> Result<(Container, Greeting), ConnectError> {
        // The jobs' lines are spread over a second.
        let n: u32 = target.key.to_str().unwrap().trim_start_matches("job-").parse().unwrap();
        let began = self.start + LINE_EVERY * n / JOBS as u32;
        let facts = ShellFacts {
            run_dir: "/tmp".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        };
        Ok((Container { began }, Greeting { identity: HostIdentity("a talker".into()), facts }))
    }
}

impl Session for Container {
    type Run = Talking;

    async fn start(&self, _: &RunOrder, _: Bytes) -> Result<Talking, RunError> {
        Ok(Talking { began: self.began, said: None })
    }

    async fn attach(&self, order: &RunOrder, _: u64) -> Result<Talking, RunError> {
        Err(RunError::Unknown(order.run.to_string()))
    }

    async fn signal(&self, _: &RunOrder, _: Signal) -> Result<(), RunError> {
        Ok(())
    }

    async fn close(self) {}
}

struct Talking {
    began: Instant,
    /// Lines so far; `None` before the start is confirmed.
    said: Option<u32>,
}

impl Run for Talking {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        let Some(said) = self.said else {
            self.said = Some(0);
            return Ok(RunEvent::Started);
        };
        if said == LINES {
            return Ok(RunEvent::Exited { code: 0, total: u64::from(LINES) * 8 });
        }
        let due = self.began + LINE_EVERY * said;
        tokio::time::sleep_until(due).await;
        self.said = Some(said + 1);
        Ok(RunEvent::Output(Bytes::copy_from_slice(&since_epoch(due).to_le_bytes())))
    }
}

/// An ECS that is never called.
struct Idle;

impl TaskControl for Idle {
    async fn launch(&self, _: &ClientToken, _: &LaunchSpec) -> Result<TaskReport, ControlError> {
        std::future::pending().await
    }

    async fn describe(&self, _: &str, _: &[TaskArn]) -> Result<Vec<Described>, ControlError> {
        std::future::pending().await
    }

    async fn find(&self, _: &str, _: &StartedBy) -> Result<Vec<TaskArn>, ControlError> {
        std::future::pending().await
    }

    async fn stop(&self, _: &str, _: &TaskArn, _: &StopReason) -> Result<StopAnswer, ControlError> {
        std::future::pending().await
    }

    async fn tag(&self, _: &TaskArn, _: &[(String, String)]) -> Result<(), ControlError> {
        std::future::pending().await
    }

    async fn public_address(&self, _: &InterfaceId) -> Result<Option<String>, ControlError> {
        std::future::pending().await
    }
}
