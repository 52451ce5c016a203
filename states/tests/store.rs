//! The directory store on a real file system.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use states::{
    About, AnyJob, BadSnapshot, Capacity, ClientToken, ConnectTo, DirectoryLease, DirectoryStore,
    Exposure, Header, InMemoryStore, JobId, LaunchSpec, Limits, MAX_BYTES, Observation, Retention,
    RunId, Snapshot, SnapshotStore, StartedBy, StoreError, Timestamp, Verdict,
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
        },
        definition_from_project: false,
        trace: None,
        host_proof: None,
        login: None,
        connect_to: ConnectTo::PrivateAddress,
        limits: Limits::default(),
    })
}

fn store() -> (TempDir, DirectoryStore) {
    let place = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(place.path().join("deep/metadata")).unwrap();
    (place, store)
}

/// Saves as a process does that works on nothing else.
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
async fn what_is_saved_is_loaded_and_nobody_else_reads_it() {
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
    // What a power cut in the middle of a save leaves behind.
    fs::write(store.directory().join("a.tmp"), "(version: 1, job: Pend").unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap(), Some(job.clone()));
    save(&store, &job).await.unwrap();
    assert_eq!(names(store.directory()), ["a.lock", "a.ron"]);
}

#[tokio::test]
async fn what_cannot_be_used_is_named_and_left_alone() {
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
    fs::write(&path, whole.replacen("version: 1", "version: 2", 1)).unwrap();
    assert!(matches!(
        store.load(&id("a")).await.unwrap_err(),
        StoreError::Bad { why: BadSnapshot::Newer(2), .. }
    ));
}

