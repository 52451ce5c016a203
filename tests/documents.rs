//! README.md, docs/ and deploy/ agree with each other and with the driver about installation,
//! commands and settings.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use fargate_driver::config::{DeclaredSetting, declared_settings};
use serde_json::Value;

/// Returns the value of `name=…` in a unit file, outside comments.
fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

const GETTING_STARTED: &str = include_str!("../docs/getting-started.md");
const MANIFEST: &str = include_str!("../Cargo.toml");

#[test]
fn the_units_run_the_installed_driver_as_the_owner_of_the_jobs() {
    assert!(
        GETTING_STARTED.contains("cargo build --profile dist\n")
            && GETTING_STARTED.contains("install -D -t /opt/gitlab-runner target/dist/fargate "),
        "another build is installed, or elsewhere"
    );
    assert!(MANIFEST.contains("\n[profile.dist]\n"), "there is no such profile");
    for (unit, action) in [
        (include_str!("../deploy/systemd/fargate-reap.service"), "reap"),
        (include_str!("../deploy/systemd/fargate.service"), "serve"),
    ] {
        let command: Vec<&str> = setting(unit, "ExecStart").unwrap().split(' ').collect();
        let [program, "--config", file, last] = command[..] else { panic!("{command:?}") };
        assert_eq!(last, action);
        assert!(
            GETTING_STARTED.contains(&format!("cleanup_exec = \"{program}\"")),
            "{program} is not what gitlab-runner calls"
        );
        assert!(
            GETTING_STARTED.contains(&format!("\"--config\", \"{file}\""))
                && GETTING_STARTED.contains(&format!("`{file}`")),
            "{file} is not the file that gitlab-runner's configuration names"
        );
        // gitlab-runner's packages run it, and with it the driver, as root.
        assert_eq!(setting(unit, "User"), None);
    }
}

#[test]
fn the_socket_is_in_the_directory_that_the_service_may_write() {
    let (service, socket) = (
        include_str!("../deploy/systemd/fargate.service"),
        include_str!("../deploy/systemd/fargate.socket"),
    );
    let directory = setting(service, "ReadWritePaths").unwrap();
    assert!(GETTING_STARTED.contains(&format!("Directory = \"{directory}\"")), "{directory}");
    let path = format!("{directory}/fargate.sock");
    assert_eq!(setting(socket, "ListenStream"), Some(path.as_str()));
    assert_eq!(setting(socket, "SocketMode"), Some("0600"));
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
    let text: String = pages().iter().map(|page| fs::read_to_string(page).unwrap()).collect();
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let named: Vec<&str> = words.filter(|word| word.ends_with("_timeout")).collect();
    assert!(named.len() >= 3, "{named:?}");
    for name in named {
        assert!(KNOWN.contains(&name), "gitlab-runner has no {name}");
    }
}

/// Returns the rows of a page's tables of settings: the table of `fargate.toml`, and the cells. The
/// third column of a table of settings is `Default`.
fn setting_rows(page: &str) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    let (mut table, mut is_inside) = (String::new(), false);
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("# ")) {
            let named = heading.strip_prefix("`[").and_then(|rest| rest.strip_suffix("]`"));
            // A list of tables: `[[Name]]`.
            let named = named.map(|name| name.trim_start_matches('[').trim_end_matches(']'));
            let whole_page = (heading == "Telemetry").then_some(heading);
            table = named.or(whole_page).unwrap_or_default().to_owned();
        }
        let cells: Option<Vec<String>> = line.strip_prefix("| ").map(|row| {
            row.trim_end_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        });
        match cells {
            Some(cells) if is_inside && cells[0] != "---" => rows.push((table.clone(), cells)),
            Some(cells) => is_inside |= cells.get(2).is_some_and(|title| title == "Default"),
            None => is_inside = false,
        }
    }
    rows
}

#[test]
fn every_setting_is_documented_with_its_type_and_default() {
    let mut declared: Vec<DeclaredSetting> = declared_settings().collect();
    let pages = [include_str!("../docs/configuration.md"), include_str!("../docs/telemetry.md")];
    for (table, cells) in pages.into_iter().flat_map(setting_rows) {
        let [keys, kinds, defaults, ..] = cells.as_slice() else { panic!("{cells:?}") };
        let keys: Vec<&str> = keys.split('`').skip(1).step_by(2).collect();
        // A row of several settings has one value for all of them, or one for each.
        let nth = |cell: &str, n: usize| {
            let parts: Vec<&str> = cell.split(", ").collect();
            (if parts.len() == keys.len() { parts[n] } else { cell }).to_owned()
        };
        for (n, key) in keys.iter().enumerate() {
            let at = declared
                .iter()
                .position(|setting| setting.table == table && setting.key == *key)
                .unwrap_or_else(|| panic!("[{table}] {key} is documented twice or not declared"));
            let setting = declared.swap_remove(at);
            assert_eq!(
                (nth(kinds, n), nth(defaults, n)),
                (setting.kind.to_owned(), setting.otherwise),
                "[{table}] {key}: documented (left), declared (right)"
            );
        }
    }
    assert_eq!(declared, [], "declared and not documented");
}

const SSH_DEFINITION: &str = include_str!("../deploy/task-definition-ssh.json");
const EXEC_DEFINITION: &str = include_str!("../deploy/task-definition-ecs-exec.json");

