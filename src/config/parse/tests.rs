//! Files of the Go driver's users are accepted. [`mistakes`] have a location.

mod mistakes;

use std::{path::Path, time::Duration};

use proptest::prelude::*;
use states::{Capacity, CapacityProvider, Limits};
use transports::ssh::SshSettings;

use super::*;
use crate::{
    config::{declared_settings, settings::TABLES},
    transport::Configuration as _,
};

const LEAST: &str = "[Fargate]\nCluster = \"c\"\nSubnet = \"subnet-1\"\nTaskDefinition = \"t:1\"\n";
const DIRECTORY: &str = "[TaskMetadata]\nDirectory = \"/m\"\n";

fn read(text: &str) -> Result<(Config, Vec<String>), String> {
    let (config, warnings) =
        Config::parse(text, Path::new("fargate.toml")).map_err(|e| e.to_string())?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

/// The least pool.
const WARM: &str = "[[Warm]]\nSchedule = [{ From = \"07:00\", To = \"19:00\", Count = 1 }]\n";

/// Returns a file whose `[Fargate]` has these lines, from line 5 on.
fn fargate(more: &str) -> String {
    format!("{LEAST}{more}\n{DIRECTORY}")
}

#[test]
fn the_file_of_gitlabs_guide_is_accepted_unchanged() {
    let text = include_str!("../../../fixtures/config/guide.toml");
    let (config, warnings) = read(text).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.log_level, tracing::level_filters::LevelFilter::INFO);
    let fargate = &config.fargate;
    assert_eq!(
        (fargate.cluster.as_str(), fargate.region.as_deref()),
        ("test-cluster", Some("us-east-2"))
    );
    assert_eq!(
        (fargate.subnets.as_slice(), fargate.security_groups.as_slice()),
        (&["subnet-xxxxxx".to_owned()][..], &["sg-xxxxxxxxxxxxx".to_owned()][..])
    );
    assert_eq!(fargate.task_definition, "test-task:1");
    assert!(fargate.enable_public_ip && !fargate.use_public_ip);
    assert_eq!(
        (fargate.capacity.clone(), fargate.container.as_str()),
        (Capacity::ClusterDefault, "ci-coordinator")
    );
    assert_eq!(config.metadata.directory, Path::new("/opt/gitlab-runner/metadata"));
    assert_eq!((config.ssh.username.as_str(), config.ssh.port), ("root", 22));
}

#[test]
fn every_documented_key_is_read() {
    let text = include_str!("../../../fixtures/config/every-key.toml");
    // Without the feature, an endpoint is refused.
    let read_by_this_build =
        if cfg!(feature = "telemetry") { text } else { text.split("[Telemetry]").next().unwrap() };
    let (config, warnings) = read(read_by_this_build).unwrap();
    assert_eq!(warnings, [""; 0]);
    for setting in declared_settings() {
        // CapacityProviders excludes it.
        let is_there = setting.key == "LaunchType"
            || text
                .lines()
                .any(|line| line.split('=').next().is_some_and(|name| name.trim() == setting.key));
        assert!(is_there, "{} {} is missing in the fixture", setting.table, setting.key);
    }
    assert_eq!(config.fargate.subnets, ["subnet-a", "subnet-b"]);
    assert_eq!(
        config.fargate.capacity,
        Capacity::Strategy(vec![
            CapacityProvider { name: "FARGATE_SPOT".into(), weight: 3, base: 0 },
            CapacityProvider { name: "FARGATE".into(), weight: 1, base: 1 },
        ])
    );
    assert_eq!(config.fargate.tags, [("team".to_owned(), "ci".to_owned())]);
    assert_eq!(config.limits.pending, Duration::from_secs(20 * 60));
    assert_eq!(config.metadata.keep, Duration::from_secs(7 * 24 * 60 * 60));
    assert!(config.fargate.propagate_tags && config.fargate.enable_ecs_managed_tags);
    assert_eq!(
        config.fargate.allowed_platform_versions.as_deref(),
        Some(&["1.4.*".to_owned(), "LATEST".to_owned()][..])
    );
    assert_eq!(config.fargate.allowed_task_definitions.as_deref(), Some(&["ci-*".to_owned()][..]));
    let [node, least] = config.warm.as_slice() else { panic!("{:?}", config.warm) };
    assert_eq!((node.cpu, node.count, node.schedule.len()), (Some(1024), 2, 1));
    assert_eq!(
        (config.pool_name(node), config.pool_name(least)),
        ("node".into(), "ci-job:3".into())
    );
    assert_eq!(config.pool_definition(least), ("ci-job:3", Some("1.4.0")));
    assert_eq!(config.transport.name(), "ecs-exec");
    assert_eq!(config.telemetry.is_on(), cfg!(feature = "telemetry"));
}

/// The crates' own defaults are for their tests and for `fargate try`.
#[test]
fn the_defaults_are_those_of_the_crates() {
    let (config, _) = read(&fargate("")).unwrap();
    assert_eq!((config.limits, config.ssh()), (Limits::default(), SshSettings::default()));
}

/// Returns the least file, with a line more in this table.
fn with_line(table: &str, line: &str) -> String {
    match table {
        "" => format!("{line}\n{}", fargate("")),
        "Fargate" => fargate(line),
        "TaskMetadata" => format!("{}{line}\n", fargate("")),
        "Warm" => format!("{}{WARM}{line}\n", fargate("")),
        other => format!("{}[{other}]\n{line}\n", fargate("")),
    }
}

