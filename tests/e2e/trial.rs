//! `fargate try`, as a newcomer types it.

use std::{
    path::Path,
    process::{Command, Output},
};

fn fargate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fargate"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        // gitlab-runner's variables are none of a newcomer's.
        .env_remove("BUILD_FAILURE_EXIT_CODE")
        .env_remove("SYSTEM_FAILURE_EXIT_CODE")
        .output()
        .unwrap()
}

#[test]
fn shows_the_states_and_the_scripts_output() {
    let tried = fargate(&["try", "fixtures/jobs/hello.sh"]);
    let (stdout, stderr) = (String::from_utf8(tried.stdout).unwrap(), String::from_utf8(tried.stderr).unwrap());
    assert_eq!(tried.status.code(), Some(0), "{stderr}");
    assert!(stdout.starts_with("Hello from ") && stdout.ends_with("line 3\n"), "{stdout}");
    let mut rest = stderr.as_str();
    for state in ["Provisioning", "Pending", "Running", "Reachable", "Executing", "Reachable", "Stopping", "archived"] {
        rest = rest.split_once(state).unwrap_or_else(|| panic!("{state} is not in its place: {stderr}")).1;
    }
    assert!(stderr.contains('█'), "a timeline: {stderr}");
}

#[test]
fn exits_with_the_code_of_the_script_that_failed() {
    let tried = fargate(&["try", "fixtures/jobs/hello.sh", "fixtures/jobs/fails.sh", "fixtures/jobs/hello.sh"]);
    assert_eq!(tried.status.code(), Some(42), "{}", String::from_utf8_lossy(&tried.stderr));
    let stdout = String::from_utf8(tried.stdout).unwrap();
    assert_eq!(stdout.matches("Hello from").count(), 1, "the third script is not run: {stdout}");
}

#[test]
fn a_script_that_is_not_there_starts_nothing() {
    let tried = fargate(&["try", "no-such-script.sh"]);
    assert_eq!(tried.status.code(), Some(2));
    let stderr = String::from_utf8(tried.stderr).unwrap();
    assert!(stderr.contains("no-such-script.sh") && !stderr.contains("Provisioning"), "{stderr}");
}