#[test]
fn the_task_definitions_have_what_the_driver_needs() {
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
            "deploy/iam/manager.json allows ci-*, not {family}"
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
        for role in [text("taskRoleArn"), text("executionRoleArn")] {
            assert!(
                include_str!("../deploy/iam/manager.json").contains(&format!("\"{role}\"")),
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
fn every_policy_is_complete() {
    let page = include_str!("../docs/iam.md");
    let mut names: Vec<String> = fs::read_dir(root().join("deploy/iam"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let expected = [
        "execution-images.json",
        "manager-doctor.json",
        "manager-ecs-exec.json",
        "manager-images.json",
        "manager.json",
        "task-ecs-exec-logs.json",
        "task-ecs-exec.json",
        "task-trust.json",
    ];
    assert_eq!(names, expected);
    for name in names {
        assert!(page.contains(&format!("(../deploy/iam/{name})")), "docs/iam.md lacks {name}");
        let policy = fs::read_to_string(root().join("deploy/iam").join(&name)).unwrap();
        let policy: Value = serde_json::from_str(&policy).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(policy["Version"], "2012-10-17");
        for statement in policy["Statement"].as_array().unwrap() {
            // The page explains each statement of the manager's policy.
            if name.starts_with("manager") {
                let sid = statement["Sid"].as_str().unwrap();
                assert!(page.contains(&format!("| `{sid}` |")), "docs/iam.md lacks {sid}");
            }
            let whole = statement["Effect"] == "Allow" && !statement["Action"].is_null();
            assert!(
                whole && (statement["Resource"].is_null() != statement["Principal"].is_null()),
                "{statement}"
            );
        }
    }
}

/// Derived families begin with the base's family and two hyphens.
#[test]
fn the_manager_may_register_what_is_derived_from_the_task_definitions() {
    let text = include_str!("../deploy/iam/manager-images.json");
    let policy: Value = serde_json::from_str(text).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let resource = |action: &str| {
        let statement = statements.iter().find(|statement| statement["Action"] == action).unwrap();
        let arn = statement["Resource"].as_str().unwrap();
        arn.rsplit('/').next().unwrap().to_owned()
    };
    for action in ["ecs:RegisterTaskDefinition", "ecs:TagResource", "ecs:DeleteTaskDefinitions"] {
        let pattern = wildmatch::WildMatch::new(&resource(action));
        for base in [SSH_DEFINITION, EXEC_DEFINITION] {
            let definition: Value = serde_json::from_str(base).unwrap();
            let family = definition["family"].as_str().unwrap();
            assert!(
                pattern.matches(&format!("{family}--0123456789abcdef0123456789abcdef:1")),
                "{action}: {family}"
            );
            assert!(!pattern.matches(&format!("{family}:1")), "{action} reaches the base {family}");
        }
    }
}

#[test]
fn the_coordinators_image_starts_as_its_task_definitions_say() {
    let file = include_str!("../deploy/images/coordinator.Dockerfile");
    for (target, definition) in [("ssh", SSH_DEFINITION), ("ecs-exec", EXEC_DEFINITION)] {
        let (_, stage) = file.split_once(&format!(" AS {target}\n")).unwrap();
        let stage = stage.split("\nFROM ").next().unwrap();
        let definition: Value = serde_json::from_str(definition).unwrap();
        let container = &definition["containerDefinitions"][0];
        for (instruction, field) in [("ENTRYPOINT ", "entryPoint"), ("CMD ", "command")] {
            let words = stage.lines().find_map(|line| line.strip_prefix(instruction));
            let words = words.map_or(Value::Null, |words| serde_json::from_str(words).unwrap());
            assert_eq!(words, container[field], "{target}: {instruction}");
        }
        let image = container["image"].as_str().unwrap();
        let name = image.rsplit('/').next().unwrap().trim_end_matches(":latest");
        assert!(file.contains(&format!("--target {target} --tag {name} ")), "{target}: {name}");
    }
}

#[test]
fn the_entry_point_installs_the_key_and_passes_on_the_environment() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    // Runs all of it except the server, outside this machine's own directories.
    let script = include_str!("../deploy/ssh-entrypoint.sh")
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lists every Markdown file of the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // Ignored by git: builds and caches.
            if name.starts_with('.') || ["target", "tmp"].contains(&&*name) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// Returns the prose of a page, without fenced blocks, which have no links or headings.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Returns the anchor of a heading, as on GitLab and GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    assert!(pages.len() > 20, "{pages:?}");
    let mut links = 0;
    for page in pages {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.starts_with("http"))
        {
            links += 1;
            let at = || format!("{}: {link}", page.display());
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: no such file", at());
            if !heading.is_empty() {
                let there = prose(&fs::read_to_string(&target).unwrap())
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line.trim_start_matches('#').trim()) == heading);
                assert!(there, "{}: no such heading", at());
            }
        }
    }
    assert!(links > 100, "{links}");
}

#[test]
fn the_index_lists_every_page_of_docs() {
    let index = include_str!("../docs/README.md");
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        if page.parent() == Some(&root().join("docs")) && name != "README.md" {
            assert!(index.contains(&format!("]({name})")), "docs/README.md lacks {name}");
        }
    }
}

#[test]
fn ci_uses_the_oldest_toolchain_that_is_supported() {
    let oldest = setting(&MANIFEST.replace(" = ", "="), "rust-version").unwrap().replace('"', "");
    let image = format!("image: rust:{oldest}-");
    assert!(include_str!("../.gitlab-ci.yml").contains(&image), "not {image}");
    assert!(include_str!("../README.md").contains(&format!("Rust {oldest} or newer")));
}
