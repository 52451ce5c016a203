//! Properties of the machine, for any observations in any order at any times.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod any;
mod claims;
mod endings;
mod launches;
mod links;
mod replays;
mod snapshots;

use proptest::prelude::*;
use states::{Action, AnyJob, Link, Observation, Snapshot, StateName, Timestamp};

use StateName::{Executing, Pending, Provisioning, Reachable, Running, Stopping};

/// The table of edges, as in `docs/architecture.md`, besides the edge to `Stopping` that every
/// state has.
const EDGES: [(StateName, StateName); 6] = [
    (Provisioning, Reachable),
    (Provisioning, Pending),
    (Pending, Running),
    (Running, Reachable),
    (Reachable, Executing),
    (Executing, Reachable),
];

/// Runs the machine through observations, with a check after each.
fn through(
    history: &[(u64, Observation)],
    mut check: impl FnMut(&AnyJob, &Observation, &Snapshot, &Action, Timestamp),
) -> Snapshot {
    let mut snapshot = Snapshot::new(any::header());
    let mut now = snapshot.job.header().created;
    for (wait, saw) in history {
        now = Timestamp::from_millis(now.as_millis() + wait);
        let before = snapshot.job.clone();
        let action = snapshot.step(saw.clone(), now);
        check(&before, saw, &snapshot, &action, now);
    }
    snapshot
}

fn reason(job: &AnyJob) -> Option<&states::StopReason> {
    match job {
        AnyJob::Stopping(job) => Some(&job.state.reason),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn only_edges_of_the_table_are_taken(history in any::history()) {
        through(&history, |before, saw, after, _, _| {
            let edge = (before.name(), after.job.name());
            let allowed = edge.0 == edge.1 || edge.1 == Stopping || EDGES.contains(&edge);
            assert!(allowed, "{edge:?} on {saw:?}");
        });
    }

    #[test]
    fn only_stopping_ends_and_its_reason_stays(history in any::history()) {
        through(&history, |before, saw, after, action, _| {
            if matches!(action, Action::Archive | Action::GiveUp) {
                assert_eq!(after.job.name(), Stopping);
            }
            if before.name() == Stopping {
                assert_eq!(after.job.name(), Stopping, "left Stopping on {saw:?}");
                assert_eq!(reason(before), reason(&after.job));
            }
        });
    }

    #[test]
    fn a_job_is_not_archived_while_its_task_may_live(history in any::history()) {
        let mut seen_over = false;
        through(&history, |before, saw, after, action, now| {
            seen_over |= match saw {
                Observation::Described(report) => report.status.has_ended() || before.name() != Stopping,
                Observation::Missing | Observation::Found(_) => true,
                _ => false,
            };
            let AnyJob::Stopping(job) = &after.job else { return };
            if *action == Action::Archive && !seen_over {
                assert!(job.state.task().is_none(), "archived with {:?} never seen over", job.state.task());
                assert!(job.state.unanswered_launch().is_none(), "archived with a launch of unknown outcome at {now}");
            }
        });
    }

    #[test]
    fn no_state_outlives_its_deadline(history in any::history()) {
        through(&history, |_, saw, after, _, now| {
            let late = match &after.job {
                AnyJob::Provisioning(job) => now >= job.state.deadline,
                AnyJob::Pending(job) => now >= job.state.deadline,
                AnyJob::Running(job) => now >= job.state.deadline,
                AnyJob::Executing(job) => {
                    matches!(&job.state.link, Link::Down { deadline, .. } if now >= *deadline)
                        || job.state.ending.as_ref().is_some_and(|ending| now >= ending.deadline)
                }
                AnyJob::Reachable(_) | AnyJob::Stopping(_) => false,
            };
            assert!(!late, "{} outlived its deadline on {saw:?}", after.job.name());
        });
    }

    #[test]
    fn no_wait_ends_after_its_deadline(history in any::history()) {
        through(&history, |_, _, after, action, _| {
            if let Action::Watch(watch) = action {
                let deadline = match &after.job {
                    AnyJob::Provisioning(job) => job.state.deadline,
                    AnyJob::Pending(job) => job.state.deadline,
                    AnyJob::Running(job) => job.state.deadline,
                    AnyJob::Stopping(job) => job.state.deadline,
                    AnyJob::Executing(job) => match &job.state.link {
                        Link::Down { deadline, .. } => *deadline,
                        Link::Up => panic!("watching while connected"),
                    },
                    AnyJob::Reachable(_) => panic!("nothing is to be watched in Reachable"),
                };
                assert!(watch.until <= deadline);
            }
        });
    }

    #[test]
    fn the_task_never_changes_and_the_offset_never_decreases(history in any::history()) {
        through(&history, |before, saw, after, _, _| {
            if let (Some(task), Some(now)) = (before.task(), after.job.task())
                && after.job.name() != Stopping
            {
                assert_eq!(task, now, "on {saw:?}");
            }
            if let (AnyJob::Executing(before), AnyJob::Executing(after)) = (before, &after.job) {
                assert!(after.state.offset >= before.state.offset);
                assert_eq!(after.state.order, before.state.order);
                assert_eq!(after.state.place.identity, before.state.place.identity, "the pinned identity stays");
            }
        });
    }

    #[test]
    fn a_connection_works_only_while_it_is_up_and_has_the_script(history in any::history()) {
        through(&history, |_, _, after, _, now| {
            if let AnyJob::Executing(job) = &after.job
                && let Some(since) = job.state.followed
            {
                assert!(job.state.link == Link::Up && job.state.started && since <= now, "{:?}", job.state);
            }
        });
    }

    #[test]
    fn planning_is_idempotent(history in any::history()) {
        through(&history, |_, _, after, action, now| {
            let mut again = after.clone();
            assert_eq!(again.plan(now), *action);
            assert_eq!(&again, after);
        });
    }

    #[test]
    fn a_journal_replays_to_the_same_state(history in any::history()) {
        let snapshot = through(&history, |_, _, _, _, _| {});
        prop_assume!(snapshot.journal.omitted == 0);
        prop_assert_eq!(snapshot.journal.replay(any::header()), snapshot.job);
    }

    #[test]
    fn a_journal_with_repetitions_replays_to_the_same_state(history in any::waiting()) {
        let snapshot = through(&history, |_, _, _, _, _| {});
        prop_assert!(snapshot.journal.entries.len() < 30, "{} entries of {}", snapshot.journal.entries.len(), history.len());
        prop_assert_eq!(snapshot.journal.replay(any::header()), snapshot.job);
    }
}

/// Tests the generators: the histories reach every state, and both of its edges.
#[test]
fn the_histories_reach_every_state() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut edges = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let history = any::history().new_tree(&mut runner).unwrap().current();
        through(&history, |before, _, after, _, _| {
            edges.insert((before.name(), after.job.name()));
        });
    }
    let states = [Provisioning, Pending, Running, Reachable, Executing];
    for wanted in EDGES.into_iter().chain(states.map(|state| (state, Stopping))) {
        assert!(edges.contains(&wanted), "no history takes {wanted:?}: {edges:?}");
    }
}
