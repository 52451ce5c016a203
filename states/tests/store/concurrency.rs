//! Several jobs in one process, and several processes on one job.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use states::{DirectoryLease, DirectoryStore, Snapshot, SnapshotStore, StoreError};

use crate::{archive, id, names, snapshot, store};

#[tokio::test]
async fn a_second_process_waits_and_learns_who_holds_the_job() {
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
    // It waits on this thread, which is free meanwhile.
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
                // Without a pause: each lease removes the lock's file, which other processes have
                // just opened.
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

/// Held to block file work that writes a note in the archive's index.
static SLOW: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A process with three jobs, and a store that archives slowly while [`SLOW`] is held.
fn three_jobs(store: DirectoryStore) -> (DirectoryStore, [DirectoryLease; 3]) {
    let slow = |_: &Snapshot| {
        drop(SLOW.blocking_lock());
        String::new()
    };
    let store = store.with_notes(slow);
    let leases = ["a", "b", "c"].map(|job| store.try_lease(&id(job), "test").unwrap());
    (store, leases)
}

/// Archives under this lease until the slow part has begun, and then drops the future.
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
async fn slow_file_work_of_one_job_delays_no_other() {
    let (_place, store) = store();
    let (store, [a, b, _c]) = three_jobs(store);
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
async fn a_save_does_not_overtake_an_abandoned_one() {
    let (_place, store) = store();
    let (store, [a, _b, _c]) = three_jobs(store);
    store.save(&a, &snapshot("a")).await.unwrap();
    let slow = SLOW.lock().await;
    archive_and_lose_interest(&store, &a).await;
    let again = snapshot("a");
    let saving = store.save(&a, &again);
    tokio::pin!(saving);
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut saving).await;
    assert!(waited.is_err(), "it did not wait for its turn");
    // A save that never had its turn has no effect.
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
async fn a_lock_is_held_until_its_file_work_is_done() {
    let (_place, store) = store();
    let (store, [a, _b, _c]) = three_jobs(store);
    store.save(&a, &snapshot("a")).await.unwrap();
    let slow = SLOW.lock().await;
    archive_and_lose_interest(&store, &a).await;
    drop(a);
    // Another process, which shares only the files.
    let other = DirectoryStore::open(store.directory()).unwrap();
    assert!(matches!(other.try_lease(&id("a"), "test"), Err(StoreError::Busy { .. })));
    drop(slow);
    other.lease(&id("a"), "test", Duration::from_secs(30)).await.unwrap();
}

/// A stage works on one job, and archives one other at a time: it starts no thread for file work.
#[tokio::test]
async fn a_stage_does_file_work_on_its_own_thread() {
    static THREAD: Mutex<Option<std::thread::ThreadId>> = Mutex::new(None);
    let (_place, store) = store();
    let store = store.with_notes(|_| {
        *THREAD.lock().unwrap() = Some(std::thread::current().id());
        String::new()
    });
    archive(&store, &snapshot("a")).await.unwrap();
    assert_eq!(*THREAD.lock().unwrap(), Some(std::thread::current().id()));
    // As a stage that archives another job.
    let _other = store.try_lease(&id("b"), "test").unwrap();
    archive(&store, &snapshot("a")).await.unwrap();
    assert_eq!(*THREAD.lock().unwrap(), Some(std::thread::current().id()));
    let _third = store.try_lease(&id("c"), "test").unwrap();
    archive(&store, &snapshot("a")).await.unwrap();
    assert_ne!(*THREAD.lock().unwrap(), Some(std::thread::current().id()));
}
