//! What README.md and docs/ tell people to install, call and write agrees with itself and with the
//! driver.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::Value;

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
    assert!(
        README.contains("install -D -t /opt/gitlab-runner target/release/fargate "),
        "the README installs elsewhere"
    );
    assert!(
        README.contains(&format!("cleanup_exec = \"{program}\"")),
        "{program} is not what gitlab-runner is told to call"
    );
    let file = command.split(' ').nth(2).unwrap();
    assert!(
        README.contains(&format!("\"--config\", \"{file}\"")),
        "{file} is not the file that the README writes"
    );
    // gitlab-runner's packages run it, and with it the driver, as root.
    assert_eq!(setting(service, "User"), None);
}

#[test]
fn the_settings_of_gitlab_runner_that_are_named_exist() {
    // gitlab-runner, common/config.go, CustomConfig.
    const KNOWN: [&str; 5] = [
        "config_exec_timeout",
        "prepare_exec_timeout",
        "cleanup_exec_timeout",
        "graceful_kill_timeout",
        "force_kill_timeout",
    ];
    let pages =
        [README, include_str!("../docs/configuration.md"), include_str!("../docs/reliability.md")];
    let words =
        pages.iter().flat_map(|page| page.split(|c: char| !(c.is_ascii_lowercase() || c == '_')));
    let named: Vec<&str> = words.filter(|word| word.ends_with("_timeout")).collect();
    assert!(named.len() >= 3, "{named:?}");
    for name in named {
        assert!(KNOWN.contains(&name), "gitlab-runner has no {name}");
    }
}

const SSH_DEFINITION: &str = include_str!("../docs/task-definition-ssh.json");
const EXEC_DEFINITION: &str = include_str!("../docs/task-definition-ecs-exec.json");

#[test]
fn the_task_definitions_are_whole_and_what_the_driver_relies_on() {
    // Amazon ECS developer guide, "Task CPU and memory": MiB for each CPU size, the smaller ones.
    let valid = [
        ("256", 512..=2048),
        ("512", 1024..=4096),
        ("1024", 2048..=8192),
        ("2048", 4096..=16384),
        ("4096", 8192..=30720),
    ];
    for (text, ports) in [(SSH_DEFINITION, &[22][..]), (EXEC_DEFINITION, &[])] {
        let definition: Value = serde_json::from_str(text).unwrap();
        let text = |name: &str| {
            definition[name].as_str().unwrap_or_else(|| panic!("{name} is no text")).to_owned()
        };
        let family = text("family");
        assert!(
            wildmatch::WildMatch::new("ci-*").matches(&family),
            "docs/iam.md allows ci-*, not {family}"
        );
        assert_eq!(
            (text("networkMode").as_str(), &definition["requiresCompatibilities"]),
            ("awsvpc", &serde_json::json!(["FARGATE"]))
        );
        let (cpu, memory) = (text("cpu"), text("memory").parse::<u32>().unwrap());
        let (_, memories) = valid
            .iter()
            .find(|(size, _)| *size == cpu)
            .unwrap_or_else(|| panic!("{family}: cpu {cpu}"));
        assert!(
            memories.contains(&memory) && (memory == 512 || memory % 1024 == 0),
            "{family}: {memory} MiB for {cpu}"
        );
        // These are the roles that docs/iam.md lets the manager pass.
        for role in [text("taskRoleArn"), text("executionRoleArn")] {
            assert!(
                include_str!("../docs/iam.md").contains(&format!("\"{role}\"")),
                "{role} may not be passed"
            );
        }
        let containers = definition["containerDefinitions"].as_array().unwrap();
        let jobs = containers
            .iter()
            .find(|container| container["name"] == "ci-coordinator")
            .expect("the container that runs scripts");
        assert_eq!(
            (&jobs["essential"], &jobs["readonlyRootFilesystem"]),
            (&Value::Bool(true), &Value::Null),
            "{family}"
        );
        assert_eq!(jobs["linuxParameters"]["initProcessEnabled"], true, "{family}");
        let none = Vec::new();
        let open: Vec<u64> = jobs["portMappings"]
            .as_array()
            .unwrap_or(&none)
            .iter()
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        assert_eq!(open, ports, "{family}");
        let words = |name: &str| {
            jobs[name]
                .as_array()
                .map(|words| words.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>())
        };
        let command = [
            words("entryPoint").expect("an image's own entry point may do anything"),
            words("command").unwrap_or_default(),
        ]
        .concat();
        let expected: &[&str] = if ports.is_empty() {
            &["sleep", "infinity"]
        } else {
            &["/usr/local/bin/ssh-entrypoint.sh"]
        };
        assert_eq!(command, expected, "{family}");
    }
}

