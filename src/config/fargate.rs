//! What is particular to `[Fargate]`: its own kinds of values, and fields of several settings.

use states::{Capacity, CapacityProvider};
use toml::de::DeValue;

use super::{
    ConfigError,
    declaration::Setting,
    kinds::{Checked, Kind, Number, Text, Texts},
    reader::{File, Reader, Value, lookup},
    rules::Optional,
};
use crate::tags;

/// Reads a setting of one text and one of several, of which at least one must be there.
pub(super) fn subnets(
    reader: &mut Reader<'_>,
    one: Setting<Optional<Text>>,
    more: Setting<Optional<Texts>>,
) -> Vec<String> {
    let missing = format!("[{}] {} (or {})", one.table, one.key, more.key);
    let mistakes = reader.mistakes.len();
    let subnets = distinct(reader, one, more);
    if subnets.is_empty() && reader.mistakes.len() == mistakes {
        reader.missing.push(missing);
    }
    subnets
}

/// Reads a setting of one text and one of several.
pub(super) fn distinct(
    reader: &mut Reader<'_>,
    one: Setting<Optional<Text>>,
    more: Setting<Optional<Texts>>,
) -> Vec<String> {
    let mut all: Vec<String> = one.read(reader).into_iter().collect();
    for text in more.read(reader).unwrap_or_default() {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// Reads the source of capacity. With neither setting, the cluster decides.
pub(super) fn capacity(
    reader: &mut Reader<'_>,
    launch_type: Setting<Optional<LaunchType>>,
    providers: Setting<Optional<CapacityProviders>>,
) -> Capacity {
    let launch_type = launch_type.read(reader);
    if let (Some(_), Some(value)) = (&launch_type, providers.find(reader)) {
        reader.mistakes.push(reader.file.wrong(
            &value.span(),
            "LaunchType and CapacityProviders exclude each other (ECS accepts one of them): remove one".to_owned(),
        ));
        return Capacity::ClusterDefault;
    }
    match (providers.read(reader), launch_type) {
        (Some(strategy), _) => Capacity::Strategy(strategy),
        (None, Some(name)) => Capacity::LaunchType(name),
        (None, None) => Capacity::ClusterDefault,
    }
}

/// The launch type in any case; ECS requires upper case. Tasks of `EXTERNAL` have no network
/// interface of their own, which the driver needs.
pub(super) struct LaunchType;

impl Kind for LaunchType {
    type Value = String;
    const NAME: &'static str = Text::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<String> {
        match Text.check(file, key, value)? {
            Some(name) if !["FARGATE", "EC2"].iter().any(|of| of.eq_ignore_ascii_case(&name)) => {
                Err(file.wrong(
                    &value.span(),
                    format!("{key} is {name:?}, expected \"FARGATE\" or \"EC2\""),
                ))
            }
            name => Ok(name.map(|name| name.to_uppercase())),
        }
    }
}

/// A capacity provider strategy.
pub(super) struct CapacityProviders;

const NAME: &str = "Name";
const WEIGHT: &str = "Weight";
const BASE: &str = "Base";

impl Kind for CapacityProviders {
    type Value = Vec<CapacityProvider>;
    const NAME: &'static str = "list of tables";
    const ENTRY_KEYS: &'static [&'static str] = &[NAME, WEIGHT, BASE];

    fn check(
        &self,
        file: &File<'_>,
        key: &str,
        value: Value<'_>,
    ) -> Checked<Vec<CapacityProvider>> {
        let expected = "a list such as [{ Name = \"FARGATE_SPOT\", Weight = 3 }, { Name = \"FARGATE\", Weight = 1, Base = 1 }]";
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(file.mistyped(value, key, expected));
        };
        if entries.is_empty() || entries.len() > 20 {
            return Err(file.wrong(
                &value.span(),
                format!("{key} has {} entries, ECS takes 1 to 20", entries.len()),
            ));
        }
        let mut strategy = Vec::new();
        for entry in entries.iter() {
            let DeValue::Table(table) = entry.get_ref() else {
                return Err(file.mistyped(entry, &format!("an entry of {key}"), expected));
            };
            let Some(name) = lookup(table, NAME) else {
                return Err(file.wrong(
                    &entry.span(),
                    format!("an entry of {key} has no {NAME} (FARGATE, FARGATE_SPOT, …)"),
                ));
            };
            let number = |key: &str, most: i32| -> Result<i32, ConfigError> {
                let Some(value) = lookup(table, key) else { return Ok(0) };
                Ok(Number(0..=most).check(file, key, value)?.unwrap_or(0))
            };
            strategy.push(CapacityProvider {
                name: file.text_of(name, NAME)?,
                weight: number(WEIGHT, 1000)?,
                base: number(BASE, 100_000)?,
            });
        }
        // "… that all have a weight of 0, any RunTask … will fail" (ECS API reference,
        // CapacityProviderStrategyItem).
        if strategy.iter().all(|provider: &CapacityProvider| provider.weight == 0) {
            let message = format!(
                "all entries of {key} have the weight 0, and ECS refuses such a strategy: give one of them {WEIGHT} = 1"
            );
            return Err(file.wrong(&value.span(), message));
        }
        let of = |is_of_fargate: bool| {
            strategy.iter().find(|provider| provider.is_of_fargate() == is_of_fargate)
        };
        if let (Some(one), Some(other)) = (of(true), of(false)) {
            let message = format!(
                "{key} has {} and {}: ECS takes either Fargate's providers (FARGATE, FARGATE_SPOT) or those of instances",
                one.name, other.name
            );
            return Err(file.wrong(&value.span(), message));
        }
        Ok(Some(strategy))
    }
}

/// Tags as AWS admits them.
pub(super) struct Tags;

impl Kind for Tags {
    type Value = Vec<(String, String)>;
    const NAME: &'static str = "table of strings";

    fn check(
        &self,
        file: &File<'_>,
        key: &str,
        value: Value<'_>,
    ) -> Checked<Vec<(String, String)>> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(file.mistyped(value, key, "a table such as { team = \"ci\" }"));
        };
        let mut own = Vec::new();
        for (name, value) in table.iter() {
            let text = file.text_of(value, name.get_ref())?;
            let admitted = "letters (combining marks are none), digits, spaces and + - = . _ : / @, not beginning with aws:";
            if !tags::is_key(name.get_ref()) {
                let message = format!(
                    "the tag {:?} is refused by AWS: expected a key of 1 to 128 {admitted}",
                    name.get_ref()
                );
                return Err(file.wrong(&name.span(), message));
            }
            if !tags::is_value(&text) {
                let message = format!(
                    "the value {text:?} of the tag {:?} is refused by AWS: expected up to 256 {admitted}",
                    name.get_ref()
                );
                return Err(file.wrong(&value.span(), message));
            }
            if name.get_ref().starts_with("fargate-driver:") {
                return Err(file.wrong(
                    &name.span(),
                    format!("the tag {:?} is the driver's own: by tags that begin so, `fargate reap` knows its tasks", name.get_ref()),
                ));
            }
            own.push((name.get_ref().to_string(), text));
        }
        // The driver adds up to nine tags of its own; AWS's limit is 50.
        if own.len() > 40 {
            return Err(file.wrong(
                &value.span(),
                format!(
                    "{key} has {} entries, 40 at most leave room for the driver's own",
                    own.len()
                ),
            ));
        }
        Ok(Some(own))
    }
}
