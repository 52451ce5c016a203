//! Ending jobs, and the contract that both stores keep.

use std::{fs, time::Duration};

use states::{InMemoryStore, RunId, Snapshot, SnapshotStore, StoreError};

use crate::{archive, note_ending, save, store};

/// The store in memory behaves as the directory does.
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
async fn both_stores_keep_the_same_contract() {
    let (_place, directory) = store();
    keeps_the_contract(directory).await;
    keeps_the_contract(InMemoryStore::default()).await;
}

/// A job whose stop ECS has accepted.
fn ending() -> Snapshot {
    Snapshot::parse(include_str!("../../../fixtures/snapshots/v1.3/stopping.ron")).unwrap()
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
    // Invalid notes are ignored.
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
async fn many_ending_jobs_are_returned_in_turns() {
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
    assert_eq!(store.orphaned_files().unwrap(), std::slice::from_ref(&job));
    let lease = store.try_lease(&job, "reap").unwrap();
    store.sweep(&job, &lease).unwrap();
    drop(lease);
    assert!(!store.is_ending(&job) && store.orphaned_files().unwrap().is_empty());
}
