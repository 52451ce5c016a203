//! The directory store on a real file system.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod claims;
mod concurrency;
mod ending;
mod exposure;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use states::{
    About, AnyJob, BadSnapshot, Capacity, ClientToken, ConnectTo, DirectoryStore, Header, JobId,
    LaunchSpec, Limits, MAX_BYTES, Observation, Retention, RunId, Snapshot, SnapshotStore,
    StartedBy, StoreError, Timestamp, Verdict,
};
use tempfile::TempDir;

fn snapshot(job: &str) -> Snapshot {
    Snapshot::new(Header {
        id: JobId::new(job).unwrap(),
        about: About::default(),
        created: Timestamp::now(),
        token: ClientToken::new("t").unwrap(),
        spec: LaunchSpec {
            cluster: "c".into(),
            task_definition: "d".into(),
            platform_version: None,
            subnets: vec!["s".into()],
            security_groups: vec![],
            assign_public_ip: false,
            capacity: Capacity::ClusterDefault,
            container: "ci-coordinator".into(),
            environment: vec![],
            started_by: StartedBy::new("s").unwrap(),
            tags: vec![],
            enable_execute_command: false,
            propagate_tags: false,
            enable_ecs_managed_tags: false,
            additions: None,
            size: states::TaskSize::default(),
            task_role: None,
            service_environment: Vec::new(),
        },
        definition_from_project: false,
        trace: None,
        pool: None,
        host_proof: None,
        login: None,
        connect_to: ConnectTo::PrivateAddress,
        transport: None,
        limits: Limits::default(),
    })
}

fn store() -> (TempDir, DirectoryStore) {
    let place = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(place.path().join("deep/metadata")).unwrap();
    (place, store)
}

/// Saves as a process with a single job does.
async fn save(store: &DirectoryStore, snapshot: &Snapshot) -> Result<(), StoreError> {
    let lease = store.try_lease(&snapshot.job.header().id, "test").unwrap();
    store.save(&lease, snapshot).await
}

async fn archive(store: &DirectoryStore, snapshot: &Snapshot) -> Result<(), StoreError> {
    let lease = store.try_lease(&snapshot.job.header().id, "test").unwrap();
    store.archive(&lease, snapshot).await
}

async fn note_ending(store: &DirectoryStore, snapshot: &Snapshot) -> Result<(), StoreError> {
    let lease = store.try_lease(&snapshot.job.header().id, "test").unwrap();
    store.note_ending(&lease, snapshot).await
}

fn id(job: &str) -> JobId {
    JobId::new(job).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_saved_snapshot_is_loaded_and_only_its_owner_can_read_it() {
    let (_place, store) = store();
    assert_eq!(mode(store.directory()), 0o700);
    assert!(store.load(&id("a")).await.unwrap().is_none());
    let mut job = snapshot("a");
    save(&store, &job).await.unwrap();
    job.step(Observation::Opened { process: 1, purpose: "prepare".into() }, Timestamp::now());
    save(&store, &job).await.unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap(), Some(job));
    assert_eq!(mode(&store.snapshot_path(&id("a"))), 0o600);
    assert_eq!(names(store.directory()), ["a.lock", "a.ron"], "no temporary file is left");
}

#[tokio::test]
async fn a_torn_write_leaves_the_old_snapshot() {
    let (_place, store) = store();
    let job = snapshot("a");
    save(&store, &job).await.unwrap();
    // The state after a power cut during a save.
    fs::write(store.directory().join("a.tmp"), "(version: 1, job: Pend").unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap(), Some(job.clone()));
    save(&store, &job).await.unwrap();
    assert_eq!(names(store.directory()), ["a.lock", "a.ron"]);
}

#[tokio::test]
async fn unusable_files_are_named_and_not_changed() {
    let (_place, store) = store();
    let path = store.snapshot_path(&id("a"));
    let whole = snapshot("a").to_ron().unwrap();
    let cases: [(&[u8], &str); 5] = [
        (b"", "not a whole snapshot"),
        (&whole.as_bytes()[..whole.len() / 2], "not a whole snapshot"),
        (b"\xff\xfe\x00", "not a whole snapshot"),
        (b"{\"ip\": \"10.0.0.1\"}", "not a whole snapshot"),
        (b"(version: 99, job: X)", "format version 99"),
    ];
    for (content, expected) in cases {
        fs::write(&path, content).unwrap();
        let error = store.load(&id("a")).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Bad { .. }), "{text}");
        assert!(
            text.contains(expected)
                && text.contains(path.to_str().unwrap())
                && text.contains("Move the file away"),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), content, "left as it was");
    }
    fs::write(&path, snapshot("b").to_ron().unwrap()).unwrap();
    assert!(
        matches!(store.load(&id("a")).await.unwrap_err(), StoreError::Foreign { found, .. } if found == id("b"))
    );
    fs::write(&path, whole.replacen(&format!("version: {}", states::VERSION), "version: 99", 1))
        .unwrap();
    assert!(matches!(
        store.load(&id("a")).await.unwrap_err(),
        StoreError::Bad { why: BadSnapshot::Newer(99), .. }
    ));
}

