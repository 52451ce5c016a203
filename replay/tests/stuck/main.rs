//! The reports of the jobs in `fixtures/stuck`: one job for each failure mode.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod fixtures;

use states::{Observation, Replay, Verdict};

use fixtures::{WIDE, fixture, print, read, report, stuck};

/// The width of a narrow terminal, in columns.
const NARROW: usize = 48;

#[test]
fn every_mode_is_diagnosed_with_evidence_and_remedy() {
    for (name, path) in stuck() {
        let report = report(&name, read(&path));
        let first = &report.diagnoses[0];
        assert_eq!(first.cause.name(), name, "{:#?}", report.diagnoses);
        assert!(!first.evidence.is_empty() && !first.remedy.is_empty(), "{first:#?}");
    }
}

/// A real job: the script's processes ended before its connection did, and ECS gave the reason only
/// during `cleanup`.
#[test]
fn a_later_reason_of_ecs_explains_a_lost_script() {
    let path = fixture("told/spot-after-lost.ron");
    let report = report("spot-after-lost", read(&path));
    let first = &report.diagnoses[0];
    assert_eq!(first.cause.name(), "spot-interruption", "{:#?}", report.diagnoses);
    assert!(first.summary.contains("stopped while build_script ran"), "{}", first.summary);
}

#[test]
fn reports_match_their_snapshots() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, path) in stuck() {
            insta::assert_snapshot!(name.clone(), print(&report(&name, read(&path)), WIDE));
        }
        for name in ["connection-refused", "out-of-memory"] {
            let path = stuck().into_iter().find(|(other, _)| other == name).unwrap().1;
            insta::assert_snapshot!(
                format!("{name}-narrow"),
                print(&report(name, read(&path)), NARROW)
            );
        }
    });
}

/// The mark of the output follows every write; the snapshot follows once a second.
#[test]
fn a_report_counts_output_since_the_last_save() {
    let (_, path) = stuck().into_iter().find(|(name, _)| name == "script-silent").unwrap();
    let mut report = report("script-silent", read(&path));
    report.surroundings.handed_on = Some(1_234_567);
    let text = print(&report, WIDE);
    assert!(text.contains("the end of build_script, from byte 1234567"), "{text}");
}

#[test]
fn no_line_is_wider_than_the_screen() {
    use unicode_width::UnicodeWidthStr as _;
    for (name, path) in stuck() {
        for width in [40, NARROW, 72, WIDE] {
            let text = print(&report(&name, read(&path)), width);
            for line in text.lines() {
                assert!(
                    line.width() <= width,
                    "{name}: {} columns of {width}: {line}",
                    line.width()
                );
            }
        }
    }
}

/// A replay by a machine without one of the transitions differs at that transition's entry.
#[test]
fn replays_report_a_missing_transition_at_its_entry() {
    let mut missing = 0;
    for (name, path) in stuck() {
        let snapshot = read(&path);
        let mut replay = Replay::new(&snapshot);
        let mut was = replay.job().name();
        while let Some(step) = replay.advance() {
            let changed = std::mem::replace(&mut was, step.job.name()) != step.job.name();
            // Merged observations have one entry, with the state after the last of them.
            if !changed || step.recorded.is_none() {
                continue;
            }
            let differing = Replay::by(&snapshot, |job, saw: &Observation, at| {
                if at == step.at && saw == step.saw { job } else { job.observe(saw, at) }
            });
            match differing.verdict() {
                Verdict::Differ(found) => {
                    assert_eq!(
                        (found.entry, found.recorded.as_ref()),
                        (step.entry, step.recorded),
                        "{name}: {found}"
                    );
                }
                agree @ Verdict::Agree { .. } => panic!("{name}, entry {}: {agree:?}", step.entry),
            }
            missing += 1;
        }
    }
    assert!(missing >= 50, "only {missing} transitions were left out");
}
