//! The directory store on a real file system.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use states::{
    About, AnyJob, BadSnapshot, Capacity, ClientToken, ConnectTo, DirectoryStore, Exposure, Header,
    JobId, LaunchSpec, Limits, MAX_BYTES, Observation, Retention, RunId, Snapshot, SnapshotStore,
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
        },
        definition_from_project: false,
        trace: None,
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

#[test]
fn what_is_saved_is_loaded_and_nobody_else_reads_it() {
    let (_place, store) = store();
    assert_eq!(mode(store.directory()), 0o700);
    assert!(store.load(&id("a")).unwrap().is_none());
    let mut job = snapshot("a");
    store.save(&job).unwrap();
    job.step(Observation::Opened { process: 1, purpose: "prepare".into() }, Timestamp::now());
    store.save(&job).unwrap();
    assert_eq!(store.load(&id("a")).unwrap(), Some(job));
    assert_eq!(mode(&store.snapshot_path(&id("a"))), 0o600);
    assert_eq!(names(store.directory()), ["a.ron"], "no temporary file is left");
}

#[test]
fn a_torn_write_leaves_the_old_snapshot() {
    let (_place, store) = store();
    let job = snapshot("a");
    store.save(&job).unwrap();
    // What a power cut in the middle of a save leaves behind.
    fs::write(store.directory().join("a.tmp"), "(version: 1, job: Pend").unwrap();
    assert_eq!(store.load(&id("a")).unwrap(), Some(job.clone()));
    store.save(&job).unwrap();
    assert_eq!(names(store.directory()), ["a.ron"]);
}

#[test]
fn what_cannot_be_used_is_named_and_left_alone() {
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
        let error = store.load(&id("a")).unwrap_err();
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
        matches!(store.load(&id("a")).unwrap_err(), StoreError::Foreign { found, .. } if found == id("b"))
    );
    fs::write(&path, whole.replacen("version: 1", "version: 2", 1)).unwrap();
    assert!(matches!(
        store.load(&id("a")).unwrap_err(),
        StoreError::Bad { why: BadSnapshot::Newer(2), .. }
    ));
}

