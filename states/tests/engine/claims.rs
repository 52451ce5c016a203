//! Jobs claim warm tasks: no two the same, and none is lost wherever a process dies.

use std::{sync::Arc, time::Duration};

use states::{
    Claiming, EngineError, Goal, Header, JobId, Outcome, PoolRole, Retirement, SnapshotStore as _,
    StopReason, WarmOrigin,
};

use crate::world::manager::{Manager, Process, header};

const POINTS: u32 = 50;

/// Launches a warm task.
async fn launch_warm(manager: &Manager, number: u64) -> JobId {
    let id = JobId::warm(number);
    let engine = manager.process();
    let lease = engine.store().lease(&id, "warm", Duration::ZERO).await.unwrap();
    let origin = WarmOrigin { pool: "p".into(), max_age: Duration::from_secs(60) };
    let header =
        Header { created: engine.clock().now(), pool: Some(PoolRole::Warm(origin)), ..header(&id) };
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, "warm").await;
    let outcome = engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap();
    assert_eq!(outcome, Outcome::Reachable(None));
    work.close().await;
    id
}

/// Claims as `prepare` does. Returns whether there was a warm task.
async fn claim(engine: &Process, job: &JobId) -> Result<bool, EngineError> {
    let lease = engine.store().lease(job, "prepare", Duration::ZERO).await?;
    if engine.store().load(job).await?.is_some() {
        return Ok(true);
    }
    let header = Header { created: engine.clock().now(), ..header(job) };
    match engine.claim(&header, lease, "prepare").await? {
        Claiming::None(_) => Ok(false),
        Claiming::Claimed(mut work) => {
            assert!(engine.answers(&mut work, Duration::from_secs(5)).await);
            work.close().await;
            Ok(true)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_that_waited_longest_goes_first_and_no_two_jobs_share_one() {
    let manager = Manager::new(Arc::default());
    for number in [3, 1, 2] {
        launch_warm(&manager, number).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Two processes at once.
    let (first, second) = (manager.of_job("job-a"), manager.of_job("job-b"));
    let engines = (first.process(), second.process());
    let claimed = tokio::join!(claim(&engines.0, &first.job), claim(&engines.1, &second.job));
    assert!(claimed.0.unwrap() && claimed.1.unwrap());
    let claim_of = |manager: &Manager| manager.snapshot().unwrap().claim().unwrap().clone();
    let mut warm = [claim_of(&first).warm, claim_of(&second).warm];
    warm.sort();
    assert_eq!(warm, [JobId::warm(1), JobId::warm(3)], "the youngest is left");
    let third = manager.of_job("job-c");
    assert!(claim(&third.process(), &third.job).await.unwrap());
    let fourth = manager.of_job("job-d");
    assert!(!claim(&fourth.process(), &fourth.job).await.unwrap(), "there were three");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_fit_is_left_alone() {
    let manager = Manager::new(Arc::default());
    let id = launch_warm(&manager, 1).await;
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "prepare", Duration::ZERO).await.unwrap();
    let mut other = header(&manager.job);
    other.spec.task_role = Some("deploy".into());
    let claimed = engine.claim(&other, lease, "prepare").await.unwrap();
    assert!(matches!(claimed, Claiming::None(_)));
    assert!(manager.disk.store.snapshot(&id).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_claimed_job_runs_scripts_in_its_task_and_ends_it() {
    let manager = Manager::new(Arc::default());
    launch_warm(&manager, 1).await;
    assert!(claim(&manager.process(), &manager.job).await.unwrap());
    let mut io = manager.io();
    let ran = manager.run("build_script", "one\ntwo\n", &mut io).await.unwrap();
    assert!(matches!(ran, Outcome::Reachable(Some(_))), "{ran:?}");
    assert_eq!(io.output, b"one\ntwo\n");
    manager.cleanup(&mut manager.io()).await.unwrap();
    assert_eq!(manager.cloud.alive(), [""; 0]);
    assert_eq!(manager.cloud.state.lock().unwrap().tasks.len(), 1, "nothing else was launched");
    assert_eq!(manager.left_by_the_next_job().await, None);
}

/// gitlab-runner calls `prepare` again, and then `cleanup`.
#[tokio::test(start_paused = true)]
async fn a_process_that_dies_in_a_claim_leaves_the_task_with_one_owner() {
    for point in 1..POINTS {
        let manager = Manager::new(Arc::default());
        let warm = launch_warm(&manager, 1).await;
        manager.crash.set(point);
        let process = manager.process();
        let died = tokio::select! {
            biased;
            () = manager.crash.crash() => true,
            claimed = claim(&process, &manager.job) => {
                assert!(claimed.unwrap());
                false
            }
        };
        manager.crash.set(0);
        let owners = [&warm, &manager.job].map(|id| manager.disk.store.snapshot(id).is_some());
        assert!(owners[0] != owners[1], "{owners:?}; died at step {point}");
        if died {
            assert!(claim(&manager.process(), &manager.job).await.unwrap(), "step {point}");
        }
        manager.cleanup(&mut manager.io()).await.unwrap();
        assert_eq!(manager.cloud.alive(), [""; 0], "a task was leaked; died at step {point}");
        if !died {
            assert!(point > 2, "a claim has more steps than {point}");
            return;
        }
    }
    panic!("a claim has more than {POINTS} steps");
}

#[tokio::test(start_paused = true)]
async fn a_claimed_task_that_has_ended_is_noticed_and_the_journal_says_why() {
    let manager = Manager::new(Arc::default());
    launch_warm(&manager, 1).await;
    for task in manager.cloud.state.lock().unwrap().tasks.values_mut() {
        task.stopped = Some(tokio::time::Instant::now());
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "prepare", Duration::ZERO).await.unwrap();
    let claimed = engine.claim(&header(&manager.job), lease, "prepare").await.unwrap();
    let Claiming::Claimed(mut work) = claimed else { panic!("the snapshot says that it is ready") };
    assert!(!engine.answers(&mut work, Duration::from_secs(5)).await);
    engine.request_stop(&mut work, StopReason::Retired(Retirement::Unusable));
    let outcome = engine.drive(&mut work, Goal::Stop, &mut manager.io()).await.unwrap();
    assert!(matches!(outcome, Outcome::Ended(_) | Outcome::Stopping(_)), "{outcome:?}");
    assert!(matches!(work.snapshot.replay(), states::Verdict::Agree { .. }));
}
