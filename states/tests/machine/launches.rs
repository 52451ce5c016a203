//! Launches: one of unknown outcome is never forgotten, and no second one is made beside it.

use std::time::Duration;

use states::{
    Action, AnyJob, ControlError, ControlErrorKind, LONGEST_CALL, Observation, Snapshot,
    StopReason, TaskReport, TaskStatus, Timestamp,
};

use crate::any;

fn failed(kind: ControlErrorKind, code: Option<&str>) -> Observation {
    let error = ControlError {
        operation: "RunTask".into(),
        kind,
        code: code.map(str::to_owned),
        message: "m".into(),
        cause: Default::default(),
    };
    Observation::LaunchFailed(error)
}

/// The token of the next launch.
fn token(snapshot: &mut Snapshot, now: Timestamp) -> String {
    let later = Timestamp::from_millis(now.as_millis() + 40_000);
    match snapshot.clone().plan(later) {
        Action::Launch { token, .. } => token.to_string(),
        other => panic!("{other:?}"),
    }
}

fn begun() -> (Snapshot, Timestamp) {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    (snapshot, now)
}

#[test]
fn a_refused_launch_gets_a_new_token() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:FARGATE")), now);
    assert_ne!(token(&mut snapshot, now), first);
}

#[test]
fn an_unanswered_launch_keeps_its_token_after_later_refusals() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    assert_eq!(token(&mut snapshot, now), first);
    // This was refused before ECS looked at the token: it says nothing of the earlier request.
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), now);
    assert_eq!(token(&mut snapshot, now), first);
    snapshot.step(failed(ControlErrorKind::Credentials, Some("ExpiredTokenException")), now);
    assert_eq!(token(&mut snapshot, now), first);
    // ECS looked at this token and launched nothing.
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:FARGATE")), now);
    assert_ne!(token(&mut snapshot, now), first);
}

#[test]
fn a_process_that_dies_during_a_launch_leaves_its_outcome_unknown() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.plan(now);
    snapshot.step(Observation::Opened { process: 2, purpose: "prepare".into() }, now);
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), now);
    assert_eq!(token(&mut snapshot, now), first);
}

#[test]
fn a_final_refusal_after_an_unanswered_launch_still_searches_for_the_task() {
    let (mut snapshot, now) = begun();
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    let action =
        snapshot.step(failed(ControlErrorKind::Denied, Some("AccessDeniedException")), now);
    assert!(matches!(action, Action::Find { .. }), "{action:?}");
}

#[test]
fn a_final_refusal_of_the_first_launch_ends_the_job_at_once() {
    let (mut snapshot, now) = begun();
    let action =
        snapshot.step(failed(ControlErrorKind::Denied, Some("AccessDeniedException")), now);
    assert_eq!(action, Action::Archive);
    assert!(
        matches!(&snapshot.job, AnyJob::Stopping(job) if matches!(job.state.reason, StopReason::LaunchRefused(_)))
    );
}

