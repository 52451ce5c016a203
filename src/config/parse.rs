//! Parses a text into a checked configuration. Errors have their location.

use std::{ops::Range, path::Path, time::Duration};

use states::{Capacity, CapacityProvider, HostProof, Limits};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use transports::Declaration;

use super::{
    Config, ConfigError, Fargate, Metadata, Runner, Ssh, Warning,
    keys::{CAPACITY_PROVIDER, TABLES, nearest},
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
    well_formed(&file, root.get_ref())?;
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

pub(super) struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

impl File<'_> {
    /// Returns line and column of a byte, from 1.
    fn location(&self, at: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        (line, column)
    }

    pub(super) fn wrong(&self, span: &Range<usize>, message: String) -> ConfigError {
        let (line, column) = self.location(span.start);
        ConfigError::Wrong { path: self.path.to_owned(), line, column, message }
    }
}

pub(super) struct Reader<'a> {
    pub(super) file: &'a File<'a>,
    root: &'a DeTable<'a>,
    missing: Vec<String>,
}

pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

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

    pub(super) fn find(&self, table: &str, key: &str) -> Option<Value<'a>> {
        if table.is_empty() {
            return lookup(self.root, key);
        }
        match lookup(self.root, table)?.get_ref() {
            DeValue::Table(table) => lookup(table, key),
            _ => None,
        }
    }

    fn required(&mut self, table: &str, key: &str) -> Result<String, ConfigError> {
        Ok(self.text(table, key)?.unwrap_or_else(|| {
            self.missing.push(format!("[{table}] {key}"));
            String::new()
        }))
    }

    /// Reads a text; as with the Go driver, an empty one counts as missing.
    pub(super) fn text(&self, table: &str, key: &str) -> Result<Option<String>, ConfigError> {
        let text = self.find(table, key).map(|value| self.as_text(value, key)).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn texts(&self, table: &str, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.find(table, key) else { return Ok(None) };
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.mistyped(value, key, "a list of strings"));
        };
        entries.iter().map(|entry| self.as_text(entry, key)).collect::<Result<_, _>>().map(Some)
    }

    fn one_and_more(&self, one: &str, more: &str) -> Result<Vec<String>, ConfigError> {
        let mut all: Vec<String> = self.text("Fargate", one)?.into_iter().collect();
        for text in self.texts("Fargate", more)?.unwrap_or_default() {
            if !all.contains(&text) {
                all.push(text);
            }
        }
        Ok(all)
    }

    pub(super) fn flag(&self, table: &str, key: &str) -> Result<bool, ConfigError> {
        match self.find(table, key) {
            None => Ok(false),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Ok(*flag),
                _ => Err(self.mistyped(value, key, "true or false")),
            },
        }
    }

    fn number(
        &self,
        table: &str,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, ConfigError> {
        self.find(table, key).map(|value| self.as_number(value, key, range)).transpose()
    }

    pub(super) fn span(
        &self,
        table: &str,
        key: &str,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let Some(value) = self.find(table, key) else { return Ok(default) };
        let text = self.as_text(value, key)?;
        match humantime::parse_duration(&text) {
            Ok(span) if span <= Duration::from_secs(366 * 24 * 60 * 60) => Ok(span),
            _ => Err(self.file.wrong(
                &value.span(),
                format!("{key} is {text:?}, expected a duration such as \"90s\", \"10m\" or \"1h 30m\", a year at most"),
            )),
        }
    }

    pub(super) fn as_text(&self, value: Value<'_>, key: &str) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.mistyped(value, key, "a string in quotes")),
        }
    }

    fn as_number(
        &self,
        value: Value<'_>,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, ConfigError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match value.get_ref() {
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) if range.contains(&number) => Ok(number),
                    _ => Err(self
                        .file
                        .wrong(&value.span(), format!("{key} is {number}, expected {expected}"))),
                }
            }
            _ => Err(self.mistyped(value, key, &expected)),
        }
    }

    pub(super) fn mistyped(&self, value: Value<'_>, key: &str, expected: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.file.wrong(&value.span(), format!("{key} is {found}, expected {expected}"))
    }
}

