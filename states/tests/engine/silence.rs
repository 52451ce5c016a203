//! A silent script: the snapshot is up to date all the same.

use std::time::Duration;

use states::{AnyJob, Link, Observation, Outcome, RunOutcome, StopReason, Verdict};

use crate::world::{cloud::Cloud, fault_plan::FaultPlan, manager::Manager};

#[tokio::test(start_paused = true)]
async fn a_silent_script_is_on_record_as_running() {
    let manager = Manager::new(Cloud::new(FaultPlan::new(0)));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let mut io = manager.io();
    let run =
        manager.run("build_script", "#! 3600000 0 0\nthe first line, after an hour\n", &mut io);
    let looked = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        manager.snapshot().unwrap()
    };
    let snapshot = tokio::select! {
        ended = run => panic!("it ended: {ended:?}"),
        snapshot = looked => snapshot,
    };
    let AnyJob::Executing(job) = &snapshot.job else { panic!("{snapshot:#?}") };
    assert!(job.state.started && job.state.link == Link::Up, "{job:#?}");
    assert_eq!(
        snapshot.journal.entries.last().map(|entry| &entry.saw),
        Some(&Observation::Delivered)
    );
}

/// A script is silent for twelve hours, while each connection is lost after this time.
async fn silent_for_hours(connections_live: Duration) -> (Manager, Option<Outcome>) {
    let manager = Manager::new(Cloud::new(FaultPlan::new(0)));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    manager.cloud.state.lock().unwrap().faults.connections_live = Some(connections_live);
    let outcome = manager
        .run(
            "build_script",
            "#! 43200000 0 0\nthe first line, after twelve hours\n",
            &mut manager.io(),
        )
        .await;
    (manager, outcome)
}

#[tokio::test(start_paused = true)]
async fn a_silent_script_outlives_any_number_of_connections_that_worked() {
    let (manager, outcome) = silent_for_hours(Duration::from_secs(600)).await;
    let Some(Outcome::Reachable(Some(finished))) = &outcome else { panic!("{outcome:?}") };
    assert!(matches!(finished.outcome, RunOutcome::Exited { code: 0, .. }), "{finished:?}");
    let snapshot = manager.snapshot().unwrap();
    let lost = snapshot
        .journal
        .unfold()
        .iter()
        .filter(|(_, saw)| matches!(saw, Observation::RunFailed(_)))
        .count();
    assert!(lost > 60, "{lost} connections were lost");
    assert!(matches!(snapshot.replay(), Verdict::Agree { .. }), "{:?}", snapshot.replay());
}

#[tokio::test(start_paused = true)]
async fn a_silent_script_with_connections_of_a_second_is_given_up() {
    let (_, outcome) = silent_for_hours(Duration::from_secs(1)).await;
    assert!(matches!(&outcome, Some(Outcome::MustEnd(StopReason::RunAbandoned(_)))), "{outcome:?}");
}
