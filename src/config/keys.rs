//! The keys of `fargate.toml`. As in the Go driver, names of tables and keys ignore case.

/// A table's keys; the empty name is the top level.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    ("", &["LogLevel", "LogFile", "LogFormat", "Transport"]),
    (
        "Fargate",
        &[
            "Cluster",
            "Region",
            "Subnet",
            "Subnets",
            "SecurityGroup",
            "SecurityGroups",
            "TaskDefinition",
            "AllowedTaskDefinitions",
            "AllowedPlatformVersions",
            "EnablePublicIP",
            "UsePublicIP",
            "PlatformVersion",
            "LaunchType",
            "CapacityProviders",
            "Tags",
            "PropagateTags",
            "EnableECSManagedTags",
            "ContainerName",
        ],
    ),
    ("TaskMetadata", &["Directory", "Keep", "KeepCount", "Manager"]),
    ("Runner", &["TrustJobVariables"]),
    ("SSH", &["Username", "Port", "KeepAlive", "VerifyHost"]),
    (
        "Telemetry",
        &[
            "Endpoint",
            "Protocol",
            "Headers",
            "Certificate",
            "ServiceName",
            "ResourceAttributes",
            "Sampler",
            "SamplerArgument",
            "FlushTimeout",
            "Traces",
            "Metrics",
            "Logs",
            "TrustJobTraceparent",
            "PropagateToJob",
            "JobEndpoint",
        ],
    ),
    ("ECSExec", &[]),
    ("Deadlines", &["Provisioning", "Pending", "Running", "Reconnect", "GracePeriod", "Stop"]),
];

/// The keys of an entry of `CapacityProviders`.
pub(super) const CAPACITY_PROVIDER: &[&str] = &["Name", "Weight", "Base"];

/// Finds the key or table that `name` probably means.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_name_settings_that_exist() {
        for (table, key) in diagnosis::settings::ALL {
            let keys = TABLES.iter().find(|(name, _)| name == table).map(|(_, keys)| keys);
            assert!(keys.is_some_and(|keys| keys.contains(key)), "[{table}] {key}");
        }
    }

    /// A text in brackets in a remedy is a setting or a table.
    #[test]
    fn remedies_name_no_other_settings() {
        for phrase in diagnosis::phrases() {
            for (at, _) in phrase.match_indices('[') {
                let Some((table, rest)) = phrase[at + 1..].split_once("] ") else { continue };
                let key: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
                let known = diagnosis::settings::ALL.contains(&(table, key.as_str()));
                assert!(known || TABLES.iter().any(|(name, _)| *name == table), "{phrase}");
            }
        }
    }

    #[test]
    fn the_intended_key_is_suggested() {
        let keys = || TABLES[1].1.iter().copied();
        assert_eq!(nearest("SecurtyGroup", keys()), Some("SecurityGroup"));
        assert_eq!(nearest("usePublicIp", keys()), Some("UsePublicIP"));
        assert_eq!(nearest("Colour", keys()), None);
    }
}
