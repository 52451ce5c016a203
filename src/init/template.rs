//! The file that `fargate init` writes, with its comments.

use toml::Value;

use super::Settings;

/// Renders the file.
pub(super) fn render(settings: &Settings) -> String {
    let text = |value: &str| Value::from(value).to_string();
    let list = |values: &[String]| Value::from(values.to_vec()).to_string();
    let Settings { cluster, region, subnets, security_groups, task_definition, .. } = settings;
    let launch_type = if settings.has_strategy {
        "# The cluster's default capacity provider strategy decides.\n# LaunchType = \"FARGATE\"\n"
    } else {
        "# Without it, the cluster's default capacity provider strategy decides.\nLaunchType = \"FARGATE\"\n"
    };
    let groups = if security_groups.is_empty() {
        "# Without them, tasks have the VPC's default group.\n# SecurityGroups = [\"sg-…\"]\n"
            .to_owned()
    } else if settings.transport.needs_address {
        format!(
            "# They have to admit this manager to the SSH server's port.\nSecurityGroups = {}\n",
            list(security_groups)
        )
    } else {
        format!("SecurityGroups = {}\n", list(security_groups))
    };
    let transport = match settings.transport.table {
        Some(table) if settings.transport.needs_login => format!(
            "[{table}]\nUsername = \"root\"\nPort = 22\n# With this version's deploy/ssh-entrypoint.sh in the image, servers can prove who they are:\n# VerifyHost = \"required\"\n"
        ),
        _ => String::new(),
    };
    let (public_ip, directory) =
        (settings.public_ip, text(&settings.directory.display().to_string()));
    let choice = settings.transport.name();
    let (cluster, region, task_definition, subnets) =
        (text(cluster), text(region), text(task_definition), list(subnets));
    format!(
        r#"# Written by `fargate init`. docs/configuration.md explains every key.
# `fargate doctor` checks the whole of it.

LogLevel = "info"
# LogFile = "/var/log/gitlab-runner/fargate.log"

# How scripts reach the container: "ssh" or "ecs-exec".
Transport = "{choice}"

[Fargate]
Cluster = {cluster}
Region = {region}
TaskDefinition = {task_definition}
# The task definitions that projects may choose instead, such as "ci-*". None:
AllowedTaskDefinitions = []
# With several availability zones, capacity is missing less often.
Subnets = {subnets}
{groups}# Needed in a public subnet without NAT.
EnablePublicIP = {public_ip}
{launch_type}
# Without Allowed, image: and services: of jobs are ignored.
# [Images]
# Allowed = ["*"]

[TaskMetadata]
# On a local disk, and writable for the user of gitlab-runner alone.
Directory = {directory}

{transport}"#
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use states::Capacity;
    use transports::{ecs_exec, ssh};

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_written_is_read_back_without_warnings() {
        for transport in [&ssh::DECLARATION, &ecs_exec::DECLARATION] {
            for (has_strategy, groups) in [(true, vec![]), (false, vec!["sg-1".to_owned()])] {
                let settings = Settings {
                    cluster: "ci \"quoted\"".to_owned(),
                    region: "eu-central-1".to_owned(),
                    subnets: vec!["subnet-a".to_owned(), "subnet-b".to_owned()],
                    security_groups: groups.clone(),
                    task_definition: "ci-job".to_owned(),
                    transport,
                    public_ip: true,
                    directory: "/var/lib/with 'quotes'".into(),
                    has_strategy,
                };
                let text = render(&settings);
                let (config, warnings) = Config::parse(&text, Path::new("fargate.toml"))
                    .unwrap_or_else(|e| panic!("{e}: {text}"));
                assert_eq!(warnings, [], "{text}");
                let fargate = &config.fargate;
                assert_eq!(
                    (&fargate.cluster, &fargate.subnets),
                    (&settings.cluster, &settings.subnets)
                );
                assert_eq!((&fargate.security_groups, config.transport), (&groups, transport));
                assert_eq!(config.metadata.directory, settings.directory);
                assert_eq!(fargate.capacity == Capacity::ClusterDefault, has_strategy);
                assert!(fargate.enable_public_ip && config.open_choices().is_empty());
            }
        }
    }
}
