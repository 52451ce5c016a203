//! Claims: exactly one snapshot names a task, wherever the process is killed.

use std::{fs, sync::Arc, time::Duration};

use states::{
    AnyJob, Claim, DirectoryStore, Greeting, HostIdentity, JobId, PoolRole, Reachable, ShellFacts,
    SnapshotStore as _, TaskArn, WarmOrigin,
};

use super::*;

fn task() -> TaskArn {
    TaskArn::new("arn:aws:ecs:eu-west-1:1:task/ci/7").unwrap()
}

fn greeting() -> Greeting {
    Greeting {
        identity: HostIdentity("ssh-ed25519 AAAA".into()),
        facts: ShellFacts {
            run_dir: "/tmp".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        },
    }
}

/// A warm task that is ready for a job.
fn warm(id: &JobId) -> Snapshot {
    let mut snapshot = snapshot(id.as_str());
    let AnyJob::Provisioning(mut job) = snapshot.job.clone() else { unreachable!() };
    let origin = WarmOrigin { pool: "p".into(), max_age: Duration::from_secs(60) };
    Arc::make_mut(&mut job.header).pool = Some(PoolRole::Warm(origin));
    let state = Reachable {
        task: task(),
        address: Some("10.0.0.7".into()),
        since: Timestamp::now(),
        identity: greeting().identity,
        facts: greeting().facts,
        runs: 0,
        last: None,
    };
    snapshot.job = states::Job { header: job.header, state }.into();
    snapshot
}

/// The job that claims it.
fn claiming(job: &str, warm: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot(job);
    let claim = Claim::of(warm).unwrap();
    snapshot.step(Observation::Claimed(Box::new(claim)), Timestamp::now());
    snapshot
}

/// A store with a warm task and its key.
async fn with_warm_task() -> (TempDir, DirectoryStore, Snapshot, Snapshot) {
    let (place, store) = store();
    let warm = warm(&JobId::warm(1));
    save(&store, &warm).await.unwrap();
    fs::write(store.key_path(&JobId::warm(1)), "secret").unwrap();
    let job = claiming("job", &warm);
    (place, store, warm, job)
}

async fn claim(store: &DirectoryStore, job: &Snapshot) -> Result<(), StoreError> {
    let leases = (
        store.try_lease(&job.job.header().id, "prepare").unwrap(),
        store.try_lease(&JobId::warm(1), "prepare").unwrap(),
    );
    store.claim((&leases.0, &leases.1), &JobId::warm(1), job).await
}

#[tokio::test]
async fn a_claim_moves_the_task_its_key_and_nothing_else() {
    let (_place, store, _, job) = with_warm_task().await;
    assert_eq!(store.warm_tasks().await.unwrap(), [JobId::warm(1)]);
    assert_eq!(store.owner_of(&task()).unwrap(), Some(JobId::warm(1)));
    claim(&store, &job).await.unwrap();
    assert_eq!(names(store.directory()), ["job.key", "job.lock", "job.ron"]);
    assert_eq!(store.load(&id("job")).await.unwrap(), Some(job));
    assert_eq!(fs::read_to_string(store.key_path(&id("job"))).unwrap(), "secret");
    assert_eq!(mode(&store.key_path(&id("job"))), 0o600);
    assert_eq!(store.owner_of(&task()).unwrap(), Some(id("job")));
    assert_eq!(store.owner_of(&TaskArn::new("other").unwrap()).unwrap(), None);
}

#[tokio::test]
async fn a_job_that_has_a_snapshot_claims_nothing() {
    let (_place, store, warm, job) = with_warm_task().await;
    save(&store, &snapshot("job")).await.unwrap();
    assert!(matches!(claim(&store, &job).await, Err(StoreError::Io { .. })));
    assert_eq!(store.read(&JobId::warm(1)).unwrap(), Some(warm));
}

