//! Stages of other jobs archive jobs that only wait for their tasks' end, without delay for
//! themselves.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use states::*;
use tokio::time::Instant;

use crate::{
    changed_control::ChangedControl,
    world::{
        cloud::Cloud,
        fault_plan::TaskPlan,
        manager::{Manager, header},
    },
};

/// More steps than a `prepare` has.
const POINTS: u32 = 500;

/// A job that `cleanup` ended `ago`.
async fn ended_job(manager: &Manager, job: &str, ago: Duration) -> Manager {
    let ended = manager.of_job(job);
    assert_eq!(ended.prepare(&mut ended.io()).await, Some(Outcome::Reachable(None)));
    assert_eq!(
        ended.cleanup(&mut ended.io()).await,
        Some(Some(Outcome::Stopping(StopReason::Cleanup)))
    );
    tokio::time::sleep(ago).await;
    ended
}

fn is_archived(manager: &Manager) -> bool {
    let of_job = |snapshot: &&Snapshot| snapshot.job.header().id == manager.job;
    let archived = manager.disk.store.archived().iter().filter(of_job).count();
    let waits = manager.snapshot().is_some();
    assert_eq!(archived + usize::from(waits), 1, "it is in one place");
    archived == 1
}

/// The duration of another job's `prepare`, and the sizes of its DescribeTasks calls.
async fn prepare(manager: &Manager, job: &str) -> (Duration, Vec<usize>) {
    let before = manager.cloud.state.lock().unwrap().described.len();
    let (job, began) = (manager.of_job(job), Instant::now());
    assert_eq!(job.prepare(&mut job.io()).await, Some(Outcome::Reachable(None)));
    (began.elapsed(), manager.cloud.state.lock().unwrap().described[before..].to_vec())
}

#[tokio::test(start_paused = true)]
async fn cleanup_does_not_wait_for_the_end_of_the_task() {
    let manager = Manager::new(Arc::default());
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let (began, calls) = (Instant::now(), manager.cloud.state.lock().unwrap().calls);
    assert_eq!(
        manager.cleanup(&mut manager.io()).await,
        Some(Some(Outcome::Stopping(StopReason::Cleanup)))
    );
    // The world's calls take 30 ms each.
    assert_eq!(
        (manager.cloud.state.lock().unwrap().calls - calls, began.elapsed()),
        (1, Duration::from_millis(30))
    );
    assert!(manager.cloud.alive().is_empty() && !is_archived(&manager));
    let waited = manager.cleanup_and_wait(&mut manager.io()).await;
    assert_eq!(waited, Some(Some(Outcome::Ended(StopReason::Cleanup))));
    assert!(is_archived(&manager));
    assert_eq!(manager.cleanup(&mut manager.io()).await, Some(None));
}

