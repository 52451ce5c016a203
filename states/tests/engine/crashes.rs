//! Crashes: a process dies between any two of its effects on the world, and the next process
//! finishes its work.

use std::sync::Arc;

use states::{AnyJob, Outcome, RunOutcome, Snapshot};

use crate::world::manager::{Io, Manager};

const STAGES: [(&str, &str); 3] = [
    ("get_sources", "cloning\ndone\n"),
    ("build_script", "one\ntwo\nthree\nfour\n"),
    ("after_script", ""),
];

/// A limit above the number of a job's steps. The loop ends with the first that is never reached.
const POINTS: u32 = 2000;

fn exited_well(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Reachable(Some(last)) if matches!(last.outcome, RunOutcome::Exited { code: 0, .. }))
}

/// Calls the job's stages in order. `None` if a process died.
async fn whole_job(manager: &Manager, io: &mut Vec<Io>) -> Option<()> {
    io.push(manager.io());
    let prepared = manager.prepare(io.last_mut().unwrap()).await?;
    assert_eq!(prepared, Outcome::Reachable(None));
    for (stage, script) in STAGES {
        io.push(manager.io());
        let ran = manager.run(stage, script, io.last_mut().unwrap()).await?;
        assert!(exited_well(&ran), "{stage}: {ran:?}");
        assert_eq!(String::from_utf8_lossy(&io.last().unwrap().output), script);
    }
    io.push(manager.io());
    manager.cleanup(io.last_mut().unwrap()).await.map(drop)
}

/// Checks that no task of the job lives after `cleanup`, and that the manager's next process that
/// calls ECS archives the job.
async fn assert_nothing_is_left(manager: &Manager, point: u32) {
    assert_eq!(manager.cloud.alive(), [""; 0], "a task was leaked; died at step {point}");
    let of_job = |all: &[Snapshot]| {
        all.iter().filter(|snapshot| snapshot.job.header().id == manager.job).count()
    };
    let waits = manager.snapshot().is_some();
    let expected = of_job(&manager.disk.store.archived()) + usize::from(waits);
    assert!(expected <= 1);
    assert_eq!(
        manager.left_by_the_next_job().await,
        None,
        "a snapshot was left; died at step {point}"
    );
    let archived = manager.disk.store.archived();
    assert_eq!(of_job(&archived), expected, "died at step {point}");
    let is_over = |job: &AnyJob| matches!(job, AnyJob::Stopping(job) if job.state.is_over());
    assert!(
        archived.iter().all(|archived| is_over(&archived.job)),
        "{archived:?}; died at step {point}"
    );
}

fn assert_scripts_ran_once(manager: &Manager, point: u32) {
    let state = manager.cloud.state.lock().unwrap();
    assert!(
        state.tasks.len() <= 1,
        "{} tasks were launched; died at step {point}",
        state.tasks.len()
    );
    let mut runs: Vec<_> = state.executions.iter().map(|execution| &execution.run).collect();
    runs.sort();
    let all = runs.len();
    runs.dedup();
    assert_eq!(
        runs.len(),
        all,
        "a script ran more than once; died at step {point}: {:?}",
        state.executions
    );
    assert_eq!(state.violations, [""; 0], "died at step {point}");
}

/// gitlab-runner calls `cleanup` after a stage that failed.
#[tokio::test(start_paused = true)]
async fn cleanup_after_a_crash_at_any_point_leaves_nothing_behind() {
    for point in 1..POINTS {
        let manager = Manager::new(Arc::default());
        manager.crash.set(point);
        let died = whole_job(&manager, &mut Vec::new()).await.is_none();
        manager.crash.set(0);
        if !died {
            assert!(point > 100, "a job has more steps than {point}");
            assert_nothing_is_left(&manager, point).await;
            return;
        }
        let cleaned = manager.cleanup(&mut manager.io()).await.unwrap();
        // There may be no task yet, or no longer one.
        let expected = matches!(cleaned, None | Some(Outcome::Stopping(_) | Outcome::Ended(_)));
        assert!(expected, "{cleaned:?}; died at step {point}");
        assert_scripts_ran_once(&manager, point);
        assert_nothing_is_left(&manager, point).await;
    }
    panic!("a job has more than {POINTS} steps");
}

/// The stage that died is called again: the job continues as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn a_stage_repeated_after_a_crash_at_any_point_continues() {
    for point in 1..POINTS {
        let manager = Manager::new(Arc::default());
        manager.crash.set(point);
        let mut died = false;
        let mut io = manager.io();
        if manager.prepare(&mut io).await.is_none() {
            died = true;
            manager.crash.set(0);
            assert_eq!(
                manager.prepare(&mut io).await,
                Some(Outcome::Reachable(None)),
                "died at step {point}"
            );
        }
        for (stage, script) in STAGES {
            let mut first = manager.io();
            let Some(ran) = manager.run(stage, script, &mut first).await else {
                died = true;
                manager.crash.set(0);
                again(&manager, stage, script, &first.output, point).await;
                continue;
            };
            assert!(exited_well(&ran), "{stage}: {ran:?}; died at step {point}");
        }
        if manager.cleanup(&mut io).await.is_none() {
            died = true;
            manager.crash.set(0);
            manager.cleanup(&mut io).await.unwrap();
        }
        manager.crash.set(0);
        assert_scripts_ran_once(&manager, point);
        assert_nothing_is_left(&manager, point).await;
        if !died {
            return;
        }
    }
    panic!("a job has more than {POINTS} steps");
}

async fn again(manager: &Manager, stage: &str, script: &str, before: &[u8], point: u32) {
    let mut second = manager.io();
    let ran = manager.run(stage, script, &mut second).await.unwrap();
    assert!(exited_well(&ran), "{stage}: {ran:?}; died at step {point}");
    // The second process continues at the first one's mark. No output is missing. The last piece
    // comes twice if the crash was between handing it on and marking it.
    let from = script.len() - second.output.len();
    assert!(script.as_bytes().ends_with(&second.output), "died at step {point}");
    assert!(
        from <= before.len(),
        "{stage}: bytes {} to {from} are missing; died at step {point}",
        before.len()
    );
    let twice = String::from_utf8_lossy(&script.as_bytes()[from..before.len()]);
    assert!(twice.lines().count() <= 1, "{stage}: {twice:?} came twice; died at step {point}");
}
