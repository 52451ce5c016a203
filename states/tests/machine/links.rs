//! Links: connections that fail while a script runs, and tasks that end.

use states::*;

use crate::any;

/// A job whose script was requested, with its connection up.
pub fn connected() -> (Snapshot, Timestamp) {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    let interface =
        NetworkInterface { id: None, private_address: Some("10.0.0.7".into()), subnet: None };
    let running = TaskReport { interface: Some(interface), ..report(TaskStatus::Running, None) };
    for saw in [
        Observation::Launched(running.clone().into()),
        Observation::Described(running.into()),
        Observation::Answered(any::greeting()),
        Observation::RunRequested {
            stage: "build_script".into(),
            digest: "0".into(),
            container: RunContainer::Coordinator,
        },
        Observation::Answered(any::greeting()),
    ] {
        snapshot.step(saw, now);
    }
    assert!(
        matches!(&snapshot.job, AnyJob::Executing(job) if job.state.link == Link::Up),
        "{:?}",
        snapshot.job
    );
    (snapshot, now)
}

pub fn report(status: TaskStatus, stopped: Option<Stopped>) -> TaskReport {
    TaskReport {
        task: any::arn(1),
        stop_desired: status.is_ending(),
        status,
        interface: None,
        containers: Vec::new(),
        stopped,
        billing: None,
    }
}

pub fn lost() -> Observation {
    Observation::RunFailed(RunError::ConnectionLost("reset".into()))
}

pub fn reason(snapshot: &Snapshot) -> &StopReason {
    match &snapshot.job {
        AnyJob::Stopping(job) => &job.state.reason,
        other => panic!("{}", other.name()),
    }
}

pub fn later(now: Timestamp, milliseconds: u64) -> Timestamp {
    Timestamp::from_millis(now.as_millis() + milliseconds)
}

#[test]
fn a_connection_that_ends_early_delivers_nothing() {
    let (mut snapshot, now) = connected();
    snapshot.step(Observation::Progress { offset: 0 }, now);
    snapshot.step(lost(), now);
    let action = snapshot.step(Observation::Answered(any::greeting()), now);
    assert!(
        matches!(&action, Action::Follow(follow) if !follow.started),
        "the script is delivered (again): {action:?}"
    );
}

#[test]
fn connections_without_a_byte_slow_down_and_end_the_run() {
    let (mut snapshot, mut now) = connected();
    let mut waits = Vec::new();
    for attempt in 1.. {
        snapshot.step(Observation::Progress { offset: 0 }, now);
        let action = snapshot.step(lost(), now);
        let Action::Watch(Watch { probe: Some((_, at)), .. }) = action else { break };
        assert!(attempt < 100, "it goes on for ever");
        waits.push(at.since(now).as_millis());
        now = at;
        snapshot.step(Observation::Answered(any::greeting()), now);
    }
    assert_eq!(waits[0], 0, "the first time at once");
    assert!(waits[5] > waits[1] && waits[20] >= 4000, "{waits:?}");
    // That run must not overlap with another stage's script.
    assert!(matches!(reason(&snapshot), StopReason::RunAbandoned(_)), "{:?}", reason(&snapshot));
}

/// Makes connections one after the other that last this many milliseconds without a byte. Returns
/// how many there were when the job was given up, or `most`.
fn given_up_after(
    snapshot: &mut Snapshot,
    now: &mut Timestamp,
    delivered: bool,
    lasts: u64,
    most: u32,
) -> u32 {
    for lost_so_far in 0..most {
        if delivered {
            snapshot.step(Observation::Delivered, *now);
        }
        *now = later(*now, lasts);
        let action = snapshot.step(lost(), *now);
        let Action::Watch(Watch { probe: Some((_, at)), .. }) = action else {
            assert!(
                matches!(reason(snapshot), StopReason::RunAbandoned(_)),
                "{:?}",
                reason(snapshot)
            );
            return lost_so_far + 1;
        };
        *now = at.max(*now);
        snapshot.step(Observation::Answered(any::greeting()), *now);
    }
    most
}

#[test]
fn connections_that_work_for_long_are_renewed_without_limit() {
    let (mut snapshot, mut now) = connected();
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 120_000, 500), 500);
    let AnyJob::Executing(job) = &snapshot.job else { panic!("{}", snapshot.job.name()) };
    assert_eq!(
        job.state.failures, 1,
        "the last one is a first one again: it is made again at once"
    );
}