/// Finds a key in any case, as the Go driver's TOML library does.
fn lookup<'a>(table: &'a DeTable<'a>, key: &str) -> Option<Value<'a>> {
    table.iter().find(|(name, _)| name.get_ref().eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// Checks that tables are tables and that no key repeats. Names ignore case, so TOML's own rule is
/// not enough.
fn well_formed(file: &File<'_>, root: &DeTable<'_>) -> Result<(), ConfigError> {
    unique(file, "", root)?;
    for (table, _) in TABLES.iter().filter(|(table, _)| !table.is_empty()) {
        match lookup(root, table).map(|value| (value.get_ref(), value.span())) {
            Some((DeValue::Table(entries), _)) => unique(file, &format!("[{table}] "), entries)?,
            Some((_, span)) => {
                return Err(file.wrong(
                    &span,
                    format!("{table} is not a table here, expected [{table}] on a line of its own"),
                ));
            }
            None => {}
        }
    }
    Ok(())
}

fn unique(file: &File<'_>, table: &str, entries: &DeTable<'_>) -> Result<(), ConfigError> {
    let mut keys: Vec<_> = entries.iter().map(|(key, _)| key).collect();
    keys.sort_by_key(|key| key.span().start);
    for (n, key) in keys.iter().enumerate() {
        if let Some(first) =
            keys[..n].iter().find(|first| first.get_ref().eq_ignore_ascii_case(key.get_ref()))
        {
            let (line, _) = file.location(first.span().start);
            let message = format!(
                "the key {table}{} is here twice, expected once: it is {} on line {line}",
                key.get_ref(),
                first.get_ref()
            );
            return Err(file.wrong(&key.span(), message));
        }
    }
    Ok(())
}

fn unknown_keys(file: &File<'_>, root: &DeTable<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let tables = || TABLES.iter().map(|(table, _)| *table).filter(|table| !table.is_empty());
    for (name, value) in root.iter() {
        let known = TABLES
            .iter()
            .find(|(table, _)| !table.is_empty() && name.get_ref().eq_ignore_ascii_case(table));
        match (known, value.get_ref()) {
            (Some((table, keys)), DeValue::Table(entries)) => {
                for (key, value) in entries.iter() {
                    warn(file, key, &format!("[{table}] "), keys.iter().copied(), &mut warnings);
                    if let (true, DeValue::Array(providers)) =
                        (key.get_ref().eq_ignore_ascii_case("CapacityProviders"), value.get_ref())
                    {
                        for provider in
                            providers.iter().filter_map(|provider| provider.get_ref().as_table())
                        {
                            let known = CAPACITY_PROVIDER.iter().copied();
                            provider.iter().for_each(|(key, _)| {
                                warn(file, key, "CapacityProviders ", known.clone(), &mut warnings)
                            });
                        }
                    }
                }
            }
            // Refused before, as it is not a table.
            (Some(_), _) => {}
            (None, _) => {
                warn(file, name, "", TABLES[0].1.iter().copied().chain(tables()), &mut warnings)
            }
        }
    }
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

/// Suggests present keys that may be meant for the missing ones.
fn hints(root: &DeTable<'_>, unknown: &[Warning]) -> Vec<String> {
    if lookup(root, "runners").is_some() {
        return vec![
            "[[runners]] says that this is gitlab-runner's own file: --config is to name the driver's, usually fargate.toml.".to_owned(),
        ];
    }
    unknown
        .iter()
        .map(|warning| {
            let sentence = warning.to_string();
            sentence[..1].to_uppercase() + &sentence[1..]
        })
        .collect()
}

/// Finds the table in which a top-level key belongs.
fn table_of(key: &str) -> Option<&'static str> {
    TABLES
        .iter()
        .find(|(table, keys)| !table.is_empty() && keys.iter().any(|k| k.eq_ignore_ascii_case(key)))
        .map(|(table, _)| *table)
}

fn warn<'a>(
    file: &File<'_>,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    table: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    warnings: &mut Vec<Warning>,
) {
    if known.clone().any(|k| k.eq_ignore_ascii_case(key.get_ref())) {
        return;
    }
    let (line, _) = file.location(key.span().start);
    let meant = match table_of(key.get_ref()) {
        Some(belongs) if table.is_empty() => format!(" It belongs under [{belongs}]."),
        _ => {
            nearest(key.get_ref(), known).map(|k| format!(" Did you mean {k}?")).unwrap_or_default()
        }
    };
    warnings.push(Warning {
        line,
        message: format!("the key {table}{} is not known and is ignored.{meant}", key.get_ref()),
    });
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