#[test]
fn launches_without_capacity_try_other_subnets_and_on_demand() {
    let provider =
        |name: &str, weight| states::CapacityProvider { name: name.into(), weight, base: 0 };
    let spec = states::LaunchSpec {
        subnets: vec!["a".into(), "b".into()],
        capacity: states::Capacity::Strategy(vec![
            provider("FARGATE_SPOT", 1),
            provider("FARGATE", 0),
        ]),
        ..any::header().spec
    };
    let tried = |refusals| {
        let states::LaunchSpec { subnets, capacity, .. } = spec.after_refusals(refusals);
        let states::Capacity::Strategy(providers) = capacity else {
            unreachable!("a strategy stays one")
        };
        (
            subnets.join(" "),
            providers
                .iter()
                .map(|p| format!("{}:{}", p.name, p.weight))
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    assert_eq!(tried(0), ("a b".into(), "FARGATE_SPOT:1 FARGATE:0".into()));
    assert_eq!(tried(1), ("a".into(), "FARGATE:1".into()));
    assert_eq!(tried(2), ("a".into(), "FARGATE_SPOT:1 FARGATE:0".into()));
    assert_eq!(tried(3), ("b".into(), "FARGATE:1".into()));
    assert_eq!(tried(4), ("b".into(), "FARGATE_SPOT:1 FARGATE:0".into()));
    assert_eq!(tried(5), tried(1));
    let spot_only = states::LaunchSpec {
        capacity: states::Capacity::Strategy(vec![provider("FARGATE_SPOT", 1)]),
        ..spec
    };
    assert_eq!(spot_only.after_refusals(2).subnets, ["b"]);
    assert_eq!(
        spot_only.after_refusals(1).capacity,
        spot_only.capacity,
        "what the administrator did not allow is not used"
    );
}

#[test]
fn a_quota_is_retried_without_changing_the_subnet() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    let spec = |snapshot: &Snapshot, at| match snapshot.clone().plan(at) {
        Action::Launch { spec, .. } => spec,
        other => panic!("{other:?}"),
    };
    for turn in 1..=3 {
        let at = seconds_later(now, turn * 40);
        let action = snapshot
            .step(failed(ControlErrorKind::AccountLimit, Some("You’ve reached the limit")), at);
        assert!(matches!(action, Action::Watch(_)), "it waits: {action:?}");
        assert_eq!(spec(&snapshot, seconds_later(at, 40)).subnets, any::header().spec.subnets);
    }
    assert_ne!(
        token(&mut snapshot, seconds_later(now, 120)),
        first,
        "ECS has answered: there is no task by this token"
    );
    let action = snapshot.step(Observation::TimePassed, seconds_later(now, 601));
    assert_eq!(action, Action::Archive);
    assert!(
        matches!(&snapshot.job, AnyJob::Stopping(job) if matches!(&job.state.reason, StopReason::LaunchRefused(e) if e.kind == ControlErrorKind::AccountLimit))
    );
}

/// A launch had no answer, and its repetition was a conflict: the search for its task has begun.
fn in_conflict() -> (Snapshot, Timestamp, String) {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    let now = seconds_later(now, 1);
    snapshot.step(Observation::TimePassed, now);
    let action = snapshot.step(failed(ControlErrorKind::Conflict, Some("ConflictException")), now);
    assert!(
        matches!(&action, Action::Find { started_by, .. } if *started_by == any::header().spec.started_by),
        "{action:?}"
    );
    (snapshot, now, first)
}

#[test]
fn a_conflict_adopts_the_task_of_the_earlier_launch() {
    let (mut snapshot, now, _) = in_conflict();
    let action = snapshot.step(Observation::Found(vec![any::arn(1), any::arn(2)]), now);
    assert!(
        matches!(&action, Action::Watch(watch) if watch.describe == Some((any::arn(1), now))),
        "{action:?}"
    );
    // That task belongs to an earlier attempt.
    let action = snapshot.step(described_as(1, TaskStatus::Stopped), now);
    assert!(
        matches!(&action, Action::Watch(watch) if watch.describe.as_ref().is_some_and(|(task, _)| *task == any::arn(2))),
        "{action:?}"
    );
    snapshot.step(described_as(2, TaskStatus::Provisioning), now);
    assert!(
        matches!(&snapshot.job, AnyJob::Pending(job) if job.state.task == any::arn(2)),
        "{:?}",
        snapshot.job
    );
}

#[test]
fn a_conflict_without_a_task_launches_anew_once_none_can_appear() {
    let (mut snapshot, start, first) = in_conflict();
    let mut now = start;
    let mut asked = 0;
    let token = loop {
        match snapshot.plan(now) {
            Action::Find { .. } => _ = snapshot.step(Observation::Found(Vec::new()), now),
            Action::Watch(watch) => {
                now = watch.until;
                snapshot.step(Observation::TimePassed, now);
            }
            Action::Launch { token, .. } => break token.to_string(),
            other => panic!("{other:?}"),
        }
        asked += 1;
    };
    assert_ne!(token, first);
    let settled = now.since(start);
    assert!(
        settled >= LONGEST_CALL + Duration::from_secs(10)
            && settled < LONGEST_CALL + Duration::from_secs(15),
        "{settled:?}"
    );
    assert!(asked < 60, "{asked}");
    assert!(
        matches!(&snapshot.job, AnyJob::Provisioning(job) if job.state.search.is_none() && !job.state.unknown)
    );
}

/// ListTasks may be ahead of DescribeTasks: a second task would make the first one leak.
#[test]
fn a_listed_task_that_is_not_described_yet_is_not_launched_again() {
    let (mut snapshot, start, _) = in_conflict();
    snapshot.step(Observation::Found(Vec::new()), start);
    let late = seconds_later(start, 31);
    let action = snapshot.step(Observation::TimePassed, late);
    assert!(matches!(action, Action::Find { .. }), "{action:?}");
    snapshot.step(Observation::Found(vec![any::arn(2)]), late);
    let action = snapshot.step(Observation::Missing, late);
    assert!(matches!(action, Action::Watch(_)), "{action:?}");
    let later = seconds_later(late, 5);
    let action = snapshot.step(Observation::TimePassed, later);
    assert!(matches!(action, Action::Find { .. }), "{action:?}");
    snapshot.step(Observation::Found(vec![any::arn(2)]), later);
    snapshot.step(described_as(2, TaskStatus::Provisioning), later);
    assert!(
        matches!(&snapshot.job, AnyJob::Pending(job) if job.state.task == any::arn(2)),
        "{:?}",
        snapshot.job
    );
}

#[test]
fn a_search_after_a_conflict_outlives_its_process_and_ends_with_the_job() {
    let (mut snapshot, now, _) = in_conflict();
    let late = seconds_later(now, 40);
    let mut killed = snapshot.clone();
    // The earlier process's question got no answer, so it is asked again.
    killed.step(Observation::Opened { process: 2, purpose: "prepare".into() }, late);
    assert!(matches!(killed.step(Observation::Found(Vec::new()), late), Action::Launch { .. }));
    // A cancel searches for the task as after any launch without an answer.
    let action = snapshot.step(Observation::CancelRequested, now);
    assert!(matches!(action, Action::Find { .. }), "{action:?}");
    assert!(
        matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.unanswered_launch().is_some())
    );
}

