//! Measures the machine's transitions, the store's saves, a job's keys. `cargo bench --bench
//! machine`.
//!
//! A save is measured beside its minimum: write, fsync, rename, fsync of the directory.

use std::{
    fs::{self, File},
    hint::black_box,
    io::Write as _,
    path::Path,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use states::{AnyJob, DirectoryStore, Observation, Snapshot, SnapshotStore as _, Timestamp};

/// A finished job's snapshot: its journal is that of a successful job.
const FIXTURE: &str = include_str!("../fixtures/snapshots/v1/stopping.ron");

fn fixture() -> Snapshot {
    Snapshot::parse(FIXTURE).unwrap_or_else(|e| panic!("the fixture: {e}"))
}

/// Passes through every state of a successful job.
fn transitions(c: &mut Criterion) {
    let snapshot = fixture();
    let header = snapshot.job.header().clone();
    let history: Vec<(Timestamp, Observation)> = snapshot.journal.unfold();
    let mut group = c.benchmark_group("transitions");
    group.throughput(Throughput::Elements(history.len() as u64));
    group.bench_function("the machine alone", |b| {
        b.iter(|| {
            let mut job = Snapshot::new(header.clone()).job;
            for (at, saw) in &history {
                job = job.observe(black_box(saw), *at);
                black_box(job.plan(*at));
            }
            assert!(matches!(job, AnyJob::Stopping(_)));
        });
    });
    group.bench_function("with its journal", |b| {
        b.iter(|| {
            let mut snapshot = Snapshot::new(header.clone());
            for (at, saw) in &history {
                black_box(snapshot.step(saw.clone(), *at));
            }
            snapshot
        });
    });
    group.finish();
}

fn plain_save(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn saves(c: &mut Criterion) {
    let place = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary directory: {e}"));
    let store = DirectoryStore::open(place.path()).unwrap_or_else(|e| panic!("{e}"));
    let snapshot = fixture();
    let path = place.path().join("plain.ron");
    let mut group = c.benchmark_group("saves");
    group.throughput(Throughput::Elements(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("a runtime: {e}"));
    let lease = store
        .try_lease(&snapshot.job.header().id, "bench")
        .unwrap_or_else(|e| panic!("a lease: {e}"));
    group.bench_function("a snapshot", |b| {
        b.iter(|| {
            let saved = runtime.block_on(store.save(&lease, black_box(&snapshot)));
            saved.unwrap_or_else(|e| panic!("{e}"))
        })
    });
    group.bench_function("reference: the same bytes, plainly", |b| {
        b.iter(|| {
            plain_save(&path, black_box(FIXTURE.as_bytes())).unwrap_or_else(|e| panic!("{e}"))
        });
    });
    group.bench_function("as text, not written", |b| b.iter(|| black_box(&snapshot).to_ron()));
    group.bench_function("read from text", |b| b.iter(|| Snapshot::parse(black_box(FIXTURE))));
    group.finish();
}

/// Measures a job's key pair, beside `ssh-keygen` for the same kind.
fn keys(c: &mut Criterion) {
    let place = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary directory: {e}"));
    let mut group = c.benchmark_group("keys");
    group.sample_size(20);
    group.bench_function("an Ed25519 key pair", |b| {
        b.iter(|| transports::ssh::key::generate().map(|pair| pair.public))
    });
    let mut number = 0_u32;
    group.bench_function("reference: ssh-keygen -t ed25519", |b| {
        b.iter(|| {
            number += 1;
            let path = place.path().join(number.to_string());
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path)
                .status();
            assert!(
                made.is_ok_and(|status| status.success()),
                "ssh-keygen (Debian: apt-get install openssh-client)"
            );
        });
    });
    group.finish();
}

criterion_group!(benches, transitions, saves, keys);
criterion_main!(benches);