#[test]
fn written_defaults_and_empty_strings_change_nothing() {
    let (without_pool, _) = read(&fargate("")).unwrap();
    let (with_pool, _) = read(&(fargate("") + WARM)).unwrap();
    let mut written = 0;
    for setting in declared_settings() {
        let default = setting.otherwise.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let is_text = ["string", "duration"].contains(&setting.kind);
        // The least file has the required ones.
        let can_be_empty =
            is_text && !["required", "one required"].contains(&setting.otherwise.as_str());
        for value in default.into_iter().chain(can_be_empty.then_some("\"\"")) {
            let text = with_line(setting.table, &format!("{} = {value}", setting.key));
            let (config, _) = read(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            let expected = if setting.table == "Warm" { &with_pool } else { &without_pool };
            assert_eq!(&config, expected, "{text}");
            written += 1;
        }
    }
    assert!(written > 40, "{written}");
}

#[test]
fn the_launch_type_is_fargate_or_ec2_in_any_case() {
    for (written, read_as) in [("fargate", "FARGATE"), ("ec2", "EC2")] {
        let (config, _) = read(&fargate(&format!("LaunchType = {written:?}"))).unwrap();
        assert_eq!(config.fargate.capacity, Capacity::LaunchType(read_as.to_owned()));
    }
}

#[test]
fn tags_are_propagated_if_configured() {
    for (line, expected) in [
        ("", false),
        ("PropagateTags = \"none\"", false),
        ("PropagateTags = \"task_definition\"", true),
    ] {
        assert_eq!(read(&fargate(line)).unwrap().0.fargate.propagate_tags, expected, "{line}");
    }
}

#[test]
fn settings_open_to_projects_are_named_for_the_administrator() {
    let open = |line| read(&fargate(line)).unwrap().0.open_choices().join(" ");
    assert!(open("").contains("AllowedTaskDefinitions is not set"));
    for line in ["AllowedTaskDefinitions = []", "AllowedTaskDefinitions = [\"ci-*\"]"] {
        assert_eq!(open(line), "", "{line}");
    }
}

#[test]
fn keys_ignore_case_and_empty_values_count_as_missing() {
    let text = fargate("REGION = \"\"\nenablepublicip = true").replace("Cluster", "cluster");
    let (config, warnings) = read(&text).unwrap();
    assert!(config.fargate.enable_public_ip && config.fargate.region.is_none());
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn the_transport_is_the_named_one_or_that_of_the_only_table() {
    let cases = [
        ("", "", "ssh"),
        ("Transport = \"\"\n", "", "ssh"),
        ("Transport = \"ssh\"\n", "", "ssh"),
        ("Transport = \"ecs-exec\"\n", "", "ecs-exec"),
        ("transport = \"ecs-exec\"\n", "[SSH]\nPort = 22\n", "ecs-exec"),
        ("", "[SSH]\nPort = 22\n", "ssh"),
        ("", "[ECSExec]\n", "ecs-exec"),
        ("", "[ecsexec]\n", "ecs-exec"),
        ("Transport = \"\"\n", "[ECSExec]\n", "ecs-exec"),
        ("", "[ECSExec]\n[SSH]\n", "ssh"),
        ("Transport = \"ssh\"\n", "[ECSExec]\n", "ssh"),
    ];
    for (top, below, expected) in cases {
        let text = format!("{top}{}{below}", fargate(""));
        let (config, warnings) = read(&text).unwrap();
        assert_eq!((config.transport.name(), warnings.as_slice()), (expected, &[][..]), "{text}");
    }
    let (_, warnings) = read(&(fargate("") + "[ECSExec]\nCommand = \"sh\"\n")).unwrap();
    assert_eq!(warnings, ["line 9: the key [ECSExec] Command is not known and is ignored."]);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "(?s).{0,200}", at in any::<prop::sample::Index>(), put in "(?s).{0,4}") {
        let _ = read(&text);
        let mut near = include_str!("../../../fixtures/config/every-key.toml").to_owned();
        let mut at = at.index(near.len());
        while !near.is_char_boundary(at) {
            at -= 1;
        }
        near.insert_str(at, &put);
        let _ = read(&near);
    }
}

#[test]
fn a_public_address_without_host_proof_is_warned_of() {
    let warnings = |file: &str| read(file).unwrap().1;
    let warned = warnings(&fargate("UsePublicIP = true"));
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].starts_with("line 5: UsePublicIP is true") && warned[0].contains("VerifyHost"),
        "{warned:?}"
    );
    let none = [""; 0];
    assert_eq!(warnings(&fargate("UsePublicIP = false")), none);
    assert_eq!(
        warnings(&format!("{}[SSH]\nVerifyHost = \"required\"\n", fargate("UsePublicIP = true"))),
        none
    );
    assert_eq!(warnings(&format!("{}[ECSExec]\n", fargate("UsePublicIP = true"))), none);
    let refused = read(&format!("{}[SSH]\nVerifyHost = \"off\"\n", fargate(""))).unwrap_err();
    assert!(
        refused.contains("VerifyHost is \"off\", expected \"offered\" or \"required\""),
        "{refused}"
    );
}

#[test]
fn remedies_name_settings_that_exist() {
    for (table, key) in diagnosis::settings::ALL {
        let is_known =
            declared_settings().any(|setting| setting.table == *table && setting.key == *key);
        assert!(is_known, "[{table}] {key}");
    }
}

/// A text in brackets in a remedy is a setting or a table.
#[test]
fn remedies_name_no_other_settings() {
    for phrase in diagnosis::phrases() {
        for (at, _) in phrase.match_indices('[') {
            let Some((table, rest)) = phrase[at + 1..].split_once("] ") else { continue };
            let key: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            let is_known = diagnosis::settings::ALL.contains(&(table, key.as_str()))
                || TABLES.iter().any(|known| known.name == table);
            assert!(is_known, "{phrase}");
        }
    }
}