#[test]
fn a_search_that_ecs_refuses_ends_the_job_without_another_launch() {
    let (mut snapshot, now, _) = in_conflict();
    let denied = ControlError {
        operation: "ListTasks".into(),
        kind: ControlErrorKind::Denied,
        code: Some("AccessDeniedException".into()),
        message: "m".into(),
        cause: Default::default(),
    };
    for turn in 1..=3 {
        let at = seconds_later(now, turn * 10);
        let action = snapshot.step(Observation::FindFailed(denied.clone()), at);
        assert!(!matches!(action, Action::Launch { .. }), "{action:?}");
    }
    assert!(
        matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.unanswered_launch().is_some()),
        "{:?}",
        snapshot.job
    );
}

#[test]
fn an_unanswered_launch_is_repeated_unchanged() {
    let (mut snapshot, now) = begun();
    let later = Timestamp::from_millis(now.as_millis() + 40_000);
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:ENI")), now);
    let first = snapshot.step(Observation::TimePassed, later);
    snapshot.step(failed(ControlErrorKind::Unavailable, None), later);
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), later);
    let again =
        snapshot.step(Observation::TimePassed, Timestamp::from_millis(later.as_millis() + 60_000));
    // The same token with other parameters would be a conflict.
    assert!(matches!(first, Action::Launch { .. }));
    assert_eq!(first, again);
}

fn seconds_later(now: Timestamp, seconds: u64) -> Timestamp {
    Timestamp::from_millis(now.as_millis() + seconds * 1000)
}

fn described(status: TaskStatus) -> Observation {
    described_as(1, status)
}

fn described_as(number: u8, status: TaskStatus) -> Observation {
    let stop_desired = status.is_ending();
    Observation::Described(
        TaskReport {
            task: any::arn(number),
            stop_desired,
            status,
            interface: None,
            containers: vec![],
            stopped: None,
            billing: None,
        }
        .into(),
    )
}

/// Found by the simulation: all attempts of a job share `startedBy`, so an earlier attempt's task
/// is found as well.
#[test]
fn the_stopped_task_of_an_earlier_attempt_does_not_settle_a_launch() {
    let (mut snapshot, now) = begun();
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    let action = snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    assert!(matches!(action, Action::Watch(_)), "it is looked at before it is stopped: {action:?}");
    snapshot.step(described(TaskStatus::Stopped), now);
    let soon = seconds_later(now, 5);
    let action = snapshot.step(Observation::TimePassed, soon);
    assert!(
        matches!(action, Action::Find { .. }),
        "the task that was asked for may still turn up: {action:?}"
    );
    // The launched task appears, and lives.
    snapshot.step(Observation::Found(vec![any::arn(1), any::arn(2)]), soon);
    snapshot.step(described(TaskStatus::Stopped), soon);
    let action = snapshot.step(described(TaskStatus::Pending), soon);
    assert!(matches!(&action, Action::Stop { task, .. } if *task == any::arn(2)), "{action:?}");
}

#[test]
fn stopped_tasks_end_the_search_once_no_other_can_appear() {
    let (mut snapshot, now) = begun();
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![]), now);
    let late = seconds_later(now, 35);
    assert!(matches!(snapshot.step(Observation::TimePassed, late), Action::Find { .. }));
    snapshot.step(Observation::Found(vec![any::arn(1)]), late);
    snapshot.step(Observation::StopAccepted, late);
    assert_eq!(snapshot.step(described(TaskStatus::Stopped), late), Action::Archive);
}

