//! Parses a text into a checked configuration. Errors have their location.

use std::{path::Path, time::Duration};

use states::{Capacity, CapacityProvider, HostProof, Limits};
use toml::de::{DeTable, DeValue};
use transports::Declaration;

use super::{
    Config, ConfigError, Fargate, Metadata, Runner, Ssh, Warning,
    reader::{File, Reader, lookup},
    structure::{check_structure, hints, unknown_keys},
};
use crate::{logging::LogFormat, tags, transport};

pub(super) fn parse(text: &str, path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let file = File { text, path };
    let root = DeTable::parse(text).map_err(|e| {
        let (line, column) = file.location(e.span().map_or(0, |span| span.start));
        ConfigError::Wrong {
            path: path.to_owned(),
            line,
            column,
            message: format!("this is not TOML: {}", e.message()),
        }
    })?;
    check_structure(&file, root.get_ref())?;
    let mut reader = Reader { file: &file, root: root.get_ref(), missing: Vec::new() };
    let config = reader.config()?;
    let unknown = unknown_keys(&file, root.get_ref());
    if !reader.missing.is_empty() {
        return Err(ConfigError::Missing {
            path: path.to_owned(),
            keys: reader.missing,
            hints: hints(root.get_ref(), &unknown),
        });
    }
    let mut warnings = unknown;
    warnings.extend(reader.unverified(&config));
    warnings.sort_by_key(|warning| warning.line);
    Ok((config, warnings))
}

impl<'a> Reader<'a> {
    fn config(&mut self) -> Result<Config, ConfigError> {
        let defaults = Limits::default();
        Ok(Config {
            log_level: self.log_level()?,
            log_file: self.text("", "LogFile")?.map(Into::into),
            log_format: self.log_format()?,
            fargate: self.fargate()?,
            metadata: Metadata {
                directory: self.required("TaskMetadata", "Directory")?.into(),
                keep: self.span("TaskMetadata", "Keep", Duration::from_secs(30 * 24 * 60 * 60))?,
                keep_count: self
                    .number("TaskMetadata", "KeepCount", 0..=10_000_000)?
                    .map_or(20_000, |n| usize::try_from(n).unwrap_or(usize::MAX)),
                manager: self.text("TaskMetadata", "Manager")?,
            },
            runner: Runner { trust_job_variables: self.flag("Runner", "TrustJobVariables")? },
            transport: self.transport()?,
            ssh: Ssh {
                username: self.text("SSH", "Username")?.unwrap_or_else(|| "root".to_owned()),
                port: self
                    .number("SSH", "Port", 0..=65_535)?
                    .and_then(|n| u16::try_from(n).ok())
                    .filter(|port| *port != 0)
                    .unwrap_or(22),
                keep_alive: self.span("SSH", "KeepAlive", Duration::from_secs(15))?,
                verify_host: self.verify_host()?,
            },
            telemetry: self.telemetry()?,
            limits: Limits {
                provisioning: self.span("Deadlines", "Provisioning", defaults.provisioning)?,
                pending: self.span("Deadlines", "Pending", defaults.pending)?,
                running: self.span("Deadlines", "Running", defaults.running)?,
                reconnect: self.span("Deadlines", "Reconnect", defaults.reconnect)?,
                grace: self.span("Deadlines", "GracePeriod", defaults.grace)?,
                stop: self.span("Deadlines", "Stop", defaults.stop)?,
            },
        })
    }

    fn fargate(&mut self) -> Result<Fargate, ConfigError> {
        let t = "Fargate";
        let subnets = self.one_and_more("Subnet", "Subnets")?;
        if subnets.is_empty() {
            self.missing.push("[Fargate] Subnet (or Subnets)".to_owned());
        }
        Ok(Fargate {
            cluster: self.required(t, "Cluster")?,
            region: self.text(t, "Region")?,
            subnets,
            security_groups: self.one_and_more("SecurityGroup", "SecurityGroups")?,
            task_definition: self.required(t, "TaskDefinition")?,
            allowed_task_definitions: self.texts(t, "AllowedTaskDefinitions")?,
            allowed_platform_versions: self.texts(t, "AllowedPlatformVersions")?,
            enable_public_ip: self.flag(t, "EnablePublicIP")?,
            use_public_ip: self.flag(t, "UsePublicIP")?,
            platform_version: self.text(t, "PlatformVersion")?,
            capacity: self.capacity()?,
            tags: self.tags()?,
            propagate_tags: self.propagate_tags()?,
            enable_ecs_managed_tags: self.flag(t, "EnableECSManagedTags")?,
            container: self
                .text(t, "ContainerName")?
                .unwrap_or_else(|| "ci-coordinator".to_owned()),
        })
    }