#[test]
fn connections_that_do_not_work_for_long_are_given_up() {
    // Connections of a second each; and connections dead from the first answer on, noticed after 60
    // s by SSH and 90 s by ECS Exec.
    for lasts in [0, 1000, 62_000, 95_000, 119_999] {
        let (mut snapshot, mut now) = connected();
        assert_eq!(
            given_up_after(&mut snapshot, &mut now, true, lasts, 500),
            50,
            "{lasts} ms each"
        );
    }
}

#[test]
fn a_connection_without_news_of_the_script_has_not_worked() {
    let (mut snapshot, mut now) = connected();
    assert_eq!(given_up_after(&mut snapshot, &mut now, false, 600_000, 500), 50);
}

#[test]
fn a_connection_that_worked_for_long_resets_the_count() {
    let (mut snapshot, mut now) = connected();
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 49), 49);
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 120_000, 1), 1);
    // It is the first of the fifty.
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 48), 48);
    assert_eq!(snapshot.job.name(), StateName::Executing);
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 500), 1);
}

#[test]
fn a_connection_works_from_the_first_news_of_the_script() {
    let (mut snapshot, mut now) = connected();
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 49), 49);
    snapshot.step(Observation::Delivered, now);
    now = later(now, 100_000);
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 20_000, 1), 1);
    assert_eq!(snapshot.job.name(), StateName::Executing);
}

#[test]
fn the_connection_of_a_killed_process_does_not_count_as_working() {
    let (mut snapshot, mut now) = connected();
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 49), 49);
    snapshot.step(Observation::Delivered, now);
    now = later(now, 600_000);
    snapshot.step(Observation::Opened { process: 2, purpose: "run build_script".into() }, now);
    snapshot.step(Observation::Answered(any::greeting()), now);
    assert_eq!(given_up_after(&mut snapshot, &mut now, true, 1000, 500), 1);
}

#[test]
fn a_connection_that_brings_a_byte_resets_the_count() {
    let (mut snapshot, mut now) = connected();
    for offset in 1..500 {
        snapshot.step(Observation::Progress { offset }, now);
        snapshot.step(lost(), now);
        now = later(now, 10);
        snapshot.step(Observation::Answered(any::greeting()), now);
    }
    assert!(matches!(&snapshot.job, AnyJob::Executing(job) if job.state.offset == 499));
}

#[test]
fn ecs_has_a_moment_to_report_why_a_task_ends() {
    let explained = Stopped { code: Some("SpotInterruption".into()), reason: None };
    let (mut snapshot, now) = connected();
    snapshot.step(lost(), now);
    snapshot.step(Observation::Described(report(TaskStatus::Deactivating, None).into()), now);
    assert_eq!(snapshot.job.name(), StateName::Executing);
    snapshot.step(
        Observation::Described(report(TaskStatus::Stopping, Some(explained.clone())).into()),
        later(now, 300),
    );
    let StopReason::TaskStopped { end } = reason(&snapshot) else {
        panic!("{:?}", reason(&snapshot))
    };
    assert_eq!(end.code.as_deref(), Some("SpotInterruption"));

    // It may never report it: the driver waits only a few seconds.
    let (mut snapshot, now) = connected();
    snapshot.step(lost(), now);
    snapshot.step(Observation::Described(report(TaskStatus::Deactivating, None).into()), now);
    snapshot
        .step(Observation::Described(report(TaskStatus::Stopping, None).into()), later(now, 5000));
    assert!(matches!(reason(&snapshot), StopReason::TaskStopped { .. }));

    // For an exit, the code is part of the report.
    let exited = Stopped { code: Some("EssentialContainerExited".into()), reason: None };
    let (mut snapshot, now) = connected();
    snapshot.step(lost(), now);
    snapshot.step(
        Observation::Described(report(TaskStatus::Stopping, Some(exited.clone())).into()),
        now,
    );
    assert_eq!(snapshot.job.name(), StateName::Executing);
    snapshot.step(
        Observation::Described(report(TaskStatus::Stopped, Some(exited)).into()),
        later(now, 300),
    );
    assert!(matches!(reason(&snapshot), StopReason::TaskStopped { .. }), "over is over");
}

