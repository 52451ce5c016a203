//! Settings that ECS accepts for tasks on Fargate only.

use states::Capacity;

use super::{Config, ConfigError, Warning, reader::Reader};

/// Refuses settings that do not apply where jobs run on instances, and warns of one that may not.
pub(super) fn check(reader: &Reader<'_>, config: &Config) -> Result<Vec<Warning>, ConfigError> {
    let fargate = &config.fargate;
    if !fargate.capacity.is_on_instances() {
        return Ok(Vec::new());
    }
    let place = match &fargate.capacity {
        Capacity::LaunchType(name) => format!("LaunchType = {name:?}"),
        _ => "these CapacityProviders".to_owned(),
    };
    let has_public_address = fargate.enable_public_ip || fargate.use_public_ip;
    let is_by_launch_type = matches!(fargate.capacity, Capacity::LaunchType(_));
    let only_fargate = [
        ("Fargate", "PlatformVersion", fargate.platform_version.is_some(), "platform versions"),
        (
            "Fargate",
            "AllowedPlatformVersions",
            fargate.allowed_platform_versions.is_some(),
            "platform versions",
        ),
        (
            "Sizes",
            "MaxEphemeralStorage",
            config.sizes.max_ephemeral_storage.is_some(),
            "ephemeral storage of a chosen size",
        ),
        (
            "Fargate",
            "EnablePublicIP",
            fargate.enable_public_ip && is_by_launch_type,
            "public addresses",
        ),
        ("Fargate", "UsePublicIP", fargate.use_public_ip && is_by_launch_type, "public addresses"),
    ];
    for (table, key, is_set, what) in only_fargate {
        if let Some(value) = reader.find(table, key).filter(|_| is_set) {
            return Err(reader.file.wrong(
                &value.span(),
                format!(
                    "{key} cannot be used with {place}: only tasks on Fargate have {what}. Remove it; docs/launch-types.md has the other differences"
                ),
            ));
        }
    }
    let warned = reader.find("Fargate", "EnablePublicIP").or(reader.find("Fargate", "UsePublicIP"));
    let warning = warned.filter(|_| has_public_address).map(|value| Warning {
        line: reader.file.location(value.span().start).0,
        message: "ECS gives tasks on EC2 instances no public address, whatever EnablePublicIP says: jobs do not get one with these CapacityProviders".to_owned(),
    });
    Ok(warning.into_iter().collect())
}
