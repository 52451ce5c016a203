//! A disk that is full for a moment. New work must be on record; running scripts continue.

use std::time::Duration;

use states::{Outcome, RunOutcome};

use crate::world::{cloud::Cloud, fault_plan::FaultPlan, manager::Manager};

/// Runs the script while the disk is full from `from` to `to` seconds after its stage began.
async fn run_with_full_disk(script: &str, from: u64, to: u64) -> Option<Outcome> {
    let manager = Manager::new(Cloud::new(FaultPlan::new(0)));
    manager.prepare(&mut manager.io()).await;
    let mut io = manager.io();
    let cloud = manager.cloud.clone();
    let refuse = |odds| cloud.state.lock().unwrap().faults.odds.unsaved = odds;
    let fills = async {
        tokio::time::sleep(Duration::from_secs(from)).await;
        refuse(1.0);
        tokio::time::sleep(Duration::from_secs(to - from)).await;
        refuse(0.0);
    };
    let (outcome, ()) = tokio::join!(manager.run("build_script", script, &mut io), fills);
    outcome
}

fn assert_succeeded(outcome: Option<Outcome>) {
    let Some(Outcome::Reachable(Some(finished))) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(finished.outcome, RunOutcome::Exited { code: 0, .. }), "{finished:?}");
}

#[tokio::test(start_paused = true)]
async fn a_script_with_output_continues() {
    assert_succeeded(
        run_with_full_disk(&format!("#! 1000 0 0\n{}", "a line\n".repeat(20)), 5, 9).await,
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_script_continues() {
    assert_succeeded(run_with_full_disk("#! 15000 0 0\na line\n", 5, 9).await);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_ends_meanwhile_keeps_its_exit_status() {
    assert_succeeded(
        run_with_full_disk(&format!("#! 1000 0 0\n{}", "a line\n".repeat(7)), 5, 60).await,
    );
}