#[test]
fn every_policy_is_whole() {
    let page = include_str!("../docs/iam.md");
    let policies: Vec<&str> =
        page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(
        policies.len(),
        5,
        "the manager's, both roles' trust, ECS Exec for the manager and for the task role, its logs"
    );
    for policy in policies {
        let policy: Value =
            serde_json::from_str(policy).unwrap_or_else(|e| panic!("{e}: {policy}"));
        assert_eq!(policy["Version"], "2012-10-17");
        for statement in policy["Statement"].as_array().unwrap() {
            let whole = statement["Effect"] == "Allow" && !statement["Action"].is_null();
            assert!(
                whole && (statement["Resource"].is_null() != statement["Principal"].is_null()),
                "{statement}"
            );
        }
    }
}

#[test]
fn the_entry_point_installs_the_key_and_passes_on_what_sessions_do_not_inherit() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    // Everything but the server itself, and outside this machine's own directories.
    let script = include_str!("../docs/ssh-entrypoint.sh")
        .replace("/run/sshd", path("run").to_str().unwrap())
        .replace("/run/fargate-ssh", path("private").to_str().unwrap())
        .replace("/etc/shadow", path("shadow").to_str().unwrap())
        .replace("ssh-keygen -q", ": -q")
        .replace("exec /usr/sbin/sshd", "exec echo sshd");
    fs::write(path("shadow"), "root:!:20228:0:99999:7:::\nbin:!:20228::::::\n").unwrap();
    fs::create_dir(path("private")).unwrap();
    fs::write(path("private/host_key"), "left over").unwrap();
    fs::create_dir(path(".ssh")).unwrap();
    fs::set_permissions(path(".ssh"), fs::Permissions::from_mode(0o777)).unwrap();
    let begun = Command::new("sh")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", place.path())
        .env("SSH_PUBLIC_KEY", "ssh-ed25519 AAAA job")
        .env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x")
        .env("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/y")
        .env("OTHER", "left out")
        .output()
        .unwrap();
    assert!(begun.status.success(), "{begun:?}");
    let started = String::from_utf8(begun.stdout).unwrap();
    assert_eq!(started, format!("sshd -D -e -f {}\n", path("private/sshd_config").display()));
    let settings = fs::read_to_string(path("private/sshd_config")).unwrap();
    let host_key = format!("HostKey {}", path("private/host_key").display());
    for setting in [
        &host_key,
        "PermitUserEnvironment yes",
        "VersionAddendum none",
        "AuthenticationMethods publickey",
        "DisableForwarding yes",
    ] {
        assert!(settings.lines().any(|line| line == setting), "{setting}: {settings}");
    }
    assert!(!path("private/host_key").exists(), "a host key of before");
    assert_eq!(
        fs::read_to_string(path("shadow")).unwrap(),
        "root:*:20228:0:99999:7:::\nbin:!:20228::::::\n"
    );
    assert_eq!(fs::read_to_string(path(".ssh/authorized_keys")).unwrap(), "ssh-ed25519 AAAA job\n");
    let environment = fs::read_to_string(path(".ssh/environment")).unwrap();
    let mut names: Vec<&str> =
        environment.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "ECS_CONTAINER_METADATA_URI_V4", "PATH"]
    );
    // sshd's StrictModes.
    for (name, mode) in
        [(".ssh", 0o700), (".ssh/authorized_keys", 0o600), (".ssh/environment", 0o600)]
    {
        assert_eq!(fs::metadata(path(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn decisions_are_listed_and_headed_alike() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decisions");
    let list = fs::read_to_string(format!("{directory}/README.md")).unwrap();
    for entry in fs::read_dir(directory)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_name() != "README.md")
    {
        let name = entry.file_name().into_string().unwrap();
        let page = fs::read_to_string(entry.path()).unwrap();
        let title = page
            .lines()
            .next()
            .unwrap()
            .strip_prefix(&format!("# {}: ", &name[..4]))
            .unwrap_or_else(|| panic!("{name}: {page:.60}"));
        assert!(
            list.contains(&format!("- [{}]({name}): {title}\n", &name[..4])),
            "{name} is not in README.md"
        );
    }
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/configuration.md",
        "docs/iam.md",
        "docs/transports.md",
        "docs/telemetry.md",
    ] {
        let page = root.join(page);
        let text = fs::read_to_string(&page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.starts_with("http"))
        {
            let file = link.split('#').next().unwrap();
            assert!(
                file.is_empty() || page.parent().unwrap().join(file).exists(),
                "{}: {link}",
                page.display()
            );
        }
    }
}
