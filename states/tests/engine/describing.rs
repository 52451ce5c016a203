//! Many jobs in one engine share DescribeTasks calls.

use std::{sync::Arc, time::Duration};

use states::{Goal, JobId, Observation, Outcome, SnapshotStore, TaskControl};

use crate::{
    changed_control::ChangedControl,
    world::{
        cloud::Cloud,
        fault_plan::{LISTENING_AFTER, RUNNING_AFTER},
        manager::{Manager, ProcessWith, header},
    },
};

/// Jobs that are prepared at once.
const JOBS: usize = 1000;

#[tokio::test(start_paused = true)]
async fn a_thousand_jobs_share_their_calls() {
    let manager = Manager::new(Arc::<Cloud>::default());
    let engine = Arc::new(manager.process());
    let mut jobs = tokio::task::JoinSet::new();
    for n in 0..JOBS {
        let (engine, manager) = (Arc::clone(&engine), manager.clone());
        jobs.spawn(async move {
            // A manager does not get all its jobs at the same moment.
            tokio::time::sleep(Duration::from_millis(n as u64 * 3)).await;
            let job = JobId::new(format!("job-{n}")).unwrap();
            let lease = engine.store().lease(&job, "test", Duration::ZERO).await.unwrap();
            let mut work = engine.begin(header(&job), lease);
            engine.open(&mut work, "prepare").await;
            engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap()
        });
    }
    for outcome in jobs.join_all().await {
        assert_eq!(outcome, Outcome::Reachable(None));
    }
    let state = manager.cloud.state.lock().unwrap();
    let (calls, described): (usize, usize) = (state.described.len(), state.described.iter().sum());
    assert!(state.described.iter().all(|tasks| *tasks <= 100), "more than 100 tasks in a call");
    // Each task is described at most every three seconds, in calls that are nearly full.
    let each = described as f64 / JOBS as f64;
    assert!(each <= RUNNING_AFTER.as_secs_f64() / 0.4, "{each} descriptions of each task");
    assert!(described / calls >= 60, "{calls} calls for {described} descriptions");
}

#[tokio::test(start_paused = true)]
async fn a_single_job_waits_for_no_other() {
    let manager = Manager::new(Arc::<Cloud>::default());
    let start = tokio::time::Instant::now();
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let took = start.elapsed();
    assert!(
        took < LISTENING_AFTER + Duration::from_millis(400),
        "reachable {took:?} after the start, the container listens after {LISTENING_AFTER:?}"
    );
}

/// Drives a job for this time, and then drops it.
async fn prepare_for<C: TaskControl>(
    manager: &Manager,
    engine: &ProcessWith<C>,
    job: &str,
    time: Duration,
) {
    let job = JobId::new(job).unwrap();
    let lease = engine.store().lease(&job, "test", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&job), lease);
    engine.open(&mut work, "prepare").await;
    let mut io = manager.io();
    _ = tokio::time::timeout(time, engine.drive(&mut work, Goal::Reach, &mut io)).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_given_up_is_not_described() {
    let manager = Manager::new(Arc::<Cloud>::default());
    let engine = manager.process();
    let gone = Duration::from_secs(5);
    let described = |manager: &Manager| manager.cloud.state.lock().unwrap().described.clone();
    let (long, (), before) = tokio::join!(
        prepare_for(&manager, &engine, "job-1", Duration::from_secs(60)),
        prepare_for(&manager, &engine, "job-2", gone),
        async {
            tokio::time::sleep(gone).await;
            described(&manager).len()
        }
    );
    let () = long;
    let all = described(&manager);
    assert!(all[..before].contains(&2), "they never shared a call: {all:?}");
    assert!(
        all.len() > before && all[before..].iter().all(|tasks| *tasks == 1),
        "after call {before}: {all:?}"
    );
}

/// The service hosts many jobs. Each may be cancelled, or reach its container, in the middle of the
/// call that it makes for all of them.
#[tokio::test(start_paused = true)]
async fn a_shared_call_that_its_job_gives_up_fails_for_no_other() {
    let manager = Manager::new(Arc::<Cloud>::default());
    let takes = Duration::from_secs(1);
    let engine =
        Arc::new(ChangedControl::process(&manager, |control| control.describes_within = takes));
    let mut others = tokio::task::JoinSet::new();
    for n in 1..40 {
        let (engine, manager) = (Arc::clone(&engine), manager.clone());
        let time = Duration::from_millis(1500 + 200 * n);
        others.spawn(async move {
            prepare_for(&manager, &engine, &format!("other-{n}"), time).await;
        });
    }
    let lease = engine.store().lease(&manager.job, "test", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&manager.job), lease);
    engine.open(&mut work, "prepare").await;
    let outcome = engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap();
    assert_eq!(outcome, Outcome::Reachable(None));
    others.join_all().await;
    let failures = work
        .snapshot
        .journal
        .entries
        .iter()
        .filter(|entry| matches!(entry.saw, Observation::DescribeFailed(_)));
    assert_eq!(failures.count(), 0, "{:?}", work.snapshot.journal);
}
