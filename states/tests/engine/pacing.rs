//! Pacing: how often ECS is called while a task starts, and how soon a container that answers is
//! found.

use std::{sync::Arc, time::Duration};

use states::{
    ConnectTo, Goal, Outcome, Readiness, SnapshotStore as _, StateName, StopReason, TransportRecord,
};

use crate::world::{
    cloud::Cloud,
    fault_plan::{FaultPlan, TaskPlan},
    manager::{Manager, header},
};

/// When a task runs on Fargate, with an image of a gigabyte.
const RUNS_AFTER: Duration = Duration::from_secs(60);

/// Starts a job. Returns how long it took beyond `ready`, and the number of DescribeTasks calls.
async fn start(connect_to: ConnectTo, plan: TaskPlan, ready: Duration) -> (Duration, usize) {
    start_by(None, connect_to, plan, ready).await
}

/// The same with a transport that the job records.
async fn start_by(
    transport: Option<TransportRecord>,
    connect_to: ConnectTo,
    plan: TaskPlan,
    ready: Duration,
) -> (Duration, usize) {
    let mut faults = FaultPlan::new(0);
    faults.task_plans = vec![plan];
    let manager = Manager::new(Cloud::new(faults));
    let engine = Arc::new(manager.process());
    let lease = engine.store().lease(&manager.job, "test", Duration::ZERO).await.unwrap();
    let mut header = header(&manager.job);
    header.connect_to = connect_to;
    header.transport = transport;
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, "prepare").await;
    let began = tokio::time::Instant::now();
    let outcome = engine.drive(&mut work, Goal::Reach, &mut manager.io()).await.unwrap();
    assert_eq!(outcome, Outcome::Reachable(None));
    let calls = manager.cloud.state.lock().unwrap().described.len();
    (began.elapsed().saturating_sub(ready), calls)
}

#[tokio::test(start_paused = true)]
async fn an_ssh_server_is_found_at_once_with_few_calls_to_ecs() {
    for listens in [0, 300, 1100, 7000] {
        let listens = RUNS_AFTER + Duration::from_millis(listens);
        let plan = TaskPlan {
            runs_after: Some(RUNS_AFTER),
            listens_after: Some(listens),
            ..TaskPlan::default()
        };
        let (late, calls) = start(ConnectTo::PrivateAddress, plan, listens).await;
        assert!(late < Duration::from_millis(300), "reachable {late:?} after it listens");
        assert!(calls <= 23, "{calls} DescribeTasks calls in {listens:?}");
    }
}

/// The exec agent answers attempts by ECS Exec. It is RUNNING some seconds before it is connected.
#[tokio::test(start_paused = true)]
async fn an_exec_agent_is_found_at_once_with_few_calls_to_ecs() {
    for (agent, connects) in [(1000, 1000), (1300, 1900), (4700, 3100), (10_000, 5000)] {
        let agent = RUNS_AFTER + Duration::from_millis(agent);
        let connected = agent + Duration::from_millis(connects);
        let plan = TaskPlan {
            runs_after: Some(RUNS_AFTER),
            listens_after: Some(connected),
            agent_after: Some(agent),
            ..TaskPlan::default()
        };
        let (late, calls) = start(ConnectTo::NoAddress, plan, connected).await;
        assert!(
            late < Duration::from_millis(450),
            "reachable {late:?} after its agent is connected"
        );
        assert!(calls <= 55, "{calls} DescribeTasks calls in {connected:?}");
    }
}

/// Every transport is paced by what it declares.
#[tokio::test(start_paused = true)]
async fn a_container_without_address_or_agent_is_found_at_once() {
    let transport = TransportRecord {
        name: "pipes".into(),
        readiness: Readiness::Probed,
        attempt_timeout: Duration::from_secs(5),
    };
    let listens = RUNS_AFTER + Duration::from_secs(7);
    let plan = TaskPlan {
        runs_after: Some(RUNS_AFTER),
        listens_after: Some(listens),
        ..TaskPlan::default()
    };
    let (late, calls) = start_by(Some(transport), ConnectTo::NoAddress, plan, listens).await;
    assert!(late < Duration::from_millis(300), "reachable {late:?} after it listens");
    assert!(calls <= 30, "{calls} DescribeTasks calls in {listens:?}");
}

/// ExecuteCommand, the agent's worker and KMS may take long: the driver waits for their session.
#[tokio::test(start_paused = true)]
async fn an_ecs_exec_session_may_take_a_minute_to_begin() {
    let answers_in = Duration::from_secs(50);
    let plan = TaskPlan {
        agent_after: Some(RUNS_AFTER),
        runs_after: Some(RUNS_AFTER),
        answers_in,
        ..TaskPlan::default()
    };
    let (late, _) = start(ConnectTo::NoAddress, plan, RUNS_AFTER + answers_in).await;
    assert!(late < Duration::from_secs(4), "{late:?} later than its first attempt could succeed");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_does_not_wait_for_an_attempt() {
    let mut faults = FaultPlan::new(0);
    faults.task_plans = vec![TaskPlan {
        agent_after: Some(Duration::ZERO),
        answers_in: Duration::from_secs(50),
        ..TaskPlan::default()
    }];
    let manager = Manager::new(Cloud::new(faults));
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "test", Duration::ZERO).await.unwrap();
    let mut header = header(&manager.job);
    header.connect_to = ConnectTo::NoAddress;
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, "prepare").await;
    let mut io = manager.io();
    let cancel_at = tokio::time::Instant::now() + Duration::from_secs(30);
    io.cancel_at = Some(cancel_at);
    let outcome = engine.drive(&mut work, Goal::Reach, &mut io).await.unwrap();
    assert_eq!(outcome, Outcome::MustEnd(StopReason::Cancelled));
    assert!(cancel_at.elapsed() < Duration::from_millis(500), "{:?}", cancel_at.elapsed());
}

/// An SSH server that accepts a connection and sends nothing does not delay the next attempt for a
/// minute.
#[tokio::test(start_paused = true)]
async fn an_attempt_at_an_address_may_take_15_seconds() {
    let mut faults = FaultPlan::new(0);
    faults.task_plans =
        vec![TaskPlan { answers_in: Duration::from_secs(20), ..TaskPlan::default() }];
    let manager = Manager::new(Cloud::new(faults));
    let began = tokio::time::Instant::now();
    let Some(Outcome::MustEnd(reason)) = manager.prepare(&mut manager.io()).await else {
        panic!("it is reached in 20 s")
    };
    assert!(
        matches!(
            reason,
            StopReason::Deadline { state: StateName::Running | StateName::Pending, .. }
        ),
        "{reason:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(20 * 60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_first_description_comes_after_a_second() {
    let manager = Manager::new(Arc::<Cloud>::default());
    let engine = manager.process();
    let lease = engine.store().lease(&manager.job, "test", Duration::ZERO).await.unwrap();
    let mut work = engine.begin(header(&manager.job), lease);
    engine.open(&mut work, "prepare").await;
    let mut io = manager.io();
    let driven = tokio::time::timeout(
        Duration::from_millis(750),
        engine.drive(&mut work, Goal::Reach, &mut io),
    )
    .await;
    assert!(driven.is_err());
    assert_eq!(
        manager.cloud.state.lock().unwrap().described,
        Vec::<usize>::new(),
        "no task runs on Fargate after so short a time"
    );
}
