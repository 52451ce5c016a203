//! Random failures: calls that fail, answers that get lost, cancels. No task leaks.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use states::Outcome;

use crate::world::{cloud::Cloud, fault_plan::FaultPlan, manager::Manager};

#[tokio::test(start_paused = true)]
async fn no_task_leaks_through_lost_answers_and_cancels() {
    let (mut launched_twice, mut cancelled) = (0, 0);
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let manager = Manager::new(Cloud::failing(seed, random.random_range(0.05..0.7)));
        let mut io = manager.io();
        if random.random_bool(0.5) {
            io.cancel_at = Some(
                tokio::time::Instant::now() + Duration::from_millis(random.random_range(0..15_000)),
            );
            cancelled += 1;
        }
        let prepared = manager.prepare(&mut io).await.unwrap();
        if prepared == Outcome::Reachable(None) {
            let mut io = manager.io();
            manager.run("build_script", "a\nb\n", &mut io).await.unwrap();
        }
        // As often as gitlab-runner or an operator tries it. In the end ECS works again.
        for attempt in 0..20 {
            if attempt == 10 {
                manager.cloud.heal();
            }
            if !matches!(
                manager.cleanup(&mut manager.io()).await.unwrap(),
                Some(Outcome::Unfinished)
            ) {
                break;
            }
        }
        assert_eq!(manager.cloud.alive(), [""; 0], "seed {seed}");
        launched_twice += usize::from(manager.cloud.state.lock().unwrap().tasks.len() > 1);
        manager.cloud.heal();
        assert_eq!(manager.left_by_the_next_job().await, None, "seed {seed}");
    }
    assert_eq!(launched_twice, 0, "an unknown launch was launched beside");
    assert!(cancelled > 100);
}

#[tokio::test(start_paused = true)]
async fn no_task_leaks_when_processes_die_amid_faults() {
    let mut deaths = 0;
    for seed in 0..600 {
        let mut random = StdRng::seed_from_u64(seed);
        let manager = Manager::new(Cloud::failing(seed, random.random_range(0.1..0.6)));
        let mut prepared = None;
        for _ in 0..4 {
            manager.crash.set(random.random_range(1..60));
            prepared = manager.prepare(&mut manager.io()).await;
            if prepared.is_some() {
                break;
            }
            deaths += 1;
        }
        manager.crash.set(0);
        if prepared == Some(Outcome::Reachable(None)) {
            manager.run("build_script", "a\nb\n", &mut manager.io()).await.unwrap();
        }
        manager.cloud.heal();
        manager.cleanup(&mut manager.io()).await.unwrap();
        assert_eq!(manager.cloud.alive(), [""; 0], "seed {seed}");
        assert!(
            manager.cloud.state.lock().unwrap().tasks.len() <= 1,
            "seed {seed}: a second task was launched"
        );
        assert_eq!(manager.left_by_the_next_job().await, None, "seed {seed}");
    }
    assert!(deaths > 300, "{deaths}");
}

/// Found by the simulation: when a signal met a dead connection, output since the last journal
/// entry came twice.
#[tokio::test(start_paused = true)]
async fn a_cancel_on_a_silent_connection_repeats_no_output() {
    let mut faults = FaultPlan::new(0);
    faults.network_down = Duration::from_secs(13)..Duration::from_secs(19);
    let start = tokio::time::Instant::now();
    let manager = Manager::new(Cloud::new(faults));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let lines: String = (0..40).map(|line| format!("line {line}\n")).collect();
    let mut io = manager.io();
    io.cancel_at = Some(start + Duration::from_millis(12_990));
    // Three lines a second, so that several come between two entries.
    manager.run("build_script", &format!("#! 300 0 1\n{lines}"), &mut io).await.unwrap();
    let output = String::from_utf8(io.output).unwrap();
    assert!(lines.starts_with(&output) && output.lines().count() > 10, "{output}");
}