#[tokio::test]
async fn the_second_one_waits_and_is_told_who_works_on_the_job() {
    let (_place, store) = store();
    let first = store.try_lease(&id("a"), "run build_script").unwrap();
    let text =
        store.lease(&id("a"), "cleanup", Duration::from_millis(60)).await.unwrap_err().to_string();
    assert!(
        text.contains("run build_script") && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    store.try_lease(&id("b"), "cleanup").expect("another job is free");
    let second = tokio::spawn({
        let store = store.clone();
        async move { store.lease(&id("a"), "cleanup", Duration::from_secs(30)).await.map(drop) }
    });
    // It waits on this very thread, which is free meanwhile.
    tokio::task::yield_now().await;
    drop(first);
    second.await.unwrap().unwrap();
    assert_eq!(names(store.directory()), [""; 0], "a lock without a snapshot does not stay");
}

#[test]
fn only_one_of_many_works_on_a_job_at_a_time() {
    let (_place, store) = store();
    let working = AtomicU32::new(0);
    let taken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Without waiting in between: the lock's file goes with each lease, and others have
                // opened it just before.
                while taken.load(Ordering::SeqCst) < 400 {
                    let lease = match store.try_lease(&id("a"), "test") {
                        Err(StoreError::Busy { .. }) => continue,
                        lease => lease.unwrap(),
                    };
                    taken.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    working.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
}

#[tokio::test]
async fn a_mark_is_of_one_run() {
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
async fn leftovers_are_of_jobs_without_a_snapshot_and_swept_under_their_lease() {
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
    assert_eq!(store.leftovers().unwrap(), ["gone", "half", "only"].map(id));
    for job in store.leftovers().unwrap().iter().chain([&id("alive")]) {
        store.sweep(job, &store.try_lease(job, "test").unwrap()).unwrap();
    }
    let mut left = names(store.directory());
    left.sort();
    assert_eq!(left, ["alive.key", "alive.lock", "alive.ron", "none", "unknown.txt"]);
    assert_eq!(store.leftovers().unwrap(), []);
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
async fn a_directory_that_cannot_be_used_is_an_error_before_anything_is_launched() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(DirectoryStore::open(&file).is_err());
    assert!(DirectoryStore::open(file.join("below")).is_err());
    symlink(place.path().join("nowhere"), place.path().join("dangling")).unwrap();
    assert!(DirectoryStore::open(place.path().join("dangling")).is_err());
    // What cannot be replaced, also by root.
    let (_place, store) = store();
    fs::create_dir(store.directory().join("a.tmp")).unwrap();
    let text = save(&store, &snapshot("a")).await.unwrap_err().to_string();
    assert!(text.contains("cannot write") && text.contains("a.ron"), "{text}");
    assert!(store.load(&id("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_snapshot_above_the_limit_is_refused_and_not_read_into_memory() {
    let (_place, store) = store();
    let path = store.snapshot_path(&id("a"));
    // A terabyte: whoever reads it all does not end.
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
    // Longer texts than any that is recorded: they are put past what clips them.
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
    // What is compared in a replay is what comes before the gap, also after more was recorded.
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
async fn a_job_that_is_too_large_by_itself_leaves_the_old_snapshot_on_record() {
    let (_place, store) = store();
    let small = snapshot("a");
    save(&store, &small).await.unwrap();
    let mut large = small.clone();
    let AnyJob::Provisioning(job) = &mut large.job else { unreachable!() };
    job.header.spec.tags = vec![("x".to_owned(), "y".repeat(2 * 1024 * 1024))];
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
        "whoever comes next ends the task by it"
    );
}

#[test]
fn a_directory_that_others_could_change_is_refused_with_what_helps() {
    let place = tempfile::tempdir().unwrap();
    let (above, directory) = (place.path().join("above"), place.path().join("above/metadata"));
    let set = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    DirectoryStore::open(&directory).unwrap();
    let refused = |named: &Path, part: &Path, help: &str| {
        let error = DirectoryStore::open(named).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, StoreError::Exposed { .. }) && text.contains(named.to_str().unwrap()),
            "{text}"
        );
        assert!(
            text.contains(&format!("{help} {}", part.display()))
                && text.contains("Nothing was touched"),
            "{text}"
        );
    };
    for mode in [0o777, 0o770, 0o702, 0o1777, 0o720] {
        set(&directory, mode);
        refused(&directory, &directory, "chmod go-w");
    }
    for mode in [0o700, 0o755, 0o750] {
        set(&directory, mode);
        DirectoryStore::open(&directory).unwrap();
    }
    // Who may write to the directory above may put another one in its place, unless that has the
    // sticky bit.
    set(&above, 0o777);
    refused(&directory, &above, "chmod go-w");
    set(&above, 0o1777);
    DirectoryStore::open(&directory).unwrap();
    // So may who may replace a link on the way to it.
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    symlink(&directory, open.join("link")).unwrap();
    DirectoryStore::open(open.join("link")).unwrap();
    set(&open, 0o777);
    refused(&open.join("link"), &open, "chmod go-w");
    // Looking is admitted; acting is not.
    set(&directory, 0o777);
    let store = DirectoryStore::look(&directory);
    assert!(
        store.jobs().unwrap().is_empty()
            && store.refuse_exposed().is_err()
            && store.note(&[]).is_err()
    );
}

#[test]
fn a_directory_of_another_user_is_refused_with_what_helps() {
    let place = tempfile::tempdir().unwrap();
    let (above, directory) = (place.path().join("above"), place.path().join("above/metadata"));
    DirectoryStore::open(&directory).unwrap();
    if chown(&directory, Some(4711), None).is_err() {
        println!("skipped: this user may not give files away");
        return;
    }
    for (theirs, ours) in [(&directory, &above), (&above, &directory)] {
        chown(theirs, Some(4711), None).unwrap();
        chown(ours, Some(0), None).unwrap();
        let error = DirectoryStore::open(&directory).unwrap_err();
        let StoreError::Exposed { exposed, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (&exposed.part, exposed.exposure),
            (theirs, Exposure::Owner { owner: 4711, user: 0 })
        );
        assert!(error.to_string().contains(&format!("chown -h 0 {}", theirs.display())), "{error}");
    }
}

#[tokio::test]
async fn no_file_of_the_directory_is_reached_through_a_link() {
    let (place, store) = store();
    let victim = place.path().join("victim");
    let plant = |name: &str| {
        fs::write(&victim, "theirs").unwrap();
        let link = store.directory().join(name);
        let _ = fs::remove_file(&link);
        symlink(&victim, link).unwrap();
    };
    let unharmed = || assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
    plant("a.tmp");
    save(&store, &snapshot("a")).await.unwrap();
    plant("a.probe");
    let lease = store.try_lease(&id("a"), "test").unwrap();
    store.check_writable(&lease, &id("a")).await.unwrap();
    drop(lease);
    unharmed();
    plant("a.lock");
    assert!(store.try_lease(&id("a"), "test").is_err());
    unharmed();
    fs::remove_file(store.directory().join("a.lock")).unwrap();
    let lease = store.try_lease(&id("a"), "test").unwrap();
    plant("a.offset");
    assert!(store.mark(&lease, &RunId::new("0000-a").unwrap(), 7).await.is_err());
    drop(lease);
    unharmed();
    // A whole snapshot, were it not for the link.
    let elsewhere = place.path().join("elsewhere.ron");
    fs::write(&elsewhere, snapshot("b").to_ron().unwrap()).unwrap();
    symlink(&elsewhere, store.snapshot_path(&id("b"))).unwrap();
    assert!(matches!(store.load(&id("b")).await.unwrap_err(), StoreError::Io { .. }));
    // Neither is the archive, nor what lies in it.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(&other, store.archive_path()).unwrap();
    assert!(archive(&store, &snapshot("a")).await.is_err());
    assert_eq!(names(&other), [""; 0]);
    fs::remove_file(store.archive_path()).unwrap();
    fs::create_dir(store.archive_path()).unwrap();
    for name in ["archive/.pruned", "archive/index"] {
        plant(name);
        save(&store, &snapshot("a")).await.unwrap();
        let store = store.clone().with_notes(|_| "note".to_owned());
        archive(&store, &snapshot("a")).await.unwrap();
        unharmed();
    }
}

/// Held while file work that writes a note in the archive's index is to go on.
static SLOW: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A process with two jobs, and a store that archives slowly while [`SLOW`] is held.
fn two_jobs(store: DirectoryStore) -> (DirectoryStore, DirectoryLease, DirectoryLease) {
    let slow = |_: &Snapshot| {
        drop(SLOW.blocking_lock());
        String::new()
    };
    let store = store.with_notes(slow);
    let [a, b] = ["a", "b"].map(|job| store.try_lease(&id(job), "test").unwrap());
    (store, a, b)
}

/// Archives under this lease until the slow part has begun, and drops the future then.
async fn archive_and_lose_interest(store: &DirectoryStore, lease: &DirectoryLease) {
    let begun = async {
        while store.snapshot_path(&id("a")).exists() || !store.archive_path().exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let job = snapshot("a");
    let archiving = store.archive(lease, &job);
    tokio::select! {
        biased;
        done = archiving => panic!("it blocked the runtime: {done:?}"),
        () = begun => {}
    }
}

#[tokio::test]
async fn with_several_jobs_slow_file_work_of_one_delays_no_other() {
    let (_place, store) = store();
    let (store, a, b) = two_jobs(store);
    store.save(&a, &snapshot("a")).await.unwrap();
    let slow = SLOW.lock().await;
    let job = snapshot("a");
    let archiving = store.archive(&a, &job);
    tokio::pin!(archiving);
    let others = async {
        for _ in 0..20 {
            store.save(&b, &snapshot("b")).await.unwrap();
            assert!(store.load(&id("b")).await.unwrap().is_some());
        }
    };
    tokio::select! {
        biased;
        done = &mut archiving => panic!("it was not slow: {done:?}"),
        () = others => {}
    }
    drop(slow);
    archiving.await.unwrap();
    assert_eq!(store.jobs().unwrap(), [id("b")]);
}

#[tokio::test]
async fn a_save_does_not_overtake_what_was_begun_before_it_and_given_up() {
    let (_place, store) = store();
    let (store, a, _b) = two_jobs(store);
    store.save(&a, &snapshot("a")).await.unwrap();
    let slow = SLOW.lock().await;
    archive_and_lose_interest(&store, &a).await;
    let again = snapshot("a");
    let saving = store.save(&a, &again);
    tokio::pin!(saving);
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut saving).await;
    assert!(waited.is_err(), "it did not wait for its turn");
    // A save that never had its turn is as if it had not begun.
    let given_up = snapshot("a");
    assert!(
        tokio::time::timeout(Duration::from_millis(5), store.save(&a, &given_up)).await.is_err()
    );
    drop(slow);
    saving.await.unwrap();
    assert_eq!(store.load(&id("a")).await.unwrap().as_ref(), Some(&again));
    let archived = fs::read_dir(store.archive_path()).unwrap().flatten();
    let archived =
        archived.filter(|file| file.path().extension().is_some_and(|kind| kind == "ron"));
    assert_eq!(archived.count(), 1, "what was given up was done all the same");
}

#[tokio::test]
async fn a_job_s_lock_is_held_until_what_was_begun_under_it_is_done() {
    let (_place, store) = store();
    let (store, a, _b) = two_jobs(store);
    store.save(&a, &snapshot("a")).await.unwrap();
    let slow = SLOW.lock().await;
    archive_and_lose_interest(&store, &a).await;
    drop(a);
    // Another process, which shares nothing but the files.
    let other = DirectoryStore::open(store.directory()).unwrap();
    assert!(matches!(other.try_lease(&id("a"), "test"), Err(StoreError::Busy { .. })));
    drop(slow);
    other.lease(&id("a"), "test", Duration::from_secs(30)).await.unwrap();
}

/// Stages work on one job: they start no thread to keep it.
#[tokio::test]
async fn a_process_with_one_job_does_file_work_on_its_own_thread() {
    static THREAD: Mutex<Option<std::thread::ThreadId>> = Mutex::new(None);
    let (_place, store) = store();
    let store = store.with_notes(|_| {
        *THREAD.lock().unwrap() = Some(std::thread::current().id());
        String::new()
    });
    archive(&store, &snapshot("a")).await.unwrap();
    assert_eq!(*THREAD.lock().unwrap(), Some(std::thread::current().id()));
    let _other = store.try_lease(&id("b"), "test").unwrap();
    archive(&store, &snapshot("a")).await.unwrap();
    assert_ne!(*THREAD.lock().unwrap(), Some(std::thread::current().id()));
}

/// The twins keep the same contract.
async fn keeps_the_contract<S: SnapshotStore>(store: S) {
    let (job, run) = (ending(), RunId::new("0000-a").unwrap());
    let id = job.job.header().id.clone();
    let lease = store.lease(&id, "one", Duration::ZERO).await.unwrap();
    let Err(StoreError::Busy { holder, .. }) = store.lease(&id, "two", Duration::ZERO).await else {
        panic!("two work on a job")
    };
    assert_eq!(holder, format!("process {} (one)", std::process::id()));
    assert!(store.load(&id).await.unwrap().is_none());
    store.save(&lease, &job).await.unwrap();
    assert_eq!(store.load(&id).await.unwrap().as_ref(), Some(&job));
    assert_eq!(store.marked(&id, &run).await, None);
    store.mark(&lease, &run, 7).await.unwrap();
    assert_eq!(store.marked(&id, &run).await, Some(7));
    assert_eq!(store.marked(&id, &RunId::new("0001-b").unwrap()).await, None);
    store.note_ending(&lease, &job).await.unwrap();
    assert_eq!(store.ending_jobs(100).await.len(), 1);
    store.forget_ending(&lease, &id).await;
    assert!(store.ending_jobs(100).await.is_empty());
    store.note_ending(&lease, &job).await.unwrap();
    store.archive(&lease, &job).await.unwrap();
    assert!(store.load(&id).await.unwrap().is_none() && store.ending_jobs(100).await.is_empty());
    assert_eq!(store.marked(&id, &run).await, None);
    let (next, ()) = tokio::join!(store.lease(&id, "two", Duration::from_secs(30)), async {
        tokio::task::yield_now().await;
        drop(lease);
    });
    drop(next.unwrap());
    store.lease(&id, "three", Duration::ZERO).await.map(drop).unwrap();
}

#[tokio::test]
async fn the_store_in_memory_does_what_the_directory_does() {
    let (_place, directory) = store();
    keeps_the_contract(directory).await;
    keeps_the_contract(InMemoryStore::default()).await;
}

/// A job of which ECS has accepted to stop the task.
fn ending() -> Snapshot {
    Snapshot::parse(include_str!("../../fixtures/snapshots/v1.3/stopping.ron")).unwrap()
}

#[tokio::test]
async fn ending_jobs_are_found_without_their_snapshots_until_they_are_archived() {
    let (_place, store) = store();
    let snapshot = ending();
    let header = snapshot.job.header().clone();
    save(&store, &snapshot).await.unwrap();
    assert!(store.ending_jobs(100).await.is_empty() && !store.is_ending(&header.id));
    note_ending(&store, &snapshot).await.unwrap();
    assert!(store.is_ending(&header.id));
    let noted = store.ending_jobs(100).await;
    assert_eq!(noted.len(), 1);
    assert_eq!((&noted[0].job, noted[0].cluster.as_str()), (&header.id, "ci"));
    assert_eq!(
        noted[0].tasks.iter().collect::<Vec<_>>(),
        snapshot.job.task().into_iter().collect::<Vec<_>>()
    );
    // They are hints: whatever else lies there is none.
    for (name, text) in [
        ("torn.ending", ""),
        ("torn-2.ending", "ci"),
        ("bad.ending", "ci\nno arn\u{0}"),
        ("a b.ending", "ci\ntask/1"),
    ] {
        fs::write(store.directory().join(name), text).unwrap();
    }
    assert_eq!(store.ending_jobs(100).await, noted);
    archive(&store, &snapshot).await.unwrap();
    assert!(!store.is_ending(&header.id) && store.ending_jobs(100).await.is_empty());
}

#[tokio::test]
async fn of_many_ending_jobs_some_are_named_and_each_in_its_turn() {
    let (_place, store) = store();
    for n in 0..250 {
        fs::write(
            store.directory().join(format!("job-{n:03}.ending")),
            format!("ci\narn:aws:ecs:eu-west-1:1:task/ci/{n:032}\n"),
        )
        .unwrap();
    }
    let mut named = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let some = store.ending_jobs(100).await;
        assert_eq!(some.len(), 100);
        named.extend(some.into_iter().map(|job| job.job));
        if named.len() == 250 {
            return;
        }
    }
    panic!("{} of 250 were named", named.len());
}

#[tokio::test]
async fn a_note_without_a_snapshot_is_swept() {
    let (_place, store) = store();
    note_ending(&store, &ending()).await.unwrap();
    let job = ending().job.header().id.clone();
    assert_eq!(store.leftovers().unwrap(), std::slice::from_ref(&job));
    let lease = store.try_lease(&job, "reap").unwrap();
    store.sweep(&job, &lease).unwrap();
    drop(lease);
    assert!(!store.is_ending(&job) && store.leftovers().unwrap().is_empty());
}