#[tokio::test]
async fn a_mark_counts_for_its_own_run_only() {
    let (_place, store) = store();
    save(&store, &snapshot("a")).await.unwrap();
    let run = |name: &str| RunId::new(name).unwrap();
    let lease = store.try_lease(&id("a"), "test").unwrap();
    assert_eq!(store.read_mark(&id("a"), &run("0000-a")), None);
    for offset in [7, 1_000_000, 12] {
        store.mark(&lease, &run("0000-a"), offset).await.unwrap();
        assert_eq!(store.read_mark(&id("a"), &run("0000-a")), Some(offset));
    }
    store.mark(&lease, &run("0001-b"), 3).await.unwrap();
    let marked = ["0000-a", "0001-b", "0001"].map(|name| store.read_mark(&id("a"), &run(name)));
    assert_eq!(marked, [None, Some(3), None]);
    let path = store.directory().join("a.offset");
    assert_eq!(mode(&path), 0o600);
    for damaged in ["", "0001-b", "0001-b many\n", "\0\0\0"] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(store.read_mark(&id("a"), &run("0001-b")), None, "{damaged:?}");
    }
}

#[tokio::test]
async fn a_finished_job_is_archived_without_its_key() {
    let (_place, store) = store();
    let job = snapshot("a");
    save(&store, &job).await.unwrap();
    fs::write(store.key_path(&id("a")), "secret").unwrap();
    archive(&store, &job).await.unwrap();
    assert_eq!(names(store.directory()), ["archive"]);
    let archived = format!("a.{}.ron", job.job.header().created.as_millis());
    assert_eq!(names(&store.archive_path()), [".pruned", &archived]);
    let text = fs::read_to_string(store.archive_path().join(archived)).unwrap();
    assert_eq!(Snapshot::parse(&text).unwrap(), job);
}

#[tokio::test]
async fn files_of_jobs_without_a_snapshot_are_swept_under_their_lease() {
    let (_place, store) = store();
    save(&store, &snapshot("alive")).await.unwrap();
    for name in [
        "alive.key",
        "gone.key",
        "gone.offset",
        "gone.tmp",
        "half.probe",
        "only.lock",
        "unknown.txt",
        "none",
    ] {
        fs::write(store.directory().join(name), "").unwrap();
    }
    assert_eq!(store.orphaned_files().unwrap(), ["gone", "half", "only"].map(id));
    for job in store.orphaned_files().unwrap().iter().chain([&id("alive")]) {
        store.sweep(job, &store.try_lease(job, "test").unwrap()).unwrap();
    }
    let mut left = names(store.directory());
    left.sort();
    assert_eq!(left, ["alive.key", "alive.lock", "alive.ron", "none", "unknown.txt"]);
    assert_eq!(store.orphaned_files().unwrap(), []);
}

