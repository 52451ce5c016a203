//! Snapshots as text: every state is read back unchanged, and a damaged file is an error, never a
//! panic.

use std::{fs, path::PathBuf, time::Duration};

use proptest::prelude::*;
use states::{
    Action, AnyJob, BadSnapshot, ConnectTo, Ending, Header, Observation, OtherTasks, Readiness,
    Sent, Signal, Snapshot, StateDigest, StateName, StopPhase, StopReason, Timestamp,
    TransportRecord, VERSION,
};

use crate::{any, through};

fn reached(history: &[(u64, Observation)]) -> Snapshot {
    through(history, |_, _, _, _, _| {})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_state_is_read_back_unchanged(history in any::history()) {
        through(&history, |_, _, after, _, _| {
            let text = after.to_ron().unwrap();
            assert_eq!(Snapshot::parse(&text).as_ref(), Ok(after), "{text}");
        });
    }

    #[test]
    fn a_truncated_snapshot_is_an_error(history in any::history(), at in any::<prop::sample::Index>()) {
        let text = reached(&history).to_ron().unwrap();
        // The last character is the closing parenthesis, so any shorter text is torn.
        let cut = at.index(text.trim_end().len());
        let torn = String::from_utf8_lossy(&text.as_bytes()[..cut]).into_owned();
        prop_assert!(matches!(Snapshot::parse(&torn), Err(BadSnapshot::Damaged(_))));
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_another_snapshot_but_no_panic(
        history in any::history(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let mut bytes = reached(&history).to_ron().unwrap().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(text) = String::from_utf8(bytes)
            && let Ok(mut snapshot) = Snapshot::parse(&text)
        {
            // A text that still parses must be usable as a snapshot.
            let now = snapshot.job.header().created;
            snapshot.plan(now);
            snapshot.step(Observation::TimePassed, now);
            snapshot.to_ron().unwrap();
        }
    }

    #[test]
    fn arbitrary_text_is_an_error(text in ".{0,200}") {
        prop_assert!(Snapshot::parse(&text).is_err());
    }
}

#[test]
fn a_newer_version_is_not_reported_as_damage() {
    let text = Snapshot::new(any::header()).to_ron().unwrap();
    let newer = text.replacen(&format!("version: {VERSION}"), "version: 7", 1);
    assert_eq!(Snapshot::parse(&newer), Err(BadSnapshot::Newer(7)));
    // Even if the newer format has only the version in common.
    assert_eq!(Snapshot::parse("(version: 9, jobs: [1, 2, 3])"), Err(BadSnapshot::Newer(9)));
    assert!(matches!(Snapshot::parse("(version: 0)"), Err(BadSnapshot::Damaged(_))));
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/snapshots")
}

/// One snapshot of each state of a successful job.
fn one_of_each() -> Vec<(StateName, Snapshot)> {
    let mut found: Vec<(StateName, Snapshot)> = Vec::new();
    let mut way = any::well();
    way.push((40, Observation::StopRequested(StopReason::Cleanup)));
    way.push((40, Observation::StopAccepted));
    through(&way, |_, _, after, _, _| {
        found.retain(|(name, _)| *name != after.job.name());
        found.push((after.job.name(), after.clone()));
    });
    // `Executing` in the middle of its output.
    let mut executing = Snapshot::new(any::header());
    through(&any::well()[..any::well().len() - 1], |_, _, after, _, _| executing = after.clone());
    found.retain(|(name, _)| *name != StateName::Executing);
    found.push((StateName::Executing, executing));
    found
}

/// A change of the format without a migration fails here: drivers in the field wrote these files.
/// Today's are in a directory named after the format's version and the states' shape. Do not change
/// the older ones.
///
/// `WRITE_FIXTURES=1 cargo test -p fargate-states --test machine` writes today's.
#[test]
fn snapshots_of_every_version_are_read() {
    let shape = StateDigest::of(&Snapshot::new(any::header()).job)
        .digest
        .split('-')
        .next()
        .unwrap()
        .to_owned();
    let current = fixtures().join(format!("v{VERSION}.{shape}"));
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        fs::create_dir_all(&current).unwrap();
        for (name, snapshot) in one_of_each() {
            fs::write(
                current.join(format!("{}.ron", name.to_string().to_lowercase())),
                snapshot.to_ron().unwrap() + "\n",
            )
            .unwrap();
        }
    }
    let directories: Vec<_> =
        fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(
        directories.contains(&fixtures().join("v1")) && directories.contains(&current),
        "{directories:?}"
    );
    for directory in directories {
        for (name, _) in one_of_each() {
            let path = directory.join(format!("{}.ron", name.to_string().to_lowercase()));
            let text =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let snapshot =
                Snapshot::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(snapshot.job.name(), name, "{}", path.display());
            assert_eq!(snapshot.version, VERSION);
        }
    }
    for (name, snapshot) in one_of_each() {
        let text =
            fs::read_to_string(current.join(format!("{}.ron", name.to_string().to_lowercase())))
                .unwrap();
        assert_eq!(
            Snapshot::parse(&text).unwrap(),
            snapshot,
            "{name}: the machine or the format changed; see the doc comment here"
        );
    }
}

/// `Ending` as drivers before shape 4 wrote it: today's next process continues.
#[test]
fn cancels_begun_by_older_drivers_continue() {
    let text = fs::read_to_string(fixtures().join("v1.3/executing.ron")).unwrap();
    let at = |seconds: u64| Timestamp::from_millis(1_750_000_000_000 + seconds * 1000);
    let (since, kill_at, deadline) = (at(0), at(15), at(25));
    for (term_sent, kill_sent, sent) in [
        (false, false, Sent::Nothing),
        (true, false, Sent::Term(since)),
        (true, true, Sent::Kill(kill_at)),
    ] {
        let ending = format!(
            "ending: Some((since: \"{since}\", term_sent: {term_sent}, kill_at: \"{kill_at}\", kill_sent: {kill_sent}, deadline: \"{deadline}\"))"
        );
        let older = text.replacen("ending: None", &ending, 1);
        let AnyJob::Executing(job) = Snapshot::parse(&older).unwrap().job else {
            panic!("{older}")
        };
        assert_eq!(job.state.ending, Some(Ending { sent, kill_at, deadline }));
        let mut snapshot = Snapshot { job: job.into(), ..Snapshot::parse(&older).unwrap() };
        let follows_until = |action| match action {
            Action::Follow(follow) => follow.until,
            other => panic!("{other:?}"),
        };
        let kills = |action| matches!(action, Action::Signal { signal: Signal::Kill, .. });
        match sent {
            Sent::Nothing => {
                assert!(matches!(snapshot.plan(since), Action::Signal { signal: Signal::Term, .. }))
            }
            Sent::Term(_) => {
                assert_eq!(follows_until(snapshot.plan(since)), Some(kill_at));
                assert!(kills(snapshot.plan(kill_at)));
            }
            Sent::Kill(_) => assert_eq!(follows_until(snapshot.plan(kill_at)), Some(deadline)),
        }
        assert_eq!(Snapshot::parse(&snapshot.to_ron().unwrap()), Ok(snapshot));
    }
}

/// `Stopping` as older drivers wrote it, with a flag for each thing that had happened, and what
/// today's machine does next.
#[test]
fn stops_begun_by_older_drivers_continue() {
    let text = fixture("v1.3/stopping.ron");
    let now = Timestamp::from_millis(1_790_000_000_720);
    let task = |n| format!("\"{}\"", any::arn(n));
    let (some, launched) = (format!("Some({})", task(1)), format!("Some(\"{now}\")"));
    let none = || "None".to_owned();
    let others = |to_stop: &[u8], ending: &[u8]| OtherTasks {
        to_stop: to_stop.iter().copied().map(any::arn).collect(),
        ending: ending.iter().copied().map(any::arn).collect(),
    };
    let ending = |tasks: &[u8]| tasks.iter().copied().map(any::arn).collect();
    // The fields `task`, `unsettled`, `rest` and `ending`; `asked`, `accepted` and `over`.
    let cases = [
        (
            (none(), launched.clone(), vec![3], vec![2], [false, false, false]),
            StopPhase::Searching { launched: now, listed: None, others: others(&[3], &[2]) },
        ),
        (
            (some.clone(), launched.clone(), vec![3], vec![2], [false, false, false]),
            StopPhase::Checking { task: any::arn(1), launched: now, others: others(&[3], &[2]) },
        ),
        (
            (some.clone(), none(), vec![3], vec![2], [true, false, false]),
            StopPhase::Requesting {
                task: any::arn(1),
                launched: None,
                sent: true,
                others: others(&[3], &[2]),
            },
        ),
        (
            (some.clone(), none(), vec![], vec![2], [true, true, false]),
            StopPhase::Ending { task: any::arn(1), launched: None, others: ending(&[2]) },
        ),
        // A driver that waited for one task's end before it stopped the next.
        (
            (some.clone(), none(), vec![3], vec![], [true, true, false]),
            StopPhase::Requesting {
                task: any::arn(3),
                launched: None,
                sent: false,
                others: others(&[], &[1]),
            },
        ),
        (
            (some, none(), vec![], vec![], [true, true, true]),
            StopPhase::Over { task: Some(any::arn(1)) },
        ),
        ((none(), none(), vec![], vec![], [false; 3]), StopPhase::Over { task: None }),
    ];
    let list = |tasks: &[u8]| tasks.iter().map(|n| task(*n)).collect::<Vec<_>>().join(", ");
    for ((task, unsettled, rest, ending, [asked, accepted, over]), expected) in cases {
        let (begin, end) =
            (text.find("task: Some(\"arn").unwrap(), text.find("deadline:").unwrap());
        let older = format!(
            "{}task: {task}, unsettled: {unsettled}, asked: {asked}, accepted: {accepted}, over: {over}, ending: [{}], {}",
            &text[..begin],
            list(&ending),
            text[end..].replacen("rest: []", &format!("rest: [{}]", list(&rest)), 1),
        );
        let mut snapshot = Snapshot::parse(&older).unwrap_or_else(|e| panic!("{e}: {older}"));
        let AnyJob::Stopping(job) = &snapshot.job else { panic!("{older}") };
        assert_eq!(job.state.phase, expected);
        let action = snapshot.plan(now + Duration::from_secs(1));
        let continues = match &expected {
            StopPhase::Searching { .. } => matches!(action, Action::Find { .. }),
            StopPhase::Checking { task, .. } | StopPhase::Ending { task, .. } => {
                matches!(&action, Action::Watch(watch) if watch.describe.as_ref().is_some_and(|(seen, _)| seen == task))
            }
            StopPhase::Requesting { task, .. } => {
                matches!(&action, Action::Stop { task: stopped, .. } if stopped == task)
            }
            StopPhase::Over { .. } => action == Action::Archive,
        };
        assert!(continues, "{expected:?}: {action:?}");
        assert_eq!(Snapshot::parse(&snapshot.to_ron().unwrap()), Ok(snapshot));
    }
}

#[test]
fn snapshots_are_readable_and_hold_no_private_key() {
    for (name, snapshot) in one_of_each() {
        let text = snapshot.to_ron().unwrap();
        assert!(text.contains(&format!("job: {name}((")), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
        if let AnyJob::Executing(_) = snapshot.job {
            assert!(text.lines().count() > 40, "one line each:\n{text}");
        }
    }
}

fn fixture(path: &str) -> String {
    let path = fixtures().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Older drivers had SSH and ECS Exec, and did not record the transport.
#[test]
fn the_transport_of_older_jobs_follows_from_their_address() {
    let ssh = ("ssh", Readiness::Probed, Duration::from_secs(15));
    let ecs_exec = ("ecs-exec", Readiness::ExecAgent, Duration::from_secs(60));
    for (path, expected) in [
        ("v1/running.ron", ssh),
        ("v1.2/executing.ron", ssh),
        ("v1.3/reachable.ron", ssh),
        ("../stuck/exec-agent.ron", ecs_exec),
        ("../stuck/disk-full.ron", ecs_exec),
    ] {
        let snapshot = Snapshot::parse(&fixture(path)).unwrap();
        let header = snapshot.job.header();
        assert_eq!(header.transport, None, "{path}");
        let TransportRecord { name, readiness, attempt_timeout } = header.transport();
        assert_eq!((name.as_ref(), *readiness, *attempt_timeout), expected, "{path}");
    }
}

#[test]
fn a_recorded_transport_is_read_back() {
    let transport = TransportRecord {
        name: "pipes".into(),
        readiness: Readiness::Probed,
        attempt_timeout: Duration::from_secs(5),
    };
    let header = Header {
        connect_to: ConnectTo::NoAddress,
        transport: Some(transport.clone()),
        ..any::header()
    };
    let text = Snapshot::new(header).to_ron().unwrap();
    let snapshot = Snapshot::parse(&text).unwrap();
    assert_eq!(snapshot.job.header().transport(), &transport, "{text}");
}

/// Drivers of all versions read and write it like this.
#[test]
fn a_missing_address_is_an_empty_text() {
    let text = fixture("v1.3/running.ron");
    let address = |text: &str| match Snapshot::parse(text).unwrap() {
        Snapshot { job: AnyJob::Running(job), .. } => job.state.address,
        other => panic!("{other:?}"),
    };
    assert_eq!(address(&text).as_deref(), Some("10.0.0.7"));
    let none = text.replacen("address: \"10.0.0.7\"", "address: \"\"", 1);
    assert_eq!(address(&none), None);
    let again = Snapshot::parse(&none).unwrap().to_ron().unwrap();
    assert!(again.contains("address: \"\","), "{again}");
}
