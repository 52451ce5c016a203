//! A script is killed, and its task ends. In any order, the task's end is the reason.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use states::*;
use tokio::time::Instant;

use crate::{
    changed_control::ChangedControl,
    world::{cloud::Cloud, fault_plan::FaultPlan, manager::Manager},
};

/// Returns how a job ends. Its script ends after two seconds, with this exit status or none. ECS
/// reports its task as ending `ending` after the script's start, if ever.
async fn ended(status: Option<i32>, ending: Option<Duration>) -> Outcome {
    let mut faults = FaultPlan::new(0);
    faults.odds.no_status = if status.is_some() { 0.0 } else { 1.0 };
    ended_in(RunContainer::Coordinator, faults, status, ending).await
}

async fn ended_in(
    container: RunContainer,
    faults: FaultPlan,
    status: Option<i32>,
    ending: Option<Duration>,
) -> Outcome {
    ended_throttled(0, container, faults, status, ending).await
}

/// The same; the first `throttled` calls of DescribeTasks fail.
async fn ended_throttled(
    throttled: u32,
    container: RunContainer,
    faults: FaultPlan,
    status: Option<i32>,
    ending: Option<Duration>,
) -> Outcome {
    let manager = Manager::new(Cloud::new(faults));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let from = ending.map(|after| Instant::now() + after);
    // From then on ECS reports all tasks as stopping. Their containers answer as before.
    let end = move |answer: &mut Described| {
        if let Seen::Task(report) = &mut answer.seen
            && from.is_some_and(|from| Instant::now() >= from)
        {
            report.stop_desired = true;
            report.stopped = Some(Stopped {
                code: Some("SpotInterruption".into()),
                reason: Some("Your Spot Task was interrupted.".into()),
            });
        }
    };
    let called = AtomicU32::new(0);
    let refuse = move |_: &[TaskArn]| {
        (called.fetch_add(1, Ordering::Relaxed) < throttled).then(|| ControlError {
            operation: "DescribeTasks".to_owned(),
            kind: ControlErrorKind::Throttled,
            code: Some("ThrottlingException".to_owned()),
            message: "Rate exceeded".to_owned(),
            cause: ControlCause::default(),
        })
    };
    let engine = ChangedControl::process(&manager, |control| {
        control.changes_answer = Box::new(end);
        control.refuses_describe = Box::new(refuse);
    });
    let lease = engine.store().lease(&manager.job, "build_script", Duration::ZERO).await.unwrap();
    let mut work = engine.work(engine.store().load(&manager.job).await.unwrap().unwrap(), lease);
    engine.open(&mut work, "build_script").await;
    // A script without a status vanishes within five seconds.
    let text = format!(
        "#! 1000 {} 0\n{}",
        status.unwrap_or(0),
        "a line\n".repeat(if status.is_some() { 2 } else { 10 })
    );
    let script = Script { digest: text.clone(), text: Bytes::from(text) };
    engine.request_run(&mut work, "build_script", script, container).unwrap();
    engine.drive(&mut work, Goal::Run, &mut manager.io()).await.unwrap()
}

fn is_explained(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::MustEnd(StopReason::TaskStopped { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_script_killed_with_its_task_is_not_a_script_failure() {
    for status in [137, 143] {
        let outcome = ended(Some(status), Some(Duration::ZERO)).await;
        assert!(is_explained(&outcome), "{status}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_exit_statuses_are_always_the_scripts_own() {
    for (status, ending) in [
        (143, None),
        (137, None),
        (3, Some(Duration::ZERO)),
        (0, Some(Duration::ZERO)),
        (139, Some(Duration::ZERO)),
    ] {
        let outcome = ended(Some(status), ending).await;
        let Outcome::Reachable(Some(last)) = &outcome else { panic!("{status}: {outcome:?}") };
        assert!(
            matches!(last.outcome, RunOutcome::Exited { code, .. } if code == status),
            "{status}: {last:?}"
        );
    }
}

/// ECS learns of a crash a moment after the container's processes are gone.
#[tokio::test(start_paused = true)]
async fn processes_that_vanish_with_their_task_are_explained() {
    for after in [Duration::ZERO, Duration::from_secs(1)] {
        let outcome = ended(None, Some(after)).await;
        assert!(is_explained(&outcome), "{after:?}: {outcome:?}");
    }
    let outcome = ended(None, None).await;
    assert!(
        matches!(&outcome, Outcome::Reachable(Some(last)) if matches!(last.outcome, RunOutcome::Failed(_))),
        "{outcome:?}"
    );
}

/// The job's container ends the task with it, but the coordinator still answers.
#[tokio::test(start_paused = true)]
async fn a_script_that_the_jobs_container_cannot_start_any_more_is_explained() {
    let refused = async |container, ending| {
        let mut faults = FaultPlan::new(0);
        faults.odds.not_started = 1.0;
        ended_in(container, faults, Some(0), ending).await
    };
    for after in [Duration::ZERO, Duration::from_secs(1)] {
        let outcome = refused(RunContainer::Job, Some(after)).await;
        assert!(is_explained(&outcome), "{after:?}: {outcome:?}");
    }
    for (container, ending) in
        [(RunContainer::Job, None), (RunContainer::Coordinator, Some(Duration::ZERO))]
    {
        let outcome = refused(container, ending).await;
        assert!(
            matches!(&outcome, Outcome::Reachable(Some(last)) if matches!(last.outcome, RunOutcome::Failed(RunError::NotStarted(_)))),
            "{outcome:?}"
        );
    }
}

/// Only ECS knows why the processes are gone, so its answer is worth some seconds.
#[tokio::test(start_paused = true)]
async fn ecs_is_asked_again_while_its_calls_are_throttled() {
    let killed = async |throttled, status: Option<i32>| {
        let mut faults = FaultPlan::new(0);
        faults.odds.no_status = if status.is_some() { 0.0 } else { 1.0 };
        let (container, ending) = (RunContainer::Coordinator, Some(Duration::ZERO));
        ended_throttled(throttled, container, faults, status, ending).await
    };
    for status in [Some(137), Some(143), None] {
        let outcome = killed(6, status).await;
        assert!(is_explained(&outcome), "{status:?}: {outcome:?}");
    }
    // A verdict does not wait for an answer that never comes.
    let began = Instant::now();
    let outcome = killed(u32::MAX, Some(137)).await;
    assert!(matches!(outcome, Outcome::Reachable(Some(_))), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
