//! Ends of runs and tasks, and repetitions afterwards.

use states::*;

use crate::{
    any,
    links::{connected, later, lost, reason, report},
};

fn denied(operation: &str) -> ControlError {
    ControlError {
        operation: operation.into(),
        kind: ControlErrorKind::Denied,
        code: Some("AccessDeniedException".into()),
        message: "m".into(),
        cause: Default::default(),
    }
}

fn unreachable() -> Observation {
    Observation::Unreachable(ConnectError {
        kind: ConnectErrorKind::Refused,
        message: "refused".into(),
        cause: Default::default(),
    })
}

/// A cancelled run, after SIGTERM was sent.
fn cancelled() -> (Snapshot, Timestamp) {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::Delivered, now);
    let action = snapshot.step(Observation::CancelRequested, now);
    assert!(matches!(action, Action::Signal { signal: Signal::Term, .. }), "{action:?}");
    let action = snapshot.step(Observation::Signalled(Signal::Term), now);
    let grace = Limits::default().grace;
    assert!(
        matches!(&action, Action::Follow(follow) if follow.until == Some(now + grace)),
        "{action:?}"
    );
    (snapshot, now)
}

#[test]
fn a_script_that_ignores_sigterm_is_killed_after_the_grace_period_and_then_its_task() {
    let (mut snapshot, now) = cancelled();
    let grace = Limits::default().grace;
    let action = snapshot.step(Observation::TimePassed, now + grace);
    assert!(matches!(action, Action::Signal { signal: Signal::Kill, .. }), "{action:?}");
    let action = snapshot.step(Observation::Signalled(Signal::Kill), now + grace);
    let Action::Follow(Follow { until: Some(until), .. }) = action else { panic!("{action:?}") };
    assert!(until > now + grace);
    snapshot.step(Observation::TimePassed, until);
    assert_eq!(*reason(&snapshot), StopReason::Cancelled);
}

#[test]
fn a_second_cancel_gives_no_more_time() {
    let (mut snapshot, now) = cancelled();
    let action = snapshot.step(Observation::CancelRequested, later(now, 9000));
    assert!(
        matches!(&action, Action::Follow(follow) if follow.until == Some(now + Limits::default().grace)),
        "{action:?}"
    );
}

#[test]
fn describe_failures_do_not_end_a_run() {
    let (mut snapshot, now) = connected();
    snapshot.step(lost(), now);
    for turn in 1..=8 {
        snapshot
            .step(Observation::DescribeFailed(denied("DescribeTasks")), later(now, turn * 10_000));
    }
    assert_eq!(snapshot.job.name(), StateName::Executing);
    snapshot.step(Observation::Answered(any::greeting()), later(now, 90_000));
    assert!(matches!(&snapshot.job, AnyJob::Executing(job) if job.state.link == Link::Up));
}

#[test]
fn a_failed_connection_describes_the_task_at_once() {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::Exited { code: 0, total: 0 }, now);
    // A stage's first connection usually succeeds: ECS is asked only when it fails.
    let action = snapshot.step(
        Observation::RunRequested {
            stage: "after_script".into(),
            digest: "1".into(),
            container: RunContainer::Coordinator,
        },
        now,
    );
    let Action::Watch(Watch { describe: Some((_, at)), .. }) = action else { panic!("{action:?}") };
    assert!(at > later(now, 1000));
    let soon = later(now, 20);
    let action = snapshot.step(unreachable(), soon);
    let Action::Watch(Watch { describe: Some((_, at)), .. }) = action else { panic!("{action:?}") };
    assert!(at <= soon, "in {:?}", at.since(soon));
}

#[test]
fn a_run_unknown_to_the_container_ends_the_task() {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::Progress { offset: 7 }, now);
    let action =
        snapshot.step(Observation::RunFailed(RunError::Unknown("0000-build_script".into())), now);
    assert!(matches!(reason(&snapshot), StopReason::RunAbandoned(_)), "{:?}", reason(&snapshot));
    assert!(matches!(action, Action::Stop { .. }), "{action:?}");
}