#[test]
fn a_found_task_that_cannot_be_described_is_stopped() {
    let (mut snapshot, now) = begun();
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    let denied = ControlError {
        operation: "DescribeTasks".into(),
        kind: ControlErrorKind::Denied,
        code: Some("AccessDeniedException".into()),
        message: "m".into(),
        cause: Default::default(),
    };
    let mut action = Action::Await;
    for turn in 1..=3 {
        snapshot.step(Observation::DescribeFailed(denied.clone()), seconds_later(now, turn * 10));
        action = snapshot.step(Observation::TimePassed, seconds_later(now, turn * 10 + 9));
    }
    assert!(matches!(action, Action::Stop { .. }), "{action:?}");
}

/// Found by the simulation: the time of the last RunTask counts, not that of the first.
#[test]
fn a_repeated_launch_restarts_the_search_period() {
    let (mut snapshot, now) = begun();
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    let again = seconds_later(now, 45);
    let action = snapshot.step(Observation::TimePassed, again);
    assert!(matches!(action, Action::Launch { .. }), "{action:?}");
    // The process is killed before the answer, while its request is on its way.
    let next = seconds_later(again, 1);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), next);
    let action = snapshot.step(Observation::Found(vec![]), next);
    assert_ne!(action, Action::Archive);
    let late = seconds_later(again, 31);
    assert!(matches!(snapshot.step(Observation::TimePassed, late), Action::Find { .. }));
    assert_eq!(snapshot.step(Observation::Found(vec![]), late), Action::Archive);
}

/// A job that must end while the outcome of its launch is unknown and ListTasks shows no task.
fn unsettled() -> (Snapshot, Timestamp) {
    let (mut snapshot, now) = begun();
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    (snapshot, now)
}

#[test]
fn an_unanswered_launch_is_searched_for_until_it_can_no_longer_arrive() {
    let (mut snapshot, start) = unsettled();
    let mut now = start;
    let mut asked = 0;
    let settled = loop {
        match snapshot.plan(now) {
            Action::Find { .. } => _ = snapshot.step(Observation::Found(Vec::new()), now),
            Action::Watch(watch) => now = watch.until,
            Action::Archive => break now.since(start),
            other => panic!("{other:?}"),
        }
        asked += 1;
    };
    // ListTasks has ten seconds to show what RunTask has just launched.
    assert!(settled >= LONGEST_CALL + Duration::from_secs(10), "given up after {settled:?}");
    assert!(
        settled < LONGEST_CALL + Duration::from_secs(15) && asked < 40,
        "asked {asked} times in {settled:?}"
    );
}

#[test]
fn a_late_answer_counts_from_when_it_was_asked() {
    let (mut snapshot, start) = unsettled();
    let late = |seconds| seconds_later(start, seconds);
    assert!(matches!(snapshot.plan(late(29)), Action::Find { .. }));
    // The process was killed while it asked: the next one asks a new question.
    let mut killed = snapshot.clone();
    killed.step(Observation::Opened { process: 2, purpose: "cleanup".into() }, late(31));
    assert_eq!(killed.step(Observation::Found(Vec::new()), late(32)), Action::Archive);
    let action = snapshot.step(Observation::Found(Vec::new()), late(45));
    assert!(matches!(action, Action::Watch(_)), "{action:?}");
    assert!(matches!(snapshot.plan(late(50)), Action::Find { .. }));
    assert_eq!(snapshot.step(Observation::Found(Vec::new()), late(51)), Action::Archive);
}

#[test]
fn missing_credentials_are_awaited_for_a_minute_and_expired_ones_until_the_deadline() {
    for (kind, code, waited) in [
        (ControlErrorKind::NoCredentials, None, 60),
        (ControlErrorKind::Credentials, Some("ExpiredTokenException"), 600),
    ] {
        let mut snapshot = Snapshot::new(any::header());
        let began = snapshot.job.header().created;
        let mut now = began;
        while !matches!(snapshot.job, AnyJob::Stopping(_)) {
            now = now + Duration::from_secs(1);
            snapshot.step(failed(kind, code), now);
        }
        let AnyJob::Stopping(job) = &snapshot.job else { unreachable!() };
        assert!(
            now.since(began).as_secs().abs_diff(waited) <= 1,
            "{kind:?}: {:?}",
            now.since(began)
        );
        // No request was sent, or all were refused: there is no task to search for.
        assert_eq!(job.state.unanswered_launch(), None, "{kind:?}");
    }
}
