//! Cancels: a stage that gitlab-runner cancels ends soon, and leaves no task or script that was not
//! asked to end.

use std::time::Duration;

use bytes::Bytes;
use states::*;
use tokio::{sync::watch, time::Instant};

use crate::{
    changed_control::ChangedControl,
    world::{
        cloud::Cloud,
        fault_plan::FaultPlan,
        manager::{Manager, header},
    },
};

/// Cancels a `prepare` after this time. Returns how it ends, and how long after that.
async fn prepare_cancelled(faults: FaultPlan, after: Duration) -> (Manager, Outcome, Duration) {
    let manager = Manager::new(Cloud::new(faults));
    let mut io = manager.io();
    let at = Instant::now() + after;
    io.cancel_at = Some(at);
    let outcome = manager.prepare(&mut io).await.unwrap();
    (manager, outcome, at.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_prepare_ends_at_once_and_stops_its_task() {
    for after in [100, 3000, 9000].map(Duration::from_millis) {
        let (manager, outcome, took) = prepare_cancelled(FaultPlan::new(0), after).await;
        assert_eq!(outcome, Outcome::MustEnd(StopReason::Cancelled));
        assert!(took < Duration::from_millis(500), "{took:?} after the cancel");
        assert_eq!(manager.cloud.alive(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_prepare_repeats_a_refused_stop() {
    let mut faults = FaultPlan::new(0);
    faults.api_down = Duration::from_secs(5)..Duration::from_secs(9);
    let (manager, outcome, took) = prepare_cancelled(faults, Duration::from_secs(6)).await;
    assert_eq!(outcome, Outcome::MustEnd(StopReason::Cancelled));
    assert_eq!(
        manager.cloud.alive(),
        [""; 0],
        "StopTask was refused once, and not asked for again"
    );
    assert!(took < Duration::from_secs(10), "{took:?} after the cancel");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_waits_for_a_silent_connection_for_seconds_only() {
    let mut faults = FaultPlan::new(0);
    faults.network_down = Duration::from_secs(14)..Duration::from_secs(16);
    let start = Instant::now();
    let manager = Manager::new(Cloud::new(faults));
    assert_eq!(manager.prepare(&mut manager.io()).await, Some(Outcome::Reachable(None)));
    let mut io = manager.io();
    let at = start + Duration::from_secs(15);
    io.cancel_at = Some(at);
    let outcome = manager.run("build_script", &"a line\n".repeat(100), &mut io).await.unwrap();
    let Outcome::Reachable(Some(last)) = outcome else { panic!("{outcome:?}") };
    assert!(
        last.cancelled && matches!(last.outcome, RunOutcome::Exited { code: 143, .. }),
        "{last:?}"
    );
    assert!(at.elapsed() < Duration::from_secs(8), "{:?} after the cancel", at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_launch_without_an_answer_is_given_up() {
    let manager = Manager::new(Cloud::new(FaultPlan::new(0)));
    let engine = ChangedControl::process(&manager, |control| control.is_launch_silent = true);
    let lease = engine.store().lease(&manager.job, "prepare", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&manager.job), lease);
    engine.open(&mut work, "prepare").await;
    let start = Instant::now();
    let mut io = manager.io();
    io.cancel_at = Some(start + Duration::from_secs(1));
    let outcome = engine.drive(&mut work, Goal::Reach, &mut io).await.unwrap();
    assert_eq!(outcome, Outcome::MustEnd(StopReason::Cancelled));
    assert!(start.elapsed() < LONGEST_CALL + Duration::from_secs(5), "{:?}", start.elapsed());
    engine.request_stop(&mut work, StopReason::Cleanup);
    let outcome = engine.drive(&mut work, Goal::End, &mut io).await.unwrap();
    assert_eq!(outcome, Outcome::Ended(StopReason::Cancelled));
}

/// A container whose answers come in one queue: its answer to a signal is behind output that was
/// not read.
#[derive(Clone)]
struct Queue {
    left: watch::Sender<usize>,
    signalled: watch::Sender<bool>,
}

/// The number of pieces of output, and the time that each takes to arrive.
const PIECES: usize = 50;
const PIECE_EVERY: Duration = Duration::from_millis(10);

impl Transport for Queue {
    type Session = Self;
    async fn connect(&self, _: &Target) -> Result<(Self, Greeting), ConnectError> {
        let facts = ShellFacts {
            run_dir: "/tmp".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        };
        Ok((self.clone(), Greeting { identity: HostIdentity("a queue".into()), facts }))
    }
}

impl Session for Queue {
    type Run = Self;
    async fn start(&self, _: &RunOrder, _: Bytes) -> Result<Self, RunError> {
        Ok(self.clone())
    }
    async fn attach(&self, order: &RunOrder, _: u64) -> Result<Self, RunError> {
        Err(RunError::Unknown(order.run.to_string()))
    }
    async fn signal(&self, _: &RunOrder, _: Signal) -> Result<(), RunError> {
        let mut left = self.left.subscribe();
        left.wait_for(|left| *left == 0).await.unwrap();
        self.signalled.send_replace(true);
        Ok(())
    }
    async fn close(self) {}
}

impl Run for Queue {
    async fn next(&mut self) -> Result<RunEvent, RunError> {
        let left = *self.left.borrow();
        if left == 0 {
            self.signalled.subscribe().wait_for(|signalled| *signalled).await.unwrap();
            return Ok(RunEvent::Exited { code: 143, total: PIECES as u64 });
        }
        tokio::time::sleep(PIECE_EVERY).await;
        self.left.send_replace(left - 1);
        Ok(RunEvent::Output(Bytes::from_static(b".")))
    }
}

#[tokio::test(start_paused = true)]
async fn output_before_a_signals_answer_is_handed_on() {
    let manager = Manager::new(Cloud::new(FaultPlan::new(0)));
    let queue = Queue { left: watch::Sender::new(PIECES), signalled: watch::Sender::new(false) };
    let engine = manager.process_with(manager.control(), queue);
    let lease = engine.store().lease(&manager.job, "prepare", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&manager.job), lease);
    engine.open(&mut work, "prepare").await;
    assert_eq!(
        engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap(),
        Outcome::Reachable(None)
    );
    engine
        .request_run(
            &mut work,
            "build_script",
            Script { text: Bytes::new(), digest: "0".into() },
            RunContainer::Coordinator,
        )
        .unwrap();
    let (mut io, began) = (manager.io(), Instant::now());
    io.cancel_at = Some(began + 3 * PIECE_EVERY);
    let Outcome::Reachable(Some(last)) = engine.drive(&mut work, Goal::Run, &mut io).await.unwrap()
    else {
        panic!()
    };
    assert!(
        last.cancelled && last.outcome == RunOutcome::Exited { code: 143, total: PIECES as u64 },
        "{last:?}"
    );
    assert_eq!(io.output.len(), PIECES);
    let journal = work.snapshot.journal.unfold();
    assert!(
        !journal.iter().any(|(_, saw)| matches!(saw, Observation::RunFailed(_))),
        "{journal:#?}"
    );
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