/// Repeats the stage after it ended like this. Returns `None` if the script does not run again;
/// otherwise the run whose files the container may delete.
fn again(outcome: &[Observation]) -> Option<Option<RunId>> {
    let (mut snapshot, now) = connected();
    let AnyJob::Executing(job) = &snapshot.job else { unreachable!() };
    let first = job.state.order.run.clone();
    for saw in outcome {
        snapshot.step(saw.clone(), now);
    }
    assert_eq!(snapshot.job.name(), StateName::Reachable);
    snapshot.step(
        Observation::RunRequested {
            stage: "build_script".into(),
            digest: "0".into(),
            container: RunContainer::Coordinator,
        },
        now,
    );
    match &snapshot.job {
        AnyJob::Executing(job) => {
            assert_ne!(job.state.order.run, first, "another run has another name");
            Some(job.state.order.forget.clone())
        }
        _ => None,
    }
}

#[test]
fn a_repeated_stage_runs_again_unless_it_had_succeeded() {
    let exited = |code| Observation::Exited { code, total: 0 };
    let first = Some(RunId::new("0000-build_script").unwrap());
    assert_eq!(again(&[exited(0)]), None);
    assert_eq!(again(&[exited(1)]), Some(first.clone()));
    assert_eq!(
        again(&[Observation::RunFailed(RunError::NoStatus("killed".into()))]),
        Some(first.clone())
    );
    assert_eq!(again(&[Observation::CancelRequested, exited(0)]), Some(first));
}

#[test]
fn a_cancel_while_the_task_starts_stops_it() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::Launched(report(TaskStatus::Provisioning, None).into()), now);
    let action = snapshot.step(Observation::CancelRequested, now);
    assert_eq!(*reason(&snapshot), StopReason::Cancelled);
    assert!(matches!(&action, Action::Stop { task, .. } if *task == any::arn(1)), "{action:?}");
}

#[test]
fn a_stop_is_repeated_for_a_process_that_requests_it_and_not_for_an_observer() {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    let action = snapshot.step(Observation::StopAccepted, now);
    assert!(matches!(action, Action::Watch(_)), "{action:?}");
    let action = snapshot.step(
        Observation::Opened { process: 2, purpose: "a stage of another job".into() },
        later(now, 60_000),
    );
    assert!(
        matches!(action, Action::Watch(Watch { describe: Some((_, at)), .. }) if at == later(now, 60_000)),
        "{action:?}"
    );
    // ECS may have lost the request: it was restored from a backup, the answer was a proxy's …
    let action = snapshot.step(Observation::StopRequested(StopReason::Cleanup), later(now, 60_000));
    assert!(matches!(action, Action::Stop { .. }), "{action:?}");
}

/// A job with two tasks: an earlier attempt's still runs, too.
fn with_two_tasks() -> (Snapshot, Timestamp) {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1), any::arn(2)]), now);
    let action =
        snapshot.step(Observation::Described(report(TaskStatus::Running, None).into()), now);
    assert!(matches!(&action, Action::Stop { task, .. } if *task == any::arn(1)), "{action:?}");
    (snapshot, now)
}

fn all_accepted(snapshot: &Snapshot) -> bool {
    matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.all_accepted())
}

#[test]
fn all_tasks_are_stopped_before_the_end_of_any_is_awaited() {
    let (mut snapshot, now) = with_two_tasks();
    let action = snapshot.step(Observation::StopAccepted, now);
    assert!(matches!(&action, Action::Stop { task, .. } if *task == any::arn(2)), "{action:?}");
    assert!(!all_accepted(&snapshot));
    let action = snapshot.step(Observation::StopAccepted, now);
    assert!(
        matches!(&action, Action::Watch(Watch { describe: Some((task, _)), .. }) if *task == any::arn(2)),
        "{action:?}"
    );
    assert!(all_accepted(&snapshot));
    // The job is over when both have ended.
    let action = snapshot
        .step(Observation::Described(report(TaskStatus::Stopped, None).into()), later(now, 20_000));
    assert!(
        matches!(&action, Action::Watch(Watch { describe: Some((task, _)), .. }) if *task == any::arn(1)),
        "{action:?}"
    );
    let action = snapshot.step(
        Observation::Described(report(TaskStatus::Deprovisioning, None).into()),
        later(now, 21_000),
    );
    assert_eq!(action, Action::Archive);
}