#[test]
fn the_second_one_waits_and_is_told_who_works_on_the_job() {
    let (_place, store) = store();
    let first = store.lease(&id("a"), "run build_script", Duration::ZERO).unwrap();
    let text = store.lease(&id("a"), "cleanup", Duration::from_millis(60)).unwrap_err().to_string();
    assert!(
        text.contains("run build_script") && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    store.lease(&id("b"), "cleanup", Duration::ZERO).expect("another job is free");
    let second = std::thread::spawn({
        let store = store.clone();
        move || store.lease(&id("a"), "cleanup", Duration::from_secs(30)).map(drop)
    });
    drop(first);
    second.join().unwrap().unwrap();
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
                    let lease = match store.lease(&id("a"), "test", Duration::ZERO) {
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

#[test]
fn a_mark_is_of_one_run() {
    let (_place, store) = store();
    store.save(&snapshot("a")).unwrap();
    let run = |name: &str| RunId::new(name).unwrap();
    let lease = store.lease(&id("a"), "test", Duration::ZERO).unwrap();
    assert_eq!(store.marked(&id("a"), &run("0000-a")), None);
    for offset in [7, 1_000_000, 12] {
        store.mark(&lease, &run("0000-a"), offset).unwrap();
        assert_eq!(store.marked(&id("a"), &run("0000-a")), Some(offset));
    }
    store.mark(&lease, &run("0001-b"), 3).unwrap();
    let marked = ["0000-a", "0001-b", "0001"].map(|name| store.marked(&id("a"), &run(name)));
    assert_eq!(marked, [None, Some(3), None]);
    let path = store.directory().join("a.offset");
    assert_eq!(mode(&path), 0o600);
    for damaged in ["", "0001-b", "0001-b many\n", "\0\0\0"] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(store.marked(&id("a"), &run("0001-b")), None, "{damaged:?}");
    }
}

#[test]
fn a_finished_job_is_archived_without_its_key() {
    let (_place, store) = store();
    let job = snapshot("a");
    store.save(&job).unwrap();
    fs::write(store.key_path(&id("a")), "secret").unwrap();
    store.archive(&job).unwrap();
    assert_eq!(names(store.directory()), ["archive"]);
    let archived = format!("a.{}.ron", job.job.header().created.as_millis());
    assert_eq!(names(&store.archive_path()), [".pruned", &archived]);
    let text = fs::read_to_string(store.archive_path().join(archived)).unwrap();
    assert_eq!(Snapshot::parse(&text).unwrap(), job);
}

#[test]
fn leftovers_are_of_jobs_without_a_snapshot_and_swept_under_their_lease() {
    let (_place, store) = store();
    store.save(&snapshot("alive")).unwrap();
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
        store.sweep(job, &store.lease(job, "test", Duration::ZERO).unwrap()).unwrap();
    }
    let mut left = names(store.directory());
    left.sort();
    assert_eq!(left, ["alive.key", "alive.lock", "alive.ron", "none", "unknown.txt"]);
    assert_eq!(store.leftovers().unwrap(), []);
}

#[test]
fn the_archive_is_pruned_by_age_and_count() {
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
        store.archive(&job).unwrap();
        let newest = format!("a.{}.ron", job.job.header().created.as_millis());
        assert_eq!(
            names(&store.archive_path()),
            [&[".pruned", &newest, "notes.txt"], left].concat()
        );
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_before_anything_is_launched() {
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
    let text = store.save(&snapshot("a")).unwrap_err().to_string();
    assert!(text.contains("cannot write") && text.contains("a.ron"), "{text}");
    assert!(store.load(&id("a")).unwrap().is_none());
}

#[test]
fn a_snapshot_above_the_limit_is_refused_and_not_read_into_memory() {
    let (_place, store) = store();
    let path = store.snapshot_path(&id("a"));
    // A terabyte: whoever reads it all does not end.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = store.load(&id("a")).unwrap_err();
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
        store.load(&id("a")).unwrap().unwrap().job,
        snapshot_like(&whole).job,
        "the limit itself is admitted"
    );
    fs::write(&path, whole + " ").unwrap();
    assert!(matches!(
        store.load(&id("a")).unwrap_err(),
        StoreError::Bad { why: BadSnapshot::TooLarge, .. }
    ));
}

fn snapshot_like(text: &str) -> Snapshot {
    Snapshot::parse(text).unwrap()
}

#[test]
fn a_snapshot_above_the_limit_is_written_without_the_middle_of_its_journal() {
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
    store.save(&job).unwrap();
    assert!(fs::metadata(store.snapshot_path(&id("a"))).unwrap().len() <= MAX_BYTES);
    let mut loaded = store.load(&id("a")).unwrap().unwrap();
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
    store.save(&loaded).unwrap();
    assert_eq!(store.load(&id("a")).unwrap(), Some(loaded));
}

#[test]
fn a_job_that_is_too_large_by_itself_leaves_the_old_snapshot_on_record() {
    let (_place, store) = store();
    let small = snapshot("a");
    store.save(&small).unwrap();
    let mut large = small.clone();
    let AnyJob::Provisioning(job) = &mut large.job else { unreachable!() };
    job.header.spec.tags = vec![("x".to_owned(), "y".repeat(2 * 1024 * 1024))];
    let text = store.save(&large).unwrap_err().to_string();
    assert!(
        text.contains("cannot write the snapshot")
            && text.contains("a.ron")
            && text.contains("without its journal"),
        "{text}"
    );
    assert_eq!(
        store.load(&id("a")).unwrap(),
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

#[test]
fn no_file_of_the_directory_is_reached_through_a_link() {
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
    store.save(&snapshot("a")).unwrap();
    plant("a.probe");
    store.check_writable(&id("a")).unwrap();
    unharmed();
    plant("a.lock");
    assert!(store.lease(&id("a"), "test", Duration::ZERO).is_err());
    unharmed();
    fs::remove_file(store.directory().join("a.lock")).unwrap();
    let lease = store.lease(&id("a"), "test", Duration::ZERO).unwrap();
    plant("a.offset");
    assert!(store.mark(&lease, &RunId::new("0000-a").unwrap(), 7).is_err());
    unharmed();
    // A whole snapshot, were it not for the link.
    let elsewhere = place.path().join("elsewhere.ron");
    fs::write(&elsewhere, snapshot("b").to_ron().unwrap()).unwrap();
    symlink(&elsewhere, store.snapshot_path(&id("b"))).unwrap();
    assert!(matches!(store.load(&id("b")).unwrap_err(), StoreError::Io { .. }));
    // Neither is the archive, nor what lies in it.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(&other, store.archive_path()).unwrap();
    assert!(store.archive(&snapshot("a")).is_err());
    assert_eq!(names(&other), [""; 0]);
    fs::remove_file(store.archive_path()).unwrap();
    fs::create_dir(store.archive_path()).unwrap();
    for name in ["archive/.pruned", "archive/index"] {
        plant(name);
        store.save(&snapshot("a")).unwrap();
        store.clone().with_notes(|_| "note".to_owned()).archive(&snapshot("a")).unwrap();
        unharmed();
    }
}

/// A job of which ECS has accepted to stop the task.
fn ending() -> Snapshot {
    Snapshot::parse(include_str!("../../fixtures/snapshots/v1.3/stopping.ron")).unwrap()
}

#[test]
fn ending_jobs_are_found_without_their_snapshots_until_they_are_archived() {
    let (_place, store) = store();
    let snapshot = ending();
    let header = snapshot.job.header().clone();
    store.save(&snapshot).unwrap();
    assert!(store.ending_jobs(100).is_empty() && !store.is_ending(&header.id));
    store.note_ending(&snapshot).unwrap();
    assert!(store.is_ending(&header.id));
    let noted = store.ending_jobs(100);
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
    assert_eq!(store.ending_jobs(100), noted);
    store.archive(&snapshot).unwrap();
    assert!(!store.is_ending(&header.id) && store.ending_jobs(100).is_empty());
}

#[test]
fn of_many_ending_jobs_some_are_named_and_each_in_its_turn() {
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
        let some = store.ending_jobs(100);
        assert_eq!(some.len(), 100);
        named.extend(some.into_iter().map(|job| job.job));
        if named.len() == 250 {
            return;
        }
    }
    panic!("{} of 250 were named", named.len());
}

#[test]
fn a_note_without_a_snapshot_is_swept() {
    let (_place, store) = store();
    store.note_ending(&ending()).unwrap();
    let job = ending().job.header().id.clone();
    assert_eq!(store.leftovers().unwrap(), std::slice::from_ref(&job));
    let lease = store.lease(&job, "reap", Duration::ZERO).unwrap();
    store.sweep(&job, &lease).unwrap();
    drop(lease);
    assert!(!store.is_ending(&job) && store.leftovers().unwrap().is_empty());
}
