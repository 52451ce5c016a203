//! Replays: a journal leads today's machine to the recorded states, and a difference is found at
//! its entry.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use states::{
    AnyJob, Link, Observation, Replay, Snapshot, StateDigest, StateName, StopReason, Timestamp,
    Verdict,
};

use crate::{any, links, through};

fn well() -> Snapshot {
    let mut way = any::well();
    way.push((40, Observation::StopRequested(StopReason::Cleanup)));
    way.push((40, Observation::StopAccepted));
    through(&way, |_, _, _, _, _| {})
}

/// The prefix of today's digests.
fn shape() -> String {
    StateDigest::of(&Snapshot::new(any::header()).job).digest.split('-').next().unwrap().to_owned()
}

fn difference(verdict: Verdict) -> states::Difference {
    match verdict {
        Verdict::Differ(difference) => *difference,
        Verdict::Agree { .. } => panic!("{verdict:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_reaches_every_recorded_state(history in any::history()) {
        let snapshot = through(&history, |_, _, _, _, _| {});
        let verdict = snapshot.replay();
        let Verdict::Agree { observations, compared, omitted } = verdict else { panic!("{verdict:?}") };
        prop_assert_eq!(omitted, snapshot.journal.omitted);
        if omitted == 0 {
            prop_assert_eq!(observations, snapshot.journal.unfold().len());
            prop_assert_eq!(compared, snapshot.journal.entries.len() + 1);
        }
    }

    #[test]
    fn a_replay_of_repetitions_reaches_every_recorded_state(history in any::waiting()) {
        let snapshot = through(&history, |_, _, _, _, _| {});
        prop_assert!(matches!(snapshot.replay(), Verdict::Agree { .. }), "{:?}", snapshot.replay());
    }

    #[test]
    fn time_that_changes_a_state_by_itself_is_journaled(history in any::history(), late in 0..200_000_u64) {
        let mut snapshot = through(&history, |_, _, _, _, _| {});
        let newest = snapshot.journal.unfold().last().map_or(snapshot.job.header().created, |(at, _)| *at);
        snapshot.plan(Timestamp::from_millis(newest.as_millis() + late));
        prop_assert!(matches!(snapshot.replay(), Verdict::Agree { .. }), "{:?}", snapshot.replay());
    }
}

#[test]
fn a_changed_transition_is_found_at_its_entry() {
    let snapshot = well();
    assert!(matches!(snapshot.replay(), Verdict::Agree { .. }));
    let entry = |wanted: fn(&Observation) -> bool| {
        snapshot.journal.entries.iter().position(|entry| wanted(&entry.saw)).unwrap() + 1
    };

    // A machine that ignores a script's end.
    let deaf = Replay::by(&snapshot, |job, saw, at| {
        if matches!(saw, Observation::Exited { .. }) { job } else { job.observe(saw, at) }
    });
    let found = difference(deaf.verdict());
    assert_eq!(found.entry, entry(|saw| matches!(saw, Observation::Exited { .. })), "{found}");
    assert_eq!(
        found.recorded.as_ref().map(|left| left.state),
        Some(StateName::Reachable),
        "{found}"
    );
    assert_eq!(found.today.name(), StateName::Executing, "{found}");

    // One that takes the same edges, but waits longer for RUNNING.
    let patient = Replay::by(&snapshot, |job, saw, at| match job.observe(saw, at) {
        AnyJob::Pending(mut job) => {
            job.state.deadline = job.state.deadline + std::time::Duration::from_secs(1);
            AnyJob::Pending(job)
        }
        job => job,
    });
    let found = difference(patient.verdict());
    assert_eq!(found.entry, entry(|saw| matches!(saw, Observation::Launched(_))), "{found}");
    assert!(found.to_string().contains("both are Pending"), "{found}");
}

#[test]
fn an_altered_record_is_found_at_its_entry() {
    let snapshot = well();
    for entry in 0..snapshot.journal.entries.len() {
        let mut altered = snapshot.clone();
        altered.journal.entries[entry].left = Some(StateDigest {
            state: StateName::Stopping,
            digest: format!("{}-00000000", shape()),
        });
        let found = difference(altered.replay());
        assert_eq!(
            (found.entry, found.saw.as_ref()),
            (entry + 1, Some(&snapshot.journal.entries[entry].saw)),
            "{found}"
        );
    }
    let mut altered = snapshot.clone();
    if let AnyJob::Stopping(job) = &mut altered.job {
        job.state.reason = StopReason::Cancelled;
    }
    let found = difference(altered.replay());
    assert_eq!(
        (found.entry, found.recorded.as_ref()),
        (snapshot.journal.entries.len(), None),
        "{found}"
    );
}

#[test]
fn digests_of_other_shapes_are_ignored_and_names_are_compared() {
    let mut snapshot = well();
    for entry in &mut snapshot.journal.entries {
        if let Some(left) = &mut entry.left {
            left.digest = left.digest.replacen(&shape(), "0", 1);
        }
    }
    assert!(matches!(snapshot.replay(), Verdict::Agree { .. }));
    snapshot.journal.entries[3].left.as_mut().unwrap().state = StateName::Executing;
    assert_eq!(difference(snapshot.replay()).entry, 4);
}

#[test]
fn a_journal_of_an_older_driver_is_compared_at_its_end() {
    let mut snapshot = well();
    for entry in &mut snapshot.journal.entries {
        entry.left = None;
    }
    assert!(matches!(snapshot.replay(), Verdict::Agree { compared: 1, .. }));
    snapshot.job = Snapshot::new(any::header()).job;
    assert_eq!(difference(snapshot.replay()).recorded, None);
}

/// A journal of a driver that counted every lost connection, even one that had worked.
fn by_a_driver_of_shape_1(mut snapshot: Snapshot) -> Snapshot {
    for entry in &mut snapshot.journal.entries {
        if let Some(left) = &mut entry.left {
            left.digest = "1-0badf00d".to_owned();
        }
    }
    if let AnyJob::Executing(job) = &mut snapshot.job {
        (job.state.followed, job.state.failures) = (None, 3);
    }
    Snapshot::parse(&snapshot.to_ron().unwrap()).unwrap()
}

#[test]
fn journals_without_working_connections_replay_and_continue() {
    let (mut snapshot, mut now) = links::connected();
    for _ in 0..3 {
        snapshot.step(Observation::Delivered, now);
        now = links::later(now, 200_000);
        snapshot.step(links::lost(), now);
        snapshot.step(Observation::Answered(any::greeting()), now);
    }
    snapshot.step(Observation::Delivered, now);
    let mut older = by_a_driver_of_shape_1(snapshot);
    assert!(!older.to_ron().unwrap().contains("followed"));
    let entries = older.journal.entries.len();
    assert!(
        matches!(older.replay(), Verdict::Agree { compared, .. } if compared == entries + 1),
        "{:?}",
        older.replay()
    );

    // Today's driver continues, and distinguishes its own connections.
    now = links::later(now, 1000);
    older.step(Observation::Opened { process: 2, purpose: "run build_script".into() }, now);
    older.step(Observation::Answered(any::greeting()), now);
    older.step(Observation::Delivered, now);
    older.step(links::lost(), links::later(now, 200_000));
    assert!(
        matches!(&older.job, AnyJob::Executing(job) if job.state.failures == 1),
        "{:?}",
        older.job
    );
}

/// Older drivers wrote these. Do not change them.
#[test]
fn fixtures_of_older_shapes_exist_and_replay() {
    let mut found = Vec::new();
    collect(
        &PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/snapshots/v1"),
        &mut found,
    );
    let mut connected = 0;
    for path in &found {
        let snapshot = Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap();
        let notes: Vec<_> =
            snapshot.journal.entries.iter().filter_map(|entry| entry.left.as_ref()).collect();
        assert!(
            !notes.is_empty() && notes.iter().all(|left| left.digest.starts_with("1-")),
            "{}",
            path.display()
        );
        assert!(
            matches!(snapshot.replay(), Verdict::Agree { .. }),
            "{}: {:?}",
            path.display(),
            snapshot.replay()
        );
        connected += u32::from(
            matches!(&snapshot.job, AnyJob::Executing(job) if job.state.link == Link::Up),
        );
    }
    assert!(found.len() >= 9 && connected >= 2, "{connected} of {found:?}");
}

#[test]
fn entries_after_a_gap_are_not_compared() {
    let mut snapshot = Snapshot::new(any::header());
    let mut now = snapshot.job.header().created;
    for process in 0..1000 {
        now = Timestamp::from_millis(now.as_millis() + 10);
        snapshot.step(Observation::Opened { process, purpose: "prepare".to_owned() }, now);
    }
    let Verdict::Agree { compared, omitted, .. } = snapshot.replay() else {
        panic!("{:?}", snapshot.replay())
    };
    assert_eq!((compared, omitted), (300, 400));
}

#[test]
fn a_replay_moves_back_and_forth() {
    let snapshot = well();
    let mut replay = Replay::new(&snapshot);
    let forwards: Vec<_> = std::iter::from_fn(|| replay.advance()).collect();
    assert_eq!((replay.position(), replay.length()), (forwards.len(), forwards.len()));
    for step in forwards.iter().rev() {
        assert_eq!(replay.go_to(step.number).as_ref(), Some(step));
    }
    assert_eq!(replay.go_to(0), None);
    assert_eq!(replay.job().name(), StateName::Provisioning);
    assert_eq!(replay.go_to(usize::MAX).map(|step| step.number), Some(forwards.len()));
}

/// Every snapshot in `fixtures/` replays to its recorded states. To make a regression test of a
/// snapshot, copy it there.
#[test]
fn every_fixture_replays() {
    let mut found = Vec::new();
    collect(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures"), &mut found);
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        let snapshot = Snapshot::parse(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if let Verdict::Differ(difference) = snapshot.replay() {
            panic!("{}: {difference}. `fargate-replay step {0}` shows it.", path.display());
        }
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "ron") {
            found.push(path);
        }
    }
}
