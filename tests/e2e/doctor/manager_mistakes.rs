//! Mistakes on the manager's own machine: the metadata directory, the log, and gitlab-runner's
//! `config.toml`.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::mistakes::{
    Mistake,
    Severity::{Failure, Warning},
};

pub(super) const MANAGER_MISTAKES: &[Mistake] = &[
    ("directory-exposed", Failure, "chmod go-w", |scene| {
        fs::set_permissions(&scene.metadata, fs::Permissions::from_mode(0o777)).unwrap();
    }),
    ("directory-not-writable", Failure, "no directory", |scene| {
        fs::remove_dir(&scene.metadata).unwrap();
        fs::write(&scene.metadata, "").unwrap();
    }),
    ("directory-exposed", Failure, "chmod go-w", |scene| {
        // It is missing, and others could put theirs in its place.
        fs::remove_dir(&scene.metadata).unwrap();
        let above = scene.metadata.parent().unwrap();
        fs::set_permissions(above, fs::Permissions::from_mode(0o777)).unwrap();
    }),
    ("no-log-file", Failure, "/nowhere/fargate.log", |scene| {
        scene.edit("[Fargate]", "LogFile = \"/nowhere/fargate.log\"\n[Fargate]");
    }),
    ("volatile-file-system", Warning, "tmpfs", |scene| {
        let metadata = format!("{:?}", scene.metadata);
        scene.edit(&metadata, "\"/dev/shm/fargate-doctor\"");
    }),
    ("runner-config-wrong", Failure, "not usable", |scene| {
        scene.edit_runner("[[runners]]", "[[runners]");
    }),
    ("no-custom-runner", Failure, "custom", |scene| {
        scene.edit_runner("executor = \"custom\"", "executor = \"docker\"");
    }),
    ("other-configuration", Warning, "--config", |scene| {
        scene.edit_runner("fargate.toml", "other.toml");
    }),
    ("no-runner-token", Failure, "placeholder", |scene| {
        scene.edit_runner("\"glrt-t\"", "\"RUNNER_TOKEN\"");
    }),
    ("no-runner-token", Failure, "registration token", |scene| {
        scene.edit_runner("\"glrt-t\"", "\"GR1348941x\"");
    }),
    ("not-a-posix-shell", Failure, "pwsh", |scene| {
        scene.edit_runner("cache_dir =", "shell = \"pwsh\"\ncache_dir =");
    }),
    ("no-stage-program", Failure, "cleanup_exec", |scene| {
        scene.edit_runner("cleanup_exec", "cleanup_nothing");
    }),
    ("no-config-stage", Warning, "config_exec", |scene| {
        scene.edit_runner("config_exec", "config_nothing");
    }),
    ("no-program", Failure, "/opt/missing/fargate", |scene| {
        let program = format!("prepare_exec = {:?}", env!("CARGO_BIN_EXE_fargate"));
        scene.edit_runner(&program, "prepare_exec = \"/opt/missing/fargate\"");
    }),
    ("other-program", Warning, "/bin/sh", |scene| {
        let program = format!("prepare_exec = {:?}", env!("CARGO_BIN_EXE_fargate"));
        scene.edit_runner(&program, "prepare_exec = \"/bin/sh\"");
    }),
    ("wrong-arguments", Failure, "custom run", |scene| {
        scene.edit_runner("\"custom\", \"run\"", "\"custom\", \"prepare\"");
    }),
    ("no-config-argument", Failure, "--config", |scene| {
        let file = scene.path("fargate.toml");
        let named = format!("\"--config\", {file:?}, \"custom\", \"run\"");
        scene.edit_runner(&named, "\"custom\", \"run\"");
    }),
    ("no-runner-directory", Failure, "cache_dir", |scene| {
        scene.edit_runner("cache_dir = \"/cache\"", "");
    }),
    ("stage-timeout", Warning, "prepare after 60 s", |scene| {
        scene.edit_runner("prepare_exec =", "prepare_exec_timeout = 60\nprepare_exec =");
    }),
    ("kill-timeout", Warning, "GracePeriod", |scene| {
        scene.config.push_str("[Deadlines]\nGracePeriod = \"15m\"\n");
    }),
    ("credentials-in-jobs", Warning, "AWS_SECRET_ACCESS_KEY", |scene| {
        scene
            .edit_runner("cache_dir =", "environment = [\"AWS_SECRET_ACCESS_KEY=x\"]\ncache_dir =");
    }),
];
