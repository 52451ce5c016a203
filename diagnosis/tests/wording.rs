//! Facts inside, words at the edge: nothing that is persisted or compared contains this crate's
//! words.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{fs, path::PathBuf};

use states::{AnyJob, Replay, Snapshot, Verdict};

/// The shortest phrase that is checked, in characters: AWS's texts may contain shorter ones.
const SHORTEST_PHRASE: usize = 20;

/// Every snapshot in `fixtures/`, old and new.
fn fixtures() -> Vec<(PathBuf, Snapshot)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let mut found = Vec::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ron") {
                let snapshot = Snapshot::parse(&fs::read_to_string(&path).unwrap())
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found.push((path, snapshot));
            }
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

fn state_of(job: &AnyJob) -> String {
    match job {
        AnyJob::Provisioning(job) => ron::to_string(&job.state),
        AnyJob::Pending(job) => ron::to_string(&job.state),
        AnyJob::Running(job) => ron::to_string(&job.state),
        AnyJob::Reachable(job) => ron::to_string(&job.state),
        AnyJob::Executing(job) => ron::to_string(&job.state),
        AnyJob::Stopping(job) => ron::to_string(&job.state),
    }
    .unwrap()
}

/// The crate's phrases as RON writes them.
fn phrases() -> Vec<String> {
    let phrases: Vec<String> = diagnosis::phrases()
        .map(|phrase| phrase.replace('"', "\\\"").replace('\'', "\\'"))
        .filter(|phrase| phrase.len() >= SHORTEST_PHRASE)
        .collect();
    assert!(phrases.len() > 90, "{}", phrases.len());
    phrases
}

/// Rewording a phrase therefore changes no state, no digest in a journal and no step of a replay.
#[test]
fn no_state_holds_a_phrase() {
    let phrases = phrases();
    for (path, snapshot) in fixtures() {
        let mut replay = Replay::new(&snapshot);
        while let Some(step) = replay.advance() {
            let state = state_of(&step.job);
            for phrase in &phrases {
                let plain = phrase.replace("\\'", "'");
                assert!(
                    !state.contains(phrase.as_str()) && !state.contains(&plain),
                    "{}, observation {}: {phrase:?} is in {state}",
                    path.display(),
                    step.number
                );
            }
        }
        // The journal is not checked: ECS repeats the reason given to StopTask.
        let state = state_of(&snapshot.job);
        for phrase in &phrases {
            assert!(!state.contains(phrase.as_str()), "{}: {phrase:?}", path.display());
        }
    }
}

/// The last state of a snapshot of version 1 contains sentences, and its journal the facts.
#[test]
fn fixtures_of_every_version_load_with_facts_and_replay() {
    for (path, snapshot) in fixtures() {
        if let AnyJob::Stopping(job) = &snapshot.job {
            let reason = ron::to_string(&job.state.reason).unwrap();
            assert!(!reason.to_lowercase().contains("recorded"), "{}: {reason}", path.display());
        }
        if path.to_string_lossy().contains("snapshots") {
            continue;
        }
        let verdict = snapshot.replay();
        assert!(matches!(verdict, Verdict::Agree { .. }), "{}: {verdict:?}", path.display());
    }
}

/// No text of the machine names a setting: advice is for this crate.
#[test]
fn the_machine_names_no_setting() {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../states/src");
    let mut directories = vec![sources];
    let mut read = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // The store's errors are no facts of a job.
            if path.is_dir() && !path.ends_with("store") {
                directories.push(path.clone());
            }
            if path.is_dir() {
                continue;
            }
            read += 1;
            let text = fs::read_to_string(&path).unwrap();
            for (table, key) in diagnosis::settings::ALL {
                let setting = format!("[{table}] {key}");
                assert!(!text.contains(&setting), "{}: {setting}", path.display());
            }
            assert!(!text.contains("fargate.toml"), "{}", path.display());
        }
    }
    assert!(read > 25, "{read}");
}
