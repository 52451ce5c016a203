//! `fargate-replay` on the jobs in `fixtures/stuck`. Their reports are tested in the crate
//! `replay`.

use std::{fs, process::Command};

use crate::stuck_fixtures::{WIDE, print, read, report, stuck};

fn replay(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_fargate-replay")).args(arguments).output().unwrap()
}

#[test]
fn show_prints_the_report_of_a_file() {
    for (name, path) in stuck().into_iter().filter(|(name, _)| name != "script-silent") {
        let shown = replay(&["show", path.to_str().unwrap()]);
        assert_eq!(
            String::from_utf8(shown.stdout).unwrap(),
            print(&report(&name, read(&path)), WIDE),
            "{name}"
        );
    }
}

#[test]
fn step_reaches_the_recorded_states() {
    for (name, path) in stuck() {
        let stepped = replay(&["step", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&stepped.stdout);
        assert_eq!(stepped.status.code(), Some(0), "{name}: {text}");
        let printed = text.lines().last().unwrap();
        assert!(printed.contains("today's states are the recorded ones"), "{name}: {printed}");
    }
}

#[test]
fn an_export_is_a_snapshot_without_names() {
    let directory = tempfile::tempdir().unwrap();
    for (name, path) in stuck() {
        let file = directory.path().join(format!("{name}.ron"));
        let exported =
            replay(&["export", path.to_str().unwrap(), "--output", file.to_str().unwrap()]);
        assert!(exported.status.success(), "{exported:?}");
        let text = fs::read_to_string(&file).unwrap();
        let printed = String::from_utf8(exported.stdout).unwrap();
        for line in ["Replaced, each name", "Left out: the job's key", "Kept: times"] {
            assert!(
                text.contains(line) && printed.replace('\n', " ").contains(line),
                "{line}: {printed}"
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
        let cause = report(&name, read(&file)).diagnoses[0].cause;
        assert_eq!(cause.name(), name);
    }
}
