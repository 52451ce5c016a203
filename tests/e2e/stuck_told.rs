//! What `fargate-replay` tells of the jobs in `fixtures/stuck`.

use std::{
    fs, io,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use fargate_driver::replay::{
    Screen,
    holder::{self, Holder},
    show::{Tale, last_seen},
    usual::Usual,
};
use states::{Observation, Replay, Snapshot, Verdict};

/// Columns of a wide terminal, and of a narrow one.
const WIDE: usize = 100;
const NARROW: usize = 48;

/// What is told of a fixture: all that a lone file shows; of a script that is silent, what its
/// manager shows after a while.
pub fn tale(name: &str, snapshot: Snapshot) -> Tale {
    let (mut around, mut now) = (holder::unknown(&snapshot), last_seen(&snapshot));
    if name == "script-silent" {
        around.holder = Holder::Working("process 17 (run build_script)".to_owned());
        now = now + Duration::from_secs(20 * 60);
    }
    Tale::new(snapshot, around, Usual::default(), now)
}

fn fixtures() -> Vec<(String, PathBuf)> {
    let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck");
    let mut found: Vec<_> = fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    assert!(found.len() >= 12, "{found:?}");
    found
}

fn read(path: &PathBuf) -> Snapshot {
    Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Keeps what is written to a screen.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn told(tale: &Tale, width: usize) -> String {
    let kept = Kept::default();
    tale.tell(&mut Screen::plain(kept.clone(), width)).unwrap();
    let bytes = kept.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn replay(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_fargate-replay")).args(arguments).output().unwrap()
}

#[test]
fn every_mode_is_diagnosed_with_evidence_and_remedy() {
    for (name, path) in fixtures() {
        let tale = tale(&name, read(&path));
        let first = &tale.found[0];
        assert_eq!(first.cause.name(), name, "{:#?}", tale.found);
        assert!(!first.evidence.is_empty() && !first.remedy.is_empty(), "{first:#?}");
    }
}

/// A real job's: the script's processes were gone before its connection was, and ECS said why only
/// during `cleanup`.
#[test]
fn what_ecs_says_later_explains_a_lost_script() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/told/spot-after-lost.ron");
    let tale = tale("spot-after-lost", read(&path));
    let first = &tale.found[0];
    assert_eq!(first.cause.name(), "spot-interruption", "{:#?}", tale.found);
    assert!(first.summary.contains("stopped while build_script ran"), "{}", first.summary);
}

#[test]
fn show_tells_the_story_of_each() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, path) in fixtures() {
            insta::assert_snapshot!(name.clone(), told(&tale(&name, read(&path)), WIDE));
        }
        for name in ["connection-refused", "out-of-memory"] {
            let path = fixtures().into_iter().find(|(other, _)| other == name).unwrap().1;
            insta::assert_snapshot!(
                format!("{name}-narrow"),
                told(&tale(name, read(&path)), NARROW)
            );
        }
    });
}

/// What was handed on is marked at every write, and in the snapshot once a second.
#[test]
fn show_knows_what_was_handed_on_since_the_snapshot() {
    let (_, path) = fixtures().into_iter().find(|(name, _)| name == "script-silent").unwrap();
    let mut tale = tale("script-silent", read(&path));
    tale.around.handed_on = Some(1_234_567);
    let text = told(&tale, WIDE);
    assert!(text.contains("the end of build_script, from byte 1234567"), "{text}");
}

#[test]
fn no_line_is_wider_than_the_screen() {
    use unicode_width::UnicodeWidthStr as _;
    for (name, path) in fixtures() {
        for width in [40, NARROW, 72, WIDE] {
            let text = told(&tale(&name, read(&path)), width);
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

#[test]
fn the_command_tells_the_same_of_a_file() {
    for (name, path) in fixtures().into_iter().filter(|(name, _)| name != "script-silent") {
        let shown = replay(&["show", path.to_str().unwrap()]);
        assert_eq!(
            String::from_utf8(shown.stdout).unwrap(),
            told(&tale(&name, read(&path)), WIDE),
            "{name}"
        );
    }
}

#[test]
fn step_reaches_the_recorded_states() {
    for (name, path) in fixtures() {
        let stepped = replay(&["step", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&stepped.stdout);
        assert_eq!(stepped.status.code(), Some(0), "{name}: {text}");
        let said = text.lines().last().unwrap();
        assert!(said.contains("today's states are the recorded ones"), "{name}: {said}");
    }
}

#[test]
fn an_export_is_a_snapshot_without_names() {
    let place = tempfile::tempdir().unwrap();
    for (name, path) in fixtures() {
        let file = place.path().join(format!("{name}.ron"));
        let exported =
            replay(&["export", path.to_str().unwrap(), "--output", file.to_str().unwrap()]);
        assert!(exported.status.success(), "{exported:?}");
        let text = fs::read_to_string(&file).unwrap();
        let said = String::from_utf8(exported.stdout).unwrap();
        for line in ["Replaced, each name", "Left out: the job's key", "Kept: times"] {
            assert!(
                text.contains(line) && said.replace('\n', " ").contains(line),
                "{line}: {said}"
            );
        }
        let real = read(&path);
        let header = real.job.header();
        let task = real.job.task().map_or("no task", |task| task.task_id());
        for secret in [
            "gitlab.example",
            "group/project",
            "tOk3n",
            "manager-1.",
            "sg-0a1b2c3d",
            "AAAAC3",
            task,
            header.id.as_str(),
            header.token.as_str(),
        ] {
            assert!(!text.contains(secret), "{name}: {secret} is in\n{text}");
        }
        assert_eq!(
            replay(&["export", path.to_str().unwrap()]).stdout,
            text.as_bytes(),
            "{name}: standard output"
        );
        assert_eq!(replay(&["step", file.to_str().unwrap()]).status.code(), Some(0), "{name}");
        let cause = tale(&name, read(&file)).found[0].cause;
        assert_eq!(cause.name(), name);
    }
}

/// A machine that takes one transition less is told apart at that very entry, whichever transition
/// it is.
#[test]
fn a_changed_transition_is_caught_at_its_entry() {
    let mut caught = 0;
    for (name, path) in fixtures() {
        let snapshot = read(&path);
        let mut replay = Replay::new(&snapshot);
        let mut was = replay.job().name();
        while let Some(step) = replay.advance() {
            let changed = std::mem::replace(&mut was, step.job.name()) != step.job.name();
            // Of merged observations only the last one's state is on record.
            if !changed || step.recorded.is_none() {
                continue;
            }
            let deaf = Replay::by(&snapshot, |job, saw: &Observation, at| {
                if at == step.at && saw == step.saw { job } else { job.observe(saw, at) }
            });
            match deaf.verdict() {
                Verdict::Differ(found) => {
                    assert_eq!(
                        (found.entry, found.recorded.as_ref()),
                        (step.entry, step.recorded),
                        "{name}: {found}"
                    );
                }
                agree @ Verdict::Agree { .. } => panic!("{name}, entry {}: {agree:?}", step.entry),
            }
            caught += 1;
        }
    }
    assert!(caught >= 50, "only {caught} transitions were left out");
}