#[tokio::test(start_paused = true)]
async fn another_jobs_stage_archives_an_ended_job_without_delay() {
    let (alone, alone_calls) = prepare(&Manager::new(Arc::default()), "job-2").await;
    let manager = Manager::new(Arc::default());
    let ended = ended_job(&manager, "job-1", Duration::from_secs(5)).await;
    let (took, calls) = prepare(&manager, "job-2").await;
    assert!(is_archived(&ended));
    assert_eq!((took, calls.len()), (alone, alone_calls.len()));
    assert_eq!(calls[..2], [2, 1], "it is taken along once");
    let archived = manager.disk.store.archived();
    assert!(
        matches!(&archived[0].job, AnyJob::Stopping(job) if job.state.is_over() && job.state.reason == StopReason::Cleanup)
    );
    assert!(matches!(archived[0].replay(), Verdict::Agree { .. }), "{:?}", archived[0].replay());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_not_ended_is_described_again_later() {
    let manager = Manager::new(Arc::default());
    let ended = ended_job(&manager, "job-1", Duration::ZERO).await;
    let before = ended.snapshot().unwrap();
    let slow = TaskPlan {
        runs_after: Some(Duration::from_secs(3)),
        listens_after: Some(Duration::from_secs(3)),
        ..TaskPlan::default()
    };
    let slower = TaskPlan {
        runs_after: Some(Duration::from_secs(30)),
        listens_after: Some(Duration::from_secs(30)),
        ..TaskPlan::default()
    };
    manager.cloud.state.lock().unwrap().faults.task_plans = vec![TaskPlan::default(), slow, slower];
    prepare(&manager, "job-2").await;
    assert!(!is_archived(&ended));
    assert_eq!(ended.snapshot(), Some(before));
    manager.cloud.state.lock().unwrap().tasks.get_mut("task/0000").unwrap().stopped =
        Some(Instant::now());
    let (_, calls) = prepare(&manager, "job-3").await;
    let with_it: Vec<usize> = (0..calls.len()).filter(|call| calls[*call] == 2).collect();
    assert!(is_archived(&ended) && with_it.len() == 2 && with_it[1] - with_it[0] > 3, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_of_another_process_is_not_archived() {
    let manager = Manager::new(Arc::default());
    let ended = ended_job(&manager, "job-1", Duration::from_secs(5)).await;
    let lease =
        manager.process().store().lease(&ended.job, "cleanup", Duration::ZERO).await.unwrap();
    prepare(&manager, "job-2").await;
    assert!(!is_archived(&ended));
    drop(lease);
    prepare(&manager, "job-3").await;
    assert!(is_archived(&ended));
}

/// The note is a hint: the snapshot decides, once its lease is held.
#[tokio::test(start_paused = true)]
async fn an_outdated_note_archives_nothing() {
    let manager = Manager::new(Arc::default());
    let ended = ended_job(&manager, "job-1", Duration::from_secs(5)).await;
    let note = ended.process().store().ending_jobs(100).await.remove(0);
    let waits = ended.snapshot().unwrap();
    let goes_on = manager.of_job("job-2");
    assert_eq!(goes_on.prepare(&mut goes_on.io()).await, Some(Outcome::Reachable(None)));
    assert!(is_archived(&ended));
    // Its next attempt has begun: a job in another state with the same id.
    let engine = ended.process();
    let AnyJob::Reachable(mut job) = goes_on.snapshot().unwrap().job else { panic!() };
    job.header = waits.job.header().clone();
    let next_attempt = Snapshot { job: job.into(), ..Snapshot::new(waits.job.header().clone()) };
    let lease = engine.store().lease(&ended.job, "test", Duration::ZERO).await.unwrap();
    engine.store().save(&lease, &next_attempt).await.unwrap();
    engine.store().note_ending(&lease, &waits).await.unwrap();
    drop(lease);
    let answers = engine.control().describe("c", &note.tasks).await.unwrap();
    assert_eq!(engine.conclude(&ended.job, "reap", &answers).await.unwrap(), Concluded::NotYet);
    assert_eq!(ended.snapshot(), Some(next_attempt));
    // A note without a snapshot is removed.
    manager.disk.store.remove(&ended.job);
    assert_eq!(engine.conclude(&ended.job, "reap", &answers).await.unwrap(), Concluded::Gone);
    assert!(engine.store().ending_jobs(100).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn more_jobs_than_fit_a_call_are_archived_by_several() {
    let manager = Manager::new(Arc::default());
    let jobs: Vec<Manager> = {
        let engine = Arc::new(manager.process());
        let mut ending = tokio::task::JoinSet::new();
        for n in 0..150 {
            let (engine, job) = (Arc::clone(&engine), manager.of_job(&format!("ended-{n:03}")));
            ending.spawn(async move {
                let lease = engine.store().lease(&job.job, "test", Duration::ZERO).await.unwrap();
                let mut work = engine.begin(header(&job.job), lease);
                engine.open(&mut work, "prepare").await;
                engine.drive(&mut work, Goal::Reach, &mut job.io()).await.unwrap();
                engine.request_stop(&mut work, StopReason::Cleanup);
                assert_eq!(
                    engine.drive(&mut work, Goal::Stop, &mut job.io()).await.unwrap(),
                    Outcome::Stopping(StopReason::Cleanup)
                );
                job
            });
        }
        ending.join_all().await
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut sizes = Vec::new();
    for n in 0..8 {
        sizes.extend(prepare(&manager, &format!("next-{n}")).await.1);
    }
    assert_eq!(sizes.iter().max(), Some(&100));
    assert!(
        jobs.iter().all(is_archived),
        "{} are not archived",
        jobs.iter().filter(|job| !is_archived(job)).count()
    );
}

/// A job's `prepare` while ECS refuses calls with other jobs' tasks. Returns the sizes of its calls
/// and its own failures.
async fn prepare_refused(kind: ControlErrorKind) -> (Vec<usize>, usize) {
    let manager = Manager::new(Arc::<Cloud>::default());
    let ended = ended_job(&manager, "job-1", Duration::from_secs(5)).await;
    let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
    let counted = Arc::clone(&asked);
    let refuse = move |tasks: &[TaskArn]| {
        counted.lock().unwrap().push(tasks.len());
        (tasks.len() > 1).then(|| ControlError {
            operation: "DescribeTasks".to_owned(),
            kind,
            code: None,
            message: "refused".to_owned(),
            cause: Default::default(),
        })
    };
    let engine =
        ChangedControl::process(&manager, |control| control.refuses_describe = Box::new(refuse));
    let job = manager.of_job("job-2");
    let lease = engine.store().lease(&job.job, "prepare", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&job.job), lease);
    engine.open(&mut work, "prepare").await;
    assert_eq!(
        engine.drive(&mut work, Goal::Reach, &mut job.io()).await.unwrap(),
        Outcome::Reachable(None)
    );
    assert!(!is_archived(&ended));
    let failures = work
        .snapshot
        .journal
        .unfold()
        .iter()
        .filter(|(_, saw)| matches!(saw, Observation::DescribeFailed(_)))
        .count();
    let asked = asked.lock().unwrap().clone();
    (asked, failures)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_because_of_other_jobs_does_not_fail_the_stage() {
    for kind in [
        ControlErrorKind::BadAnswer,
        ControlErrorKind::Denied,
        ControlErrorKind::WrongSetting,
        ControlErrorKind::Other,
    ] {
        let (asked, failures) = prepare_refused(kind).await;
        assert_eq!((&asked[..2], failures), (&[2, 1][..], 0), "{kind:?}");
        assert!(
            asked[2..].iter().all(|tasks| *tasks == 1),
            "no other task is described any more: {asked:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_not_repeated_at_once() {
    let (asked, failures) = prepare_refused(ControlErrorKind::Throttled).await;
    assert!(asked[0] == 2 && failures >= 1, "{asked:?}");
}

/// A process dies at any step while it archives another job. The next process does it, and its own
/// job continues.
#[tokio::test(start_paused = true)]
async fn a_job_whose_archiver_dies_is_archived_by_the_next_stage() {
    for point in 1..POINTS {
        let manager = Manager::new(Arc::default());
        let ended = ended_job(&manager, "job-1", Duration::from_secs(5)).await;
        let next = manager.of_job("job-2");
        next.crash.set(point);
        let died = next.prepare(&mut next.io()).await.is_none();
        next.crash.set(0);
        if died {
            assert_eq!(
                next.prepare(&mut next.io()).await,
                Some(Outcome::Reachable(None)),
                "died at step {point}"
            );
        }
        assert!(is_archived(&ended), "died at step {point}");
        assert_eq!(manager.cloud.alive().len(), 1, "died at step {point}");
        assert!(
            manager.process().store().ending_jobs(100).await.is_empty(),
            "died at step {point}"
        );
        if !died {
            return;
        }
    }
    panic!("`prepare` has more than {POINTS} steps");
}
