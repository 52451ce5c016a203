//! `fargate try`, as a new user calls it.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::{
    cluster::Cluster,
    runner::{Alone, Job},
};

fn fargate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        // A user's shell does not have gitlab-runner's variables.
        .env_remove("BUILD_FAILURE_EXIT_CODE")
        .env_remove("SYSTEM_FAILURE_EXIT_CODE")
        .output()
        .unwrap()
}

#[test]
fn shows_the_states_and_the_scripts_output() {
    let tried = fargate(&["try", "fixtures/jobs/hello.sh"]);
    let (stdout, stderr) =
        (String::from_utf8(tried.stdout).unwrap(), String::from_utf8(tried.stderr).unwrap());
    assert_eq!(tried.status.code(), Some(0), "{stderr}");
    assert!(stdout.starts_with("Hello from ") && stdout.ends_with("line 3\n"), "{stdout}");
    let mut rest = stderr.as_str();
    for state in [
        "Provisioning",
        "Pending",
        "Running",
        "Reachable",
        "Executing",
        "Reachable",
        "Stopping",
        "archived",
    ] {
        rest = rest
            .split_once(state)
            .unwrap_or_else(|| panic!("{state} is not in its place: {stderr}"))
            .1;
    }
    assert!(stderr.contains('█'), "a timeline: {stderr}");
}

/// The administrator who tries an installation sees the warning, and CI users do not.
#[test]
fn the_administrator_is_warned_of_open_task_definitions() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster).alone(Alone::CountsWarnings);
    let warning = "AllowedTaskDefinitions is not set";
    let tried = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fargate"));
        command
            .args(flags)
            .arg("--config")
            .arg(&job.config)
            .args(["try", "fixtures/jobs/hello.sh"]);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(job.environment.iter().map(|(k, v)| (k, v)));
        let tried = command
            .env_remove("SYSTEM_FAILURE_EXIT_CODE")
            .env_remove("BUILD_FAILURE_EXIT_CODE")
            .output()
            .unwrap();
        assert!(tried.status.success(), "{tried:?}");
        String::from_utf8(tried.stderr).unwrap().matches(warning).count()
    };
    assert_eq!(tried(&[]), 1);
    assert_eq!(tried(&["--task-def", "local-job:1"]), 0, "the project has no choice then");

    let logged =
        || job.log().lines().filter(|line| line.contains("WARN") && line.contains(warning)).count();
    let before = logged();
    for stage in [&["config"][..], &["prepare"], &["cleanup"]] {
        let ended = job.stage(stage);
        assert!(ended.code == 0 && !ended.stderr.contains(warning), "{ended:#?}");
    }
    assert_eq!(logged(), before + 1, "once per job");
    std::fs::write(
        &job.config,
        std::fs::read_to_string(&job.config)
            .unwrap()
            .replace("[Fargate]", "[Fargate]\nAllowedTaskDefinitions = [\"ci-*\"]"),
    )
    .unwrap();
    job.stage(&["config"]);
    assert_eq!((logged(), tried(&[])), (before + 1, 0));
}

#[test]
fn the_fargate_profile_has_fargates_times() {
    let tried = fargate(&[
        "try",
        "--profile",
        "fargate",
        "--time-scale",
        "0.02",
        "--seed",
        "3",
        "fixtures/jobs/hello.sh",
    ]);
    let (stdout, stderr) =
        (String::from_utf8(tried.stdout).unwrap(), String::from_utf8(tried.stderr).unwrap());
    assert_eq!(tried.status.code(), Some(0), "{stderr}");
    assert!(
        stdout.ends_with("line 3\n") && stderr.contains("--seed 3 draws the same times again"),
        "{stdout}{stderr}"
    );
}

#[test]
fn exits_with_the_code_of_the_script_that_failed() {
    let tried = fargate(&[
        "try",
        "fixtures/jobs/hello.sh",
        "fixtures/jobs/fails.sh",
        "fixtures/jobs/hello.sh",
    ]);
    assert_eq!(tried.status.code(), Some(42), "{}", String::from_utf8_lossy(&tried.stderr));
    let stdout = String::from_utf8(tried.stdout).unwrap();
    assert_eq!(stdout.matches("Hello from").count(), 1, "the third script is not run: {stdout}");
}

#[test]
fn invalid_requests_fail_once_and_start_nothing() {
    let missing: &[&str] = &["--config", "no-such.toml", "try", "fixtures/jobs/hello.sh"];
    let with_transport = [missing, &["--transport", "ssh"]].concat();
    let with_profile = [
        "--config",
        "fixtures/config/every-key.toml",
        "try",
        "--profile",
        "fargate",
        "fixtures/jobs/hello.sh",
    ];
    for (arguments, word) in [
        (missing, "no-such.toml"),
        (&with_transport, "no-such.toml"),
        (&with_profile, "--profile cannot be used with --config"),
        (&["try", "fixtures/jobs"], "fixtures/jobs is not a file"),
    ] {
        let tried = fargate(arguments);
        let stderr = String::from_utf8(tried.stderr).unwrap();
        assert_eq!(tried.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(
            stderr.matches(word).count() == 1 && !stderr.contains("Provisioning"),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn an_interrupt_reports_the_remaining_wait() {
    use std::io::{BufRead as _, BufReader};
    let script = tempfile::NamedTempFile::new().unwrap();
    // The script ends only when the test creates its file, so that the second interrupt comes while
    // it runs.
    std::fs::write(
        script.path(),
        "trap 'echo ending; read -r _ <\"$0.go\"; exit 3' TERM\nmkfifo \"$0.go\"; echo \"fifo $0.go\"\nwhile :; do sleep 0.1; done\n",
    )
    .unwrap();
    let mut tried = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(["try", script.path().to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&tried);
    let interrupt = || rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut stdout = BufReader::new(tried.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut stderr = BufReader::new(tried.stderr.take().unwrap()).lines().map(Result::unwrap);
    let fifo = stdout.next().unwrap().strip_prefix("fifo ").unwrap().to_owned();
    interrupt();
    assert!(stderr.any(|line| line.contains("Ending the job") && line.contains("15s")));
    assert!(stdout.any(|line| line == "ending"));
    interrupt();
    assert!(stderr.any(|line| line.contains("Still ending the job")));
    std::fs::write(fifo, "\n").unwrap();
    assert!(stderr.any(|line| line.contains("archived")));
    assert!(!tried.wait().unwrap().success());
}

#[test]
fn a_missing_script_starts_nothing() {
    let tried = fargate(&["try", "no-such-script.sh"]);
    assert_eq!(tried.status.code(), Some(2));
    let stderr = String::from_utf8(tried.stderr).unwrap();
    assert!(stderr.contains("no-such-script.sh") && !stderr.contains("Provisioning"), "{stderr}");
}