#[test]
fn a_container_that_cannot_run_a_first_command_yet_is_retried() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    let interface =
        NetworkInterface { id: None, private_address: Some("10.0.0.7".into()), subnet: None };
    let running = TaskReport { interface: Some(interface), ..report(TaskStatus::Running, None) };
    snapshot.step(Observation::Launched(running.clone().into()), now);
    snapshot.step(Observation::Described(running.into()), now);
    let refusal = || ConnectError {
        kind: ConnectErrorKind::NoShell,
        message: "no shell".into(),
        cause: Default::default(),
    };
    snapshot.step(Observation::Unreachable(refusal()), now);
    assert_eq!(snapshot.job.name(), StateName::Running, "one bad answer ends nothing");
    snapshot.step(Observation::Unreachable(refusal()), later(now, 20_000));
    assert!(matches!(reason(&snapshot), StopReason::Unusable(_)));
}

/// Found by the simulation: a task that ECS did not show was described three times a second for a
/// minute.
#[test]
fn a_missing_task_is_described_less_and_less_often() {
    let mut snapshot = Snapshot::new(any::header());
    let start = snapshot.job.header().created;
    snapshot.plan(start);
    let mut now = start;
    let mut action =
        snapshot.step(Observation::Launched(report(TaskStatus::Provisioning, None).into()), now);
    let mut asked = 0;
    while now.since(start) < std::time::Duration::from_secs(50) {
        let Action::Watch(Watch { describe: Some((_, at)), .. }) = action else {
            panic!("{action:?}")
        };
        now = at.max(later(now, 1));
        action = snapshot.step(Observation::Missing, now);
        asked += 1;
    }
    assert!((15..30).contains(&asked), "{asked} times in 50 s");
}

/// Makes connections that last `lasts` milliseconds and bring this many bytes each, until the job
/// is given up or there were `most`. Returns the waits between them in milliseconds.
fn waits(
    snapshot: &mut Snapshot,
    mut now: Timestamp,
    lasts: u64,
    brings: u64,
    most: usize,
) -> Vec<u64> {
    let mut waits = Vec::new();
    let mut offset = 0;
    while waits.len() < most {
        snapshot.step(Observation::Delivered, now);
        now = later(now, lasts);
        offset += brings;
        snapshot.step(Observation::Progress { offset }, now);
        // A hostile server sends a different text each time, as long as allowed.
        let text = format!("{} {}", waits.len(), "\u{e0100}".repeat(foreign_text::MAX_CHARS));
        let why = foreign_text::clipped(&text);
        let action =
            snapshot.step(Observation::RunFailed(RunError::ConnectionLost(why.clone())), now);
        let Action::Watch(Watch { probe: Some((_, at)), .. }) = action else { break };
        waits.push(u64::try_from(at.since(now).as_millis()).unwrap());
        now = at.max(now);
        let refused = ConnectError {
            kind: ConnectErrorKind::Interrupted,
            message: why,
            cause: Default::default(),
        };
        snapshot.step(Observation::Unreachable(refused), now);
        snapshot.step(Observation::Answered(any::greeting()), now);
    }
    waits
}

#[test]
fn short_connections_with_a_byte_each_slow_down_and_keep_the_snapshot_small() {
    let (mut snapshot, now) = connected();
    let waits = waits(&mut snapshot, now, 50, 1, 10_000);
    assert_eq!((waits[0], waits.len()), (0, 499), "{:?}", snapshot.job.name());
    assert!(waits[20..].iter().all(|wait| *wait >= 4000), "{waits:?}");
    assert!(matches!(reason(&snapshot), StopReason::RunAbandoned(_)), "{:?}", reason(&snapshot));
    let size = snapshot.to_ron().unwrap().len();
    println!(
        "a snapshot of {size} bytes, {} entries, {} left out",
        snapshot.journal.entries.len(),
        snapshot.journal.omitted
    );
    assert!(size < 1024 * 1024 && snapshot.journal.omitted > 0, "{size}");
    assert!(
        matches!(snapshot.replay(), Verdict::Agree { compared: 1.., .. }),
        "{:?}",
        snapshot.replay()
    );
    assert_eq!(Snapshot::parse(&snapshot.to_ron().unwrap()).unwrap(), snapshot);
}

#[test]
fn connections_that_bring_much_or_last_are_renewed_at_once() {
    for (lasts, brings) in [(50, 1024 * 1024), (10_000, 1)] {
        let (mut snapshot, now) = connected();
        assert_eq!(
            waits(&mut snapshot, now, lasts, brings, 600),
            [0; 600],
            "{lasts} ms, {brings} bytes"
        );
    }
}