#[test]
fn a_repeated_stop_request_stops_all_tasks_again() {
    let (mut snapshot, now) = with_two_tasks();
    snapshot.step(Observation::StopAccepted, now);
    snapshot.step(Observation::StopAccepted, now);
    let mut stopped = Vec::new();
    let mut action =
        snapshot.step(Observation::StopRequested(StopReason::Cleanup), later(now, 60_000));
    while let Action::Stop { task, .. } = action {
        stopped.push(task);
        action = snapshot.step(Observation::StopAccepted, later(now, 60_000));
    }
    stopped.sort();
    assert_eq!(stopped, [any::arn(1), any::arn(2)]);
}

#[test]
fn a_task_has_ended_once_its_containers_have() {
    for (status, over) in [
        (TaskStatus::Running, false),
        (TaskStatus::Deactivating, false),
        (TaskStatus::Stopping, false),
        (TaskStatus::Deprovisioning, true),
        (TaskStatus::Stopped, true),
        (TaskStatus::Deleted, true),
    ] {
        let (mut snapshot, now) = connected();
        snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
        snapshot.step(Observation::StopAccepted, now);
        let action = snapshot
            .step(Observation::Described(report(status.clone(), None).into()), later(now, 1000));
        assert_eq!(action == Action::Archive, over, "{status}");
    }
}

/// StopTask may come before ECS shows a task that was launched a moment ago. That ECS does not find
/// it does not prove its end.
#[test]
fn a_task_that_stop_task_does_not_find_is_stopped_again() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::Launched(report(TaskStatus::Provisioning, None).into()), now);
    snapshot.step(Observation::CancelRequested, now);
    snapshot.step(Observation::Missing, now);
    assert!(!all_accepted(&snapshot));
    let AnyJob::Stopping(job) = &snapshot.job else { panic!("{:?}", snapshot.job) };
    let next = job.state.describing.next;
    assert!(next.since(now) < std::time::Duration::from_secs(1));
    let action = snapshot.plan(next);
    assert!(matches!(action, Action::Stop { .. }), "{action:?}");
}

/// All attempts of a job share `startedBy`, and `cleanup` does not wait for the earlier task's end.
#[test]
fn an_earlier_attempts_stopping_task_does_not_end_the_search() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    let stopping = |task| TaskReport { task: any::arn(task), ..report(TaskStatus::Stopping, None) };
    let action = snapshot.step(Observation::Described(stopping(1).into()), now);
    assert!(
        matches!(action, Action::Watch(Watch { describe: None, .. })) && !all_accepted(&snapshot),
        "{action:?}"
    );
    assert!(matches!(snapshot.plan(later(now, 5000)), Action::Find { .. }));
    // ECS shows the launched task only now.
    let action =
        snapshot.step(Observation::Found(vec![any::arn(1), any::arn(2)]), later(now, 5000));
    assert!(
        matches!(&action, Action::Watch(Watch { describe: Some((task, _)), .. }) if *task == any::arn(2)),
        "{action:?}"
    );
    let running = TaskReport { task: any::arn(2), ..report(TaskStatus::Running, None) };
    let action = snapshot.step(Observation::Described(running.into()), later(now, 5000));
    assert!(matches!(&action, Action::Stop { task, .. } if *task == any::arn(2)), "{action:?}");
    snapshot.step(Observation::StopAccepted, later(now, 5000));
    assert!(all_accepted(&snapshot));
    // The job is over when both have ended.
    snapshot.step(
        Observation::Described(
            TaskReport { task: any::arn(2), ..report(TaskStatus::Stopped, None) }.into(),
        ),
        later(now, 20_000),
    );
    let action = snapshot.step(
        Observation::Described(
            TaskReport { task: any::arn(1), ..report(TaskStatus::Stopped, None) }.into(),
        ),
        later(now, 21_000),
    );
    assert_eq!(action, Action::Archive);
}

/// If nothing was launched after all, it is the only task.
#[test]
fn an_earlier_attempts_stopping_task_is_awaited_if_nothing_was_launched() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    snapshot.step(Observation::Described(report(TaskStatus::Stopping, None).into()), now);
    let late = later(now, 40_000);
    assert!(matches!(snapshot.plan(late), Action::Find { .. }));
    let action = snapshot.step(Observation::Found(vec![any::arn(1)]), late);
    assert!(
        matches!(&action, Action::Watch(Watch { describe: Some((task, _)), .. }) if *task == any::arn(1)),
        "{action:?}"
    );
    assert!(all_accepted(&snapshot));
    assert_eq!(
        snapshot
            .step(Observation::Described(report(TaskStatus::Deprovisioning, None).into()), late),
        Action::Archive
    );
}

