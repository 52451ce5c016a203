//! deploy/images and the entry points: what every image has, and what the manager's container does.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

/// Returns the name and the text of each image's Dockerfile.
fn dockerfiles() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/images");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<(String, String)> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// Returns the instructions of a stage.
fn stage<'a>(file: &'a str, name: &str) -> &'a str {
    let (_, stage) =
        file.split_once(&format!(" AS {name}\n")).unwrap_or_else(|| panic!("no stage {name}"));
    stage.split("\nFROM ").next().unwrap()
}

#[test]
fn every_image_of_jobs_starts_as_the_task_definitions_say() {
    let names: Vec<String> = dockerfiles().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["alpine", "amazonlinux", "coordinator", "debian", "manager", "node"]);
    for (name, file) in dockerfiles().iter().filter(|(name, _)| name != "manager") {
        let exec = stage(file, "ecs-exec");
        assert!(exec.contains("ENTRYPOINT [\"sleep\"]\nCMD [\"infinity\"]"), "{name}: {exec}");
        let ssh = stage(file, "ssh");
        assert!(ssh.contains("ENTRYPOINT [\"/usr/local/bin/ssh-entrypoint.sh\"]"), "{name}: {ssh}");
        assert!(
            ssh.contains("COPY --chmod=755 ssh-entrypoint.sh /usr/local/bin/ssh-entrypoint.sh"),
            "{name}: {ssh}"
        );
        assert!(ssh.contains("openssh-server"), "{name}: {ssh}");
        // Debian's package makes host keys at its installation. Alpine's makes none.
        assert!(name == "alpine" || ssh.contains("/etc/ssh/ssh_host_*"), "{name}: {ssh}");
        assert!(file.contains(" git ") && file.contains("/usr/bin/gitlab-runner"), "{name}");
    }
}

#[test]
fn all_images_have_the_same_version_of_gitlab_runner() {
    for (name, file) in dockerfiles() {
        let version = file.lines().find_map(|line| line.strip_prefix("ARG RUNNER_VERSION="));
        assert_eq!(version, Some("18.11.3"), "{name}");
    }
}

/// Runs the manager's entry point with this shell, in directories of the test. What it starts notes
/// how.
fn start_manager(place: &Path, shell: &[&str], variables: &[(&str, &str)]) -> Output {
    let bin = place.join("bin");
    fs::create_dir(&bin).unwrap();
    let note =
        "#!/bin/sh\nenv > \"$PLACE/${0##*/}.env\"\necho \"${0##*/} $*\" >> \"$PLACE/started\"\n";
    // The entry point ends when the runner does; the service has been started by then.
    let wait = "while ! grep -qs '^fargate ' \"$PLACE/started\"; do sleep 0.01; done\n";
    for (name, text) in
        [("fargate", format!("{note}exec sleep 60\n")), ("gitlab-runner", format!("{note}{wait}"))]
    {
        // Written by another process: one that a thread of this process starts meanwhile would have
        // the file open, and it could not be executed.
        let write = "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let file = bin.join(name).display().to_string();
        let written = Command::new("sh").args(["-c", write, "sh", &text, &file]).status();
        assert!(written.unwrap().success());
    }
    let script = include_str!("../deploy/manager-entrypoint.sh")
        .replace("/etc/gitlab-runner", place.join("etc").to_str().unwrap())
        .replace("/var/log/fargate", place.join("log").to_str().unwrap());
    // A process group of its own: what it has started in the background ends with it.
    let group = "\"$@\"; code=$?; trap '' TERM; kill -TERM 0; exit $code";
    Command::new("setsid")
        .args(["--wait", "sh", "-c", group, "group"])
        .args(shell)
        .args(["-c", &script])
        .env_clear()
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .env("PLACE", place)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

const TOKEN: &str = "glrt-t3_s3cr3t-%s\\n";

#[test]
fn the_managers_entry_point_writes_the_configuration_and_keeps_the_token_to_it() {
    for shell in [&["sh"][..], &["bash"], &["dash"], &["busybox", "sh"]] {
        if Command::new(shell[0]).args(["-c", "true"]).output().is_err() {
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let ended = start_manager(
            place.path(),
            shell,
            &[
                ("FARGATE_TOML", "LogLevel = \"info\""),
                ("CONFIG_TOML", "[[runners]]\n  token = \"RUNNER_TOKEN\"\n  executor = \"custom\""),
                ("RUNNER_TOKEN", TOKEN),
                ("AWS_REGION", "eu-central-1"),
            ],
        );
        assert!(ended.status.success(), "{shell:?}: {ended:?}");
        let runner = path("etc/config.toml");
        assert_eq!(
            fs::read_to_string(&runner).unwrap(),
            format!("[[runners]]\n  token = \"{TOKEN}\"\n  executor = \"custom\"\n"),
            "{shell:?}"
        );
        assert_eq!(fs::metadata(&runner).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_to_string(path("etc/fargate.toml")).unwrap(),
            "LogLevel = \"info\"\n",
            "{shell:?}"
        );
        let started = fs::read_to_string(path("started")).unwrap();
        let config = path("etc/fargate.toml").display().to_string();
        assert!(
            started.lines().any(|line| line == format!("fargate --config {config} serve")),
            "{shell:?}: {started}"
        );
        assert!(
            started.lines().any(|line| line.starts_with("gitlab-runner run --config ")),
            "{shell:?}: {started}"
        );
        for name in ["fargate.env", "gitlab-runner.env"] {
            let environment = fs::read_to_string(path(name)).unwrap();
            assert!(environment.contains("AWS_REGION=eu-central-1"), "{name}: {environment}");
            assert!(
                !["s3cr3t", "TOML"].iter().any(|word| environment.contains(word)),
                "{shell:?}, {name}: {environment}"
            );
        }
    }
}

#[test]
fn the_managers_entry_point_says_what_is_missing() {
    let given = [("FARGATE_TOML", "x"), ("CONFIG_TOML", "RUNNER_TOKEN"), ("RUNNER_TOKEN", "y")];
    for (missing, _) in given {
        let place = tempfile::tempdir().unwrap();
        let rest: Vec<(&str, &str)> =
            given.into_iter().filter(|(name, _)| *name != missing).collect();
        let ended = start_manager(place.path(), &["sh"], &rest);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(missing), "{missing}: {said}");
        assert!(!place.path().join("started").exists(), "{missing}: it started something");
    }
    let place = tempfile::tempdir().unwrap();
    let without = [("FARGATE_TOML", "x"), ("CONFIG_TOML", "token"), ("RUNNER_TOKEN", "y")];
    let ended = start_manager(place.path(), &["sh"], &without);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("the place of the token"), "{said}");
}