/// Killed after step 1: the key was copied.
#[tokio::test]
async fn a_claim_that_was_not_saved_leaves_a_warm_task() {
    let (_place, store, warm, job) = with_warm_task().await;
    fs::write(store.key_path(&id("job")), "secret").unwrap();
    assert_eq!(store.orphaned_files().unwrap(), [id("job")]);
    assert_eq!(store.read(&JobId::warm(1)).unwrap(), Some(warm));
    assert!(store.unfinished_claims().unwrap().is_empty());
    // `cleanup` of the job removes its key, and another job may claim the task.
    store.sweep(&id("job"), &store.try_lease(&id("job"), "cleanup").unwrap()).unwrap();
    assert!(!store.key_path(&id("job")).exists());
    claim(&store, &job).await.unwrap();
}

/// Killed after step 2: the job's snapshot has the warm task's name.
#[tokio::test]
async fn the_jobs_next_lease_finishes_a_claim_that_was_saved() {
    let (_place, store, _, job) = with_warm_task().await;
    fs::write(store.key_path(&id("job")), "secret").unwrap();
    fs::write(store.snapshot_path(&JobId::warm(1)), job.to_ron().unwrap()).unwrap();

    // The task is no warm one any more, and has exactly one owner.
    assert!(
        matches!(store.read(&JobId::warm(1)), Err(StoreError::Foreign { found, .. }) if found == id("job"))
    );
    assert_eq!(store.unfinished_claims().unwrap(), [id("job")]);
    assert_eq!(store.owner_of(&task()).unwrap(), Some(JobId::warm(1)));
    // Another job's lease does not touch it.
    drop(store.try_lease(&id("other"), "prepare").unwrap());
    assert_eq!(store.unfinished_claims().unwrap(), [id("job")]);
    assert_eq!(store.read(&id("job")).unwrap(), None);

    let lease = store.try_lease(&id("job"), "reap").unwrap();
    // The key is still there: a sweep finds the snapshot.
    store.sweep(&id("job"), &lease).unwrap();
    assert_eq!(store.read(&id("job")).unwrap(), Some(job));
    assert_eq!(fs::read_to_string(store.key_path(&id("job"))).unwrap(), "secret");
    assert!(store.unfinished_claims().unwrap().is_empty());
    assert_eq!(store.owner_of(&task()).unwrap(), Some(id("job")));
    // What is left of the warm task is swept as any job's files are.
    assert_eq!(store.orphaned_files().unwrap(), [JobId::warm(1)]);
    let of_warm = store.try_lease(&JobId::warm(1), "reap").unwrap();
    store.sweep(&JobId::warm(1), &of_warm).unwrap();
    drop((lease, of_warm));
    assert_eq!(names(store.directory()), ["job.key", "job.lock", "job.ron"]);
}

#[test]
fn a_task_that_moves_while_owners_are_read_is_still_owned() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_place, store, _, job) = runtime.block_on(with_warm_task());
    let looking = store.clone();
    let (ready, begun) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut owners = Vec::new();
        while owners.last() != Some(&Some(id("job"))) {
            owners.push(looking.owner_of(&task()).unwrap());
            let _ = ready.send(());
            assert!(owners.last().unwrap().is_some(), "after {} looks", owners.len());
        }
    });
    begun.recv().unwrap();
    runtime.block_on(claim(&store, &job)).unwrap();
    reading.join().unwrap();
}

#[tokio::test]
async fn a_snapshot_of_a_newer_driver_keeps_its_task() {
    let (_place, store, _, job) = with_warm_task().await;
    let newer = job.to_ron().unwrap().replacen("version: 2", "version: 9", 1);
    fs::write(store.snapshot_path(&id("job")), newer).unwrap();
    fs::remove_file(store.snapshot_path(&JobId::warm(1))).unwrap();
    assert_eq!(store.owner_of(&task()).unwrap(), Some(id("job")));
    // One that cannot be continued by any driver keeps none.
    fs::write(store.snapshot_path(&id("job")), format!("torn {}", task())).unwrap();
    assert_eq!(store.owner_of(&task()).unwrap(), None);
}