#[tokio::test]
async fn the_archive_is_pruned_by_age_and_count() {
    let aged = |store: &DirectoryStore, name: &str, age: u64| {
        let file = fs::File::create(store.archive_path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    for (count, left) in [
        (3, &["young.0.ron", "young.1.ron"][..]),
        (100, &["young.0.ron", "young.1.ron", "young.2.damaged"][..]),
    ] {
        let (_place, store) = store();
        let store = store.with_retention(Retention { age: Duration::from_secs(3600), count });
        fs::create_dir(store.archive_path()).unwrap();
        for (name, age) in [("old.1.ron", 4000), ("old.2.damaged", 4000), ("notes.txt", 9000)] {
            aged(&store, name, age);
        }
        for (name, age) in [("young.0.ron", 100), ("young.1.ron", 101), ("young.2.damaged", 102)] {
            aged(&store, name, age);
        }
        let job = snapshot("a");
        archive(&store, &job).await.unwrap();
        let newest = format!("a.{}.ron", job.job.header().created.as_millis());
        assert_eq!(
            names(&store.archive_path()),
            [&[".pruned", &newest, "notes.txt"], left].concat()
        );
    }
}

#[tokio::test]
async fn a_snapshot_above_the_limit_is_refused_and_not_read_into_memory() {
    let (_place, store) = store();
    let path = store.snapshot_path(&id("a"));
    // A terabyte: reading it all would not end.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = store.load(&id("a")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Bad { why: BadSnapshot::TooLarge, .. }), "{text}");
    assert!(
        text.contains("larger than 1 MiB")
            && text.contains(path.to_str().unwrap())
            && text.contains("Nothing was changed"),
        "{text}"
    );
    let mut whole = snapshot("a").to_ron().unwrap();
    whole.push_str(&" ".repeat(usize::try_from(MAX_BYTES).unwrap() - whole.len()));
    fs::write(&path, &whole).unwrap();
    assert_eq!(
        store.load(&id("a")).await.unwrap().unwrap().job,
        snapshot_like(&whole).job,
        "the limit itself is admitted"
    );
    fs::write(&path, whole + " ").unwrap();
    assert!(matches!(
        store.load(&id("a")).await.unwrap_err(),
        StoreError::Bad { why: BadSnapshot::TooLarge, .. }
    ));
}

fn snapshot_like(text: &str) -> Snapshot {
    Snapshot::parse(text).unwrap()
}

#[tokio::test]
async fn a_snapshot_above_the_limit_is_written_without_the_middle_of_its_journal() {
    let (_place, store) = store();
    let mut job = snapshot("a");
    let began = job.job.header().created;
    let at = |n: u64| Timestamp::from_millis(began.as_millis() + n);
    for n in 1..=400_u32 {
        job.step(Observation::Opened { process: n, purpose: String::new() }, at(u64::from(n)));
    }
    // These texts bypass the clipping and are longer than any that is recorded.
    for entry in &mut job.journal.entries {
        if let Observation::Opened { purpose, .. } = &mut entry.saw {
            *purpose = "\u{1b}x".repeat(2000);
        }
    }
    let recorded = job.journal.entries.len() as u64 + job.journal.omitted;
    save(&store, &job).await.unwrap();
    assert!(fs::metadata(store.snapshot_path(&id("a"))).unwrap().len() <= MAX_BYTES);
    let mut loaded = store.load(&id("a")).await.unwrap().unwrap();
    assert_eq!(loaded.job, job.job, "the state is whole: the task can be ended");
    let process = |saw: &Observation| match saw {
        Observation::Opened { process, .. } => *process,
        _ => unreachable!(),
    };
    let kept: Vec<u32> = loaded.journal.entries.iter().map(|entry| process(&entry.saw)).collect();
    assert_eq!(kept.len() as u64 + loaded.journal.omitted, recorded);
    assert!(
        kept.len() > 20 && kept[0] == 1 && kept.last() == Some(&400) && kept.is_sorted(),
        "{kept:?}"
    );
    // A replay compares only states before the gap, even after more was recorded.
    for n in 401..=1200_u32 {
        loaded
            .step(Observation::Opened { process: n, purpose: "prepare".into() }, at(u64::from(n)));
    }
    let whole = loaded.journal.whole_until();
    let contiguous =
        loaded.journal.entries[..whole].iter().zip(1..).all(|(entry, n)| process(&entry.saw) == n);
    assert!(whole > 0 && contiguous, "{whole}");
    assert!(
        matches!(loaded.replay(), Verdict::Agree { compared, .. } if compared == whole),
        "{:?}",
        loaded.replay()
    );
    save(&store, &loaded).await.unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap(), Some(loaded));
}

#[tokio::test]
async fn a_job_too_large_without_its_journal_leaves_the_old_snapshot() {
    let (_place, store) = store();
    let small = snapshot("a");
    save(&store, &small).await.unwrap();
    let mut large = small.clone();
    let AnyJob::Provisioning(job) = &mut large.job else { unreachable!() };
    Arc::make_mut(&mut job.header).spec.tags = vec![("x".to_owned(), "y".repeat(2 * 1024 * 1024))];
    let text = save(&store, &large).await.unwrap_err().to_string();
    assert!(
        text.contains("cannot write the snapshot")
            && text.contains("a.ron")
            && text.contains("without its journal"),
        "{text}"
    );
    assert_eq!(
        store.load(&id("a")).await.unwrap(),
        Some(small),
        "the next process ends the task by it"
    );
}

#[tokio::test]
async fn a_recent_snapshot_is_parsed_again_if_its_file_has_changed() {
    let (_place, store) = store();
    store.keep_recent();
    let mut job = snapshot("a");
    save(&store, &job).await.unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap().as_ref(), Some(&job));
    // Another process saves it.
    job.step(Observation::CancelRequested, Timestamp::now());
    save(&DirectoryStore::look(store.directory()), &job).await.unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap().as_ref(), Some(&job));
    // A person edits it, and its size stays.
    let path = store.snapshot_path(&id("a"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("version", "Version", 1)).unwrap();
    assert!(matches!(store.load(&id("a")).await, Err(StoreError::Bad { .. })));
    fs::remove_file(&path).unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap(), None);
}
