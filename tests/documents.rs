//! What README.md and docs/ tell people to install, call and write agrees with itself and with the driver.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

/// The value of `name=…` in a unit file; comments do not count.
fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

const README: &str = include_str!("../README.md");

#[test]
fn the_timer_runs_what_the_readme_installs_as_the_user_who_owns_the_jobs() {
    let service = include_str!("../docs/systemd/fargate-reap.service");
    let command = setting(service, "ExecStart").unwrap();
    let program = command.split(' ').next().unwrap();
    assert!(README.contains("install -D -t /opt/gitlab-runner target/release/fargate "), "the README installs elsewhere");
    assert!(README.contains(&format!("cleanup_exec = \"{program}\"")), "{program} is not what gitlab-runner is told to call");
    let file = command.split(' ').nth(2).unwrap();
    assert!(README.contains(&format!("\"--config\", \"{file}\"")), "{file} is not the file that the README writes");
    // gitlab-runner's packages run it, and with it the driver, as root.
    assert_eq!(setting(service, "User"), None);
}

#[test]
fn the_settings_of_gitlab_runner_that_are_named_exist() {
    // gitlab-runner, common/config.go, CustomConfig.
    const KNOWN: [&str; 5] =
        ["config_exec_timeout", "prepare_exec_timeout", "cleanup_exec_timeout", "graceful_kill_timeout", "force_kill_timeout"];
    let pages = [README, include_str!("../docs/configuration.md"), include_str!("../docs/reliability.md")];
    let words = pages.iter().flat_map(|page| page.split(|c: char| !(c.is_ascii_lowercase() || c == '_')));
    let named: Vec<&str> = words.filter(|word| word.ends_with("_timeout")).collect();
    assert!(named.len() >= 3, "{named:?}");
    for name in named {
        assert!(KNOWN.contains(&name), "gitlab-runner has no {name}");
    }
}