    fn capacity(&self) -> Result<Capacity, ConfigError> {
        let launch_type = self.launch_type()?;
        let Some(value) = self.find("Fargate", "CapacityProviders") else {
            return Ok(launch_type.map_or(Capacity::ClusterDefault, Capacity::LaunchType));
        };
        if launch_type.is_some() {
            return Err(self.file.wrong(
                &value.span(),
                "LaunchType and CapacityProviders exclude each other (ECS accepts one of them): remove one".to_owned(),
            ));
        }
        let expected = "a list such as [{ Name = \"FARGATE_SPOT\", Weight = 3 }, { Name = \"FARGATE\", Weight = 1, Base = 1 }]";
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.mistyped(value, "CapacityProviders", expected));
        };
        if entries.is_empty() || entries.len() > 20 {
            return Err(self.file.wrong(
                &value.span(),
                format!("CapacityProviders has {} entries, ECS takes 1 to 20", entries.len()),
            ));
        }
        let mut strategy = Vec::new();
        for entry in entries.iter() {
            let DeValue::Table(table) = entry.get_ref() else {
                return Err(self.mistyped(entry, "an entry of CapacityProviders", expected));
            };
            let Some(name) = lookup(table, "Name") else {
                return Err(self.file.wrong(
                    &entry.span(),
                    "an entry of CapacityProviders has no Name (FARGATE, FARGATE_SPOT, …)"
                        .to_owned(),
                ));
            };
            let number = |key: &str, most: i64| -> Result<i32, ConfigError> {
                lookup(table, key).map_or(Ok(0), |v| {
                    self.as_number(v, key, 0..=most).map(|n| i32::try_from(n).unwrap_or(i32::MAX))
                })
            };
            strategy.push(CapacityProvider {
                name: self.as_text(name, "Name")?,
                weight: number("Weight", 1000)?,
                base: number("Base", 100_000)?,
            });
        }
        // "… that all have a weight of 0, any RunTask … will fail" (ECS API reference,
        // CapacityProviderStrategyItem).
        if strategy.iter().all(|provider: &CapacityProvider| provider.weight == 0) {
            let message = "all entries of CapacityProviders have the weight 0, and ECS refuses such a strategy: give one of them Weight = 1";
            return Err(self.file.wrong(&value.span(), message.to_owned()));
        }
        Ok(Capacity::Strategy(strategy))
    }

    /// Reads the launch type in any case and passes it in upper case, as ECS requires. Other launch
    /// types place tasks on instances, which this driver does not manage.
    fn launch_type(&self) -> Result<Option<String>, ConfigError> {
        match (self.text("Fargate", "LaunchType")?, self.find("Fargate", "LaunchType")) {
            (Some(name), Some(value)) if !name.eq_ignore_ascii_case("FARGATE") => {
                Err(self.file.wrong(
                    &value.span(),
                    format!(
                        "LaunchType is {name:?}, expected \"FARGATE\": jobs run as Fargate tasks"
                    ),
                ))
            }
            (name, _) => Ok(name.map(|name| name.to_uppercase())),
        }
    }

    fn tags(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let Some(value) = self.find("Fargate", "Tags") else { return Ok(Vec::new()) };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.mistyped(value, "Tags", "a table such as { team = \"ci\" }"));
        };
        let mut own = Vec::new();
        for (key, value) in table.iter() {
            let text = self.as_text(value, key.get_ref())?;
            let admitted = "letters (combining marks are none), digits, spaces and + - = . _ : / @, not beginning with aws:";
            if !tags::is_key(key.get_ref()) {
                let message = format!(
                    "the tag {:?} is refused by AWS: expected a key of 1 to 128 {admitted}",
                    key.get_ref()
                );
                return Err(self.file.wrong(&key.span(), message));
            }
            if !tags::is_value(&text) {
                let message = format!(
                    "the value {text:?} of the tag {:?} is refused by AWS: expected up to 256 {admitted}",
                    key.get_ref()
                );
                return Err(self.file.wrong(&value.span(), message));
            }
            if key.get_ref().starts_with("fargate-driver:") {
                return Err(self.file.wrong(
                    &key.span(),
                    format!("the tag {:?} is the driver's own: by tags that begin so, `fargate reap` knows its tasks", key.get_ref()),
                ));
            }
            own.push((key.get_ref().to_string(), text));
        }
        // The driver adds up to nine tags of its own; AWS's limit is 50.
        if own.len() > 40 {
            return Err(self.file.wrong(
                &value.span(),
                format!(
                    "Tags has {} entries, 40 at most leave room for the driver's own",
                    own.len()
                ),
            ));
        }
        Ok(own)
    }

    /// Reads whether ECS copies the task definition's tags. RunTask refuses `SERVICE`, the API's
    /// third value.
    fn propagate_tags(&self) -> Result<bool, ConfigError> {
        let (text, value) =
            (self.text("Fargate", "PropagateTags")?, self.find("Fargate", "PropagateTags"));
        match (text, value) {
            (Some(text), Some(value)) => match text.to_uppercase().as_str() {
                "TASK_DEFINITION" => Ok(true),
                "NONE" => Ok(false),
                _ => Err(self.file.wrong(
                    &value.span(),
                    format!("PropagateTags is {text:?}, expected \"TASK_DEFINITION\" or \"NONE\""),
                )),
            },
            _ => Ok(false),
        }
    }

    fn log_level(&self) -> Result<tracing::level_filters::LevelFilter, ConfigError> {
        let Some(value) = self.find("", "LogLevel") else {
            return Ok(tracing::level_filters::LevelFilter::INFO);
        };
        let text = self.as_text(value, "LogLevel")?;
        crate::logging::level(&text).ok_or_else(|| {
            self.file.wrong(
                &value.span(),
                format!(
                    "LogLevel is {text:?}, expected one of {}",
                    crate::logging::LEVELS.join(", ")
                ),
            )
        })
    }

    /// Reads `Transport`. Without it, a transport's table implies the transport: `[ECSExec]` and no
    /// `[SSH]`.
    fn transport(&self) -> Result<&'static Declaration, ConfigError> {
        let implied = transport::implied(|table| lookup(self.root, table).is_some());
        let Some(value) = self.find("", "Transport") else { return Ok(implied) };
        let name = self.as_text(value, "Transport")?;
        if name.is_empty() {
            return Ok(implied);
        }
        transport::named(&name).ok_or_else(|| {
            let offered: Vec<String> =
                transport::offered().map(|known| format!("{:?}", known.name())).collect();
            self.file.wrong(
                &value.span(),
                format!("Transport is {name:?}, expected {}", offered.join(" or ")),
            )
        })
    }

    fn verify_host(&self) -> Result<HostProof, ConfigError> {
        let Some(value) = self.find("SSH", "VerifyHost") else { return Ok(HostProof::default()) };
        match self.as_text(value, "VerifyHost")?.as_str() {
            "" | "offered" => Ok(HostProof::Offered),
            "required" => Ok(HostProof::Required),
            other => Err(self.file.wrong(
                &value.span(),
                format!("VerifyHost is {other:?}, expected \"offered\" or \"required\""),
            )),
        }
    }

    /// Warns of connections over the internet, where another server could pose as the container at
    /// first contact.
    fn unverified(&self, config: &Config) -> Option<Warning> {
        let at_risk = config.transport.needs_login
            && config.fargate.use_public_ip
            && config.ssh.verify_host != HostProof::Required;
        let value = self.find("Fargate", "UsePublicIP").filter(|_| at_risk)?;
        let (line, _) = self.file.location(value.span().start);
        let message = "UsePublicIP is true, and nothing makes containers prove their host keys: a server in between can take a container's place at first contact, and with it scripts and secrets. Set [SSH] VerifyHost = \"required\" as soon as the image has this version's deploy/ssh-entrypoint.sh.";
        Some(Warning { line, message: message.to_owned() })
    }

    fn log_format(&self) -> Result<LogFormat, ConfigError> {
        let Some(value) = self.find("", "LogFormat") else { return Ok(LogFormat::Text) };
        match self.as_text(value, "LogFormat")?.as_str() {
            "" | "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(self.file.wrong(
                &value.span(),
                format!("LogFormat is {other:?}, expected \"text\" or \"json\""),
            )),
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
