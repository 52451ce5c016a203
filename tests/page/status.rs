//! `fargate status`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::directory::directory;

fn status(directory: &Path, arguments: &[&str]) -> Output {
    status_with("", directory, arguments)
}

/// The same with more tables in `fargate.toml`.
fn status_with(more: &str, directory: &Path, arguments: &[&str]) -> Output {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("fargate.toml");
    let text = format!(
        "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '{}'\nManager = 'runner-1'\n{more}",
        directory.display()
    );
    fs::write(&file, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(["--config", file.to_str().unwrap(), "status"])
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_directory_without_jobs_is_well() {
    let place = directory(0);
    let output = status(place.path(), &[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("runner-1") && text.contains("each stage works by itself"), "{text}");
    assert!(!place.path().join("archive").exists(), "a command that reads has written");
}

#[test]
fn stuck_jobs_are_problems_and_are_explained() {
    let place = directory(0);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/stuck/connection-refused.ron");
    fs::copy(fixture, place.path().join("one.ron")).unwrap();
    let output = status(place.path(), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("connection-refused: "), "{shown}");

    let output = status(place.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["manager"], "runner-1");
    assert_eq!(json["problem"], Value::Null);
    assert_eq!(json["service"]["running"], false);
    assert_eq!(json["stuck"][0]["snapshot"], "one");
    assert_eq!(json["stuck"][0]["diagnoses"][0]["cause"], "connection-refused");
    let jobs: u64 = json["jobs"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(jobs, 1);
}

#[test]
fn a_service_is_one_that_listens() {
    let place = directory(0);
    let running = |place: &Path| {
        let json: Value = serde_json::from_slice(&status(place, &["--json"]).stdout).unwrap();
        json["service"]["running"].as_bool().unwrap()
    };
    let listener = UnixListener::bind(place.path().join("fargate.sock")).unwrap();
    assert!(running(place.path()));
    drop(listener);
    assert!(!running(place.path()), "a socket that was left behind is no service");
}

#[test]
fn a_pool_that_is_not_kept_is_a_problem() {
    let place = directory(0);
    let pool = "[[Warm]]\nName = 'node'\nCount = 2\n";
    let output = status_with(pool, place.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = &json["pools"][0];
    assert_eq!((&shown["name"], &shown["wanted"]), (&"node".into(), &2.into()));
    assert!(shown["problem"].as_str().unwrap().contains("fargate serve"), "{json}");

    // One that is kept, and is only being filled, has no problem.
    let _listener = UnixListener::bind(place.path().join("fargate.sock")).unwrap();
    let output = status_with(pool, place.path(), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("node: 0 of 2 ready"), "{shown}");
    let state = r#"{"pools":[{"name":"node","short_since":"2020-01-01T00:00:00.000Z"}]}"#;
    fs::write(place.path().join("fargate.pools"), state).unwrap();
    let output = status_with(pool, place.path(), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("It has had too few tasks for"), "{shown}");
    // One that wants none needs no service.
    let other = directory(0);
    let off = status_with("[[Warm]]\nCount = 0\n", other.path(), &[]);
    assert_eq!(off.status.code(), Some(0), "{}", text(&off));
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let place = directory(0);
    let output = status(&place.path().join("gone"), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("fargate: ") && shown.contains("gone"), "{shown}");

    let output = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(["--config", "/nowhere/fargate.toml", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_directory_that_the_driver_refuses_is_a_problem() {
    let place = directory(0);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = status(place.path(), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("chmod go-w"), "{shown}");
    let json: Value = serde_json::from_slice(&status(place.path(), &["--json"]).stdout).unwrap();
    assert!(json["problem"].as_str().unwrap().contains("chmod go-w"), "{json}");
}