/// ECS shows a task until about an hour after its end.
#[test]
fn a_forgotten_task_whose_stop_was_accepted_has_ended() {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::StopAccepted, now);
    assert_ne!(snapshot.step(Observation::Missing, later(now, 1000)), Action::Archive);
    assert_eq!(snapshot.step(Observation::Missing, later(now, 3_600_000)), Action::Archive);
}

#[test]
fn a_found_task_that_is_already_stopping_is_not_stopped_again() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    let ending = TaskReport { stop_desired: true, ..report(TaskStatus::Running, None) };
    let action = snapshot.step(Observation::Described(ending.into()), now);
    assert!(matches!(action, Action::Watch(_)), "{action:?}");
}

#[test]
fn a_found_task_that_is_missing_has_not_ended_yet() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    snapshot.step(Observation::StopRequested(StopReason::Cleanup), now);
    snapshot.step(Observation::Found(vec![any::arn(1)]), now);
    let has_task = |snapshot: &Snapshot| matches!(&snapshot.job, AnyJob::Stopping(job) if job.state.task().is_some());
    for turn in 1..=5 {
        snapshot.step(Observation::Missing, later(now, turn * 1000));
        assert!(has_task(&snapshot), "believed after {turn} s");
    }
    for turn in 6..=15 {
        snapshot.step(Observation::Missing, later(now, turn * 1000));
    }
    assert!(!has_task(&snapshot), "never believed");
}

#[test]
fn a_journal_keeps_its_beginning_and_its_end() {
    let mut journal = Journal::default();
    let at = |n: u64| Timestamp::from_millis(1000 + n);
    let left = StateDigest { state: StateName::Pending, digest: "1-0".into() };
    for n in 0..5000 {
        journal.record(
            Observation::Opened { process: n, purpose: "prepare".into() },
            at(n.into()),
            false,
            left.clone(),
        );
    }
    let process = |entry: &Entry| match entry.saw {
        Observation::Opened { process, .. } => process,
        _ => unreachable!(),
    };
    assert!(journal.entries.len() <= 1000, "{}", journal.entries.len());
    assert_eq!(journal.entries.len() as u64 + journal.omitted, 5000);
    assert_eq!(
        journal.entries[..200].iter().map(process).collect::<Vec<_>>(),
        (0..200).collect::<Vec<_>>()
    );
    assert_eq!(journal.entries.last().map(process), Some(4999));
}

#[test]
fn a_journal_of_repetitions_and_long_texts_stays_within_its_size() {
    let mut journal = Journal::default();
    let left = StateDigest { state: StateName::Pending, digest: "1-0".into() };
    // Four observations in turn, each of which is merged with its equals until an entry is full;
    // then four others.
    for n in 0..400_000_u32 {
        let saw = Observation::Opened { process: n % 4 + n / 1000 * 4, purpose: "prepare".into() };
        journal.record(
            saw,
            Timestamp::from_millis(1_790_000_000_000 + u64::from(n) * 1000),
            false,
            left.clone(),
        );
    }
    let AnyJob::Provisioning(job) = Snapshot::new(crate::any::header()).job else { unreachable!() };
    let mut snapshot = Snapshot::new(job.header);
    snapshot.journal = journal;
    let size = snapshot.to_ron().unwrap().len();
    assert!(
        (256 * 1024..768 * 1024).contains(&size),
        "{size} bytes, {} entries",
        snapshot.journal.entries.len()
    );
    // The same after it was written and read.
    let read = Snapshot::parse(&snapshot.to_ron().unwrap()).unwrap();
    for mut snapshot in [snapshot, read] {
        for n in 0..1000 {
            let saw = Observation::Opened { process: n, purpose: "x".repeat(2000) };
            snapshot.journal.record(
                saw,
                Timestamp::from_millis(1_890_000_000_000 + u64::from(n)),
                true,
                left.clone(),
            );
        }
        let (first, last) =
            (&snapshot.journal.entries[0].saw, &snapshot.journal.entries.last().unwrap().saw);
        assert!(matches!(
            (first, last),
            (Observation::Opened { process: 0, .. }, Observation::Opened { process: 999, .. })
        ));
        let size = snapshot.to_ron().unwrap().len();
        assert!((256 * 1024..768 * 1024).contains(&size), "{size} bytes");
    }
}
