//! `fargate init`: at a terminal, and without one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use fargate_driver::config::Config;

use crate::{doctor::Scene, session::Terminal};

fn init(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        // No account answers there: what no flag says, has a default.
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", directory)
        .current_dir(directory)
        .arg("init")
        .args(arguments)
        .output()
        .unwrap()
}

const FLAGS: [&str; 8] =
    ["--cluster", "ci", "--region", "eu-central-1", "--subnet", "subnet-a", "--task-def", "job"];

#[test]
fn without_a_terminal_flags_are_enough_and_no_file_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let written = init(place.path(), &FLAGS);
    let stdout = String::from_utf8(written.stdout).unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    assert!(stdout.contains("fargate --config fargate.toml doctor"), "{stdout}");
    let file = place.path().join("fargate.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (config, warnings) = Config::parse(&text, &file).unwrap();
    assert_eq!((config.fargate.cluster.as_str(), warnings), ("ci", vec![]));
    assert_eq!(config.fargate.subnets, ["subnet-a"]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = init(place.path(), &FLAGS);
    let stderr = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(2) && stderr.contains("not overwritten"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn missing_flags_are_all_named_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let refused = init(place.path(), &["--cluster", "ci"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr.contains("missing --region, --subnet, --task-def"), "{stderr}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    let elsewhere = place.path().join("none/fargate.toml");
    let arguments = [&FLAGS[..], &["--config", elsewhere.to_str().unwrap()]].concat();
    let refused = init(place.path(), &arguments);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("cannot be written") && refused.status.code() == Some(2), "{stderr}");
}

#[test]
#[ignore = "needs moto: scripts/test installs it and runs this"]
fn at_a_terminal_it_offers_what_the_account_has() {
    let scene = Scene::new();
    let registered = scene.examine();
    assert_eq!(registered.code, Some(0), "{registered:?}");
    let file = scene.path("new.toml");
    let command = pty_process::blocking::Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        .envs(scene.environment.iter().map(|(k, v)| (k, v)))
        .arg("--config")
        .arg(&file)
        .arg("init");
    let terminal = Terminal::run(command, 200);
    // The number of a line that has this, as the account has more than one of each.
    let number = |terminal: &Terminal, what: &str| {
        terminal.shows(what);
        let text = terminal.text();
        let line = text.lines().find(|line| line.contains(what)).unwrap();
        line.trim().split(')').next().unwrap().to_owned()
    };
    terminal.shows("AWS region: ");
    terminal.press("us-east-1\n");
    terminal.shows("Cluster [");
    terminal.press(&format!("{}\n", number(&terminal, &format!(") {}", scene.name))));
    terminal.shows("Task definition [");
    terminal.press(&format!("{}\n", scene.name));
    terminal.shows("Subnets of the tasks [");
    terminal.press(&format!("{}\n", number(&terminal, &scene.subnet)));
    terminal.shows("Security groups of the tasks");
    terminal.press(&format!("{}\n", number(&terminal, &format!(") {}", scene.group))));
    terminal.shows("public address");
    terminal.press("\n");
    terminal.shows("Transport [ssh]");
    terminal.press("2\n");
    terminal.shows("Metadata directory [/opt/gitlab-runner/metadata]");
    terminal.press(&format!("{}\n", scene.metadata.display()));
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("doctor"), "{seen}");
    let (config, warnings) = Config::load(Some(&file)).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.fargate.cluster, scene.name);
    assert_eq!(config.fargate.subnets, std::slice::from_ref(&scene.subnet));
    assert_eq!(config.fargate.security_groups, std::slice::from_ref(&scene.group));
    assert_eq!(config.transport.name(), "ecs-exec");
    assert_eq!(config.metadata.directory, scene.metadata);
}
