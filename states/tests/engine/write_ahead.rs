//! Write-ahead: an effect that the world would remember is on disk before it happens. Checked after
//! a crash at every step.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use states::{AnyJob, Outcome, RunOutcome, Snapshot};
use tokio::time::Instant;

use crate::world::manager::Manager;

/// A limit above the number of the job's steps.
const POINTS: u32 = 2000;

/// A job whose first script succeeds. Its second one ignores SIGTERM, and is cancelled after this
/// time.
async fn job(manager: &Manager, cancel_after: Duration) -> Option<()> {
    assert_eq!(manager.prepare(&mut manager.io()).await?, Outcome::Reachable(None));
    manager.run("get_sources", "cloning\n", &mut manager.io()).await?;
    let mut io = manager.io();
    io.cancel_at = Some(Instant::now() + cancel_after);
    manager.run("build_script", "#! 300 0 1\none\ntwo\nthree\n", &mut io).await?;
    manager.cleanup(&mut manager.io()).await.map(drop)
}

/// What the snapshot misses of the world's state.
fn wrong(manager: &Manager, record: Option<&Snapshot>) -> Option<String> {
    let state = manager.cloud.state.lock().unwrap();
    let (arn, task) = state.tasks.iter().next()?;
    let Some(record) = record else {
        return Some("a task was launched, and no snapshot is there".to_owned());
    };
    match &record.job {
        AnyJob::Provisioning(job) if job.state.asked.is_none() => {
            return Some("a task was launched without a request".to_owned());
        }
        AnyJob::Provisioning(_) => {}
        other if other.task().is_none_or(|task| task.as_str() != arn) => {
            return Some(format!("the task is {:?}", other.task()));
        }
        _ => {}
    }
    for execution in &state.executions {
        let known = match &record.job {
            AnyJob::Executing(job) => job.state.order.run.as_str() >= execution.run.as_str(),
            AnyJob::Reachable(job) => job
                .state
                .last
                .as_ref()
                .is_some_and(|last| last.run.as_str() >= execution.run.as_str()),
            AnyJob::Stopping(_) => true,
            _ => false,
        };
        if !known {
            return Some(format!("{} runs, and the snapshot does not say so", execution.run));
        }
        let signalled = task
            .runs
            .get(&execution.run)
            .is_some_and(|run| run.as_ref().is_some_and(|run| run.signalled));
        if signalled && matches!(&record.job, AnyJob::Executing(job) if job.state.ending.is_none())
        {
            return Some(format!(
                "{} got a signal, and the snapshot does not say that it ends",
                execution.run
            ));
        }
    }
    let asked = matches!(&record.job, AnyJob::Stopping(job) if job.state.has_asked() || job.state.is_over());
    (task.stopped.is_some() && !asked)
        .then(|| "StopTask was called, and the snapshot does not say so".to_owned())
}

#[tokio::test(start_paused = true)]
async fn every_effect_is_on_record_whenever_the_process_dies() {
    // Shortly after the snapshot was saved for another reason, and long after.
    for milliseconds in [20, 200, 500, 2000] {
        dies_at_every_step(Duration::from_millis(milliseconds)).await;
    }
}

async fn dies_at_every_step(cancel_after: Duration) {
    for point in 1..POINTS {
        let manager = Manager::new(Arc::default());
        manager.crash.set(point);
        let died = job(&manager, cancel_after).await.is_none();
        let archived = manager.disk.store.archived().last().cloned();
        let record = manager.snapshot().or(archived);
        if let Some(wrong) = wrong(&manager, record.as_ref()) {
            panic!("died at step {point}: {wrong}: {record:#?}");
        }
        if !died {
            assert!(point > 100, "a job has more steps than {point}");
            return;
        }
    }
    panic!("a job has more than {POINTS} steps");
}

/// Each save waits for the disk, so an unchanged snapshot is not written again.
#[tokio::test(start_paused = true)]
async fn nothing_is_saved_twice() {
    let manager = Manager::new(Arc::default());
    job(&manager, Duration::from_millis(500)).await.unwrap();
    let waited = manager.cleanup_and_wait(&mut manager.io()).await;
    assert!(matches!(waited, Some(Some(Outcome::Ended(_)))), "{waited:?}");
    assert_eq!(manager.disk.saved_again.load(Ordering::Relaxed), 0);
    assert_eq!(manager.disk.store.archived().len(), 1);
}

/// When a stage ends, all observations are on disk, including those since the last save.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_stage_is_on_record() {
    for cancel_after in [20, 200, 500, 2000, 5000] {
        let manager = Manager::new(Arc::default());
        let on_record = || manager.snapshot().unwrap();
        manager.prepare(&mut manager.io()).await;
        assert!(matches!(&on_record().job, AnyJob::Reachable(job) if job.state.runs == 0));
        let mut io = manager.io();
        io.cancel_at = Some(Instant::now() + Duration::from_millis(cancel_after));
        let Some(Outcome::Reachable(Some(last))) =
            manager.run("build_script", "#! 300 0 1\none\ntwo\n", &mut io).await
        else {
            panic!()
        };
        let AnyJob::Reachable(job) = on_record().job else { panic!("{:#?}", on_record()) };
        assert_eq!(job.state.last, Some(last));
    }
}

/// A service sends a verdict before it saves a success, and may die then. gitlab-runner repeats
/// only failed stages: their scripts run again.
#[tokio::test(start_paused = true)]
async fn a_verdict_counts_even_if_its_process_dies_before_it_is_saved() {
    for (code, executions) in [(0, 1), (3, 2)] {
        let manager = Manager::new(Arc::default());
        manager.prepare(&mut manager.io()).await;
        let script = format!("#! 300 {code} 0\none\n");
        let ended = |outcome: &Outcome| {
            matches!(outcome, Outcome::Reachable(Some(last))
                if matches!(last.outcome, RunOutcome::Exited { code: found, .. } if found == code))
        };
        let first = manager.run_unsettled("get_sources", &script, &mut manager.io()).await.unwrap();
        assert!(ended(&first), "{first:?}");
        let is_saved = matches!(manager.snapshot().unwrap().job, AnyJob::Reachable(_));
        assert_eq!(is_saved, code != 0);
        let again = manager.run("get_sources", &script, &mut manager.io()).await.unwrap();
        assert!(ended(&again), "{again:?}");
        assert_eq!(manager.cloud.state.lock().unwrap().executions.len(), executions);
    }
}

/// This includes observations that changed nothing: they show people why nothing happened.
#[tokio::test(start_paused = true)]
async fn the_last_observation_is_on_record_when_a_stage_gives_up() {
    let manager = Manager::new(Arc::default());
    manager.prepare(&mut manager.io()).await;
    manager.cloud.state.lock().unwrap().faults.api_down = Duration::ZERO..Duration::MAX;
    let outcome = manager.cleanup(&mut manager.io()).await;
    assert!(matches!(outcome, Some(Some(Outcome::Unfinished))), "{outcome:?}");
    let on_record = manager.snapshot().unwrap();
    assert_eq!(on_record.journal.unfold().last().map(|(at, _)| *at), Some(manager.clock.now()));
}
