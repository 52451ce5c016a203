//! What is particular to `[[Warm]]`: schedules, and what pools may ask for.

use std::time::Duration;

use jiff::tz::TimeZone;
use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigError, Warm,
    kinds::{Checked, Defaultable, Kind, Number, Span},
    reader::{File, Reader, Value, lookup},
};
use crate::schedule::{Days, TimeOfDay, Window};

/// The shortest age at which a task is replaced. Starting one takes a good part of it.
const SHORTEST_AGE: Duration = Duration::from_mins(1);

/// The age at which a warm task is replaced.
pub(super) struct MaxAge;

impl Kind for MaxAge {
    type Value = Duration;
    const NAME: &'static str = Span::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<Duration> {
        match Span.check(file, key, value)? {
            Some(age) if age < SHORTEST_AGE => Err(file.wrong(
                &value.span(),
                format!(
                    "{key} is {}, expected a minute at least: starting a task takes about as long",
                    humantime::format_duration(age)
                ),
            )),
            age => Ok(age),
        }
    }
}

impl Defaultable for MaxAge {
    type Default = &'static str;

    fn value(&self, default: &'static str) -> Duration {
        Span.value(default)
    }

    fn toml(&self, default: &'static str) -> String {
        Span.toml(default)
    }
}

/// The windows of a schedule.
pub(super) struct Schedule;

const DAYS: &str = "Days";
const FROM: &str = "From";
const TO: &str = "To";
const TIMEZONE: &str = "Timezone";
const COUNT: &str = "Count";

impl Kind for Schedule {
    type Value = Vec<Window>;
    const NAME: &'static str = "list of tables";
    const ENTRY_KEYS: &'static [&'static str] = &[DAYS, FROM, TO, TIMEZONE, COUNT];

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<Vec<Window>> {
        let expected = "a list such as [{ Days = \"Mon-Fri\", From = \"07:00\", To = \"19:00\", Timezone = \"Europe/Berlin\", Count = 10 }]";
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(file.mistyped(value, key, expected));
        };
        let (mut windows, mut mistakes) = (Vec::new(), Vec::new());
        for entry in entries.iter() {
            match entry.get_ref() {
                DeValue::Table(table) => {
                    windows.extend(window(file, key, entry, table, &mut mistakes));
                }
                _ => mistakes.push(file.mistyped(entry, &format!("an entry of {key}"), expected)),
            }
        }
        ConfigError::of(mistakes)?;
        Ok(Some(windows))
    }
}

/// Reads a window. `None`: it has mistakes, which are recorded.
fn window(
    file: &File<'_>,
    schedule: &str,
    entry: Value<'_>,
    table: &DeTable<'_>,
    mistakes: &mut Vec<ConfigError>,
) -> Option<Window> {
    let mut reader = Fields { file, schedule, entry, table, mistakes };
    let days =
        reader.text(DAYS, Some(Days::ALL), Days::parse, "days such as \"Mon-Fri\" or \"Sat,Sun\"");
    let time = "a time from \"00:00\" to \"24:00\"";
    let from = reader.text(FROM, None, TimeOfDay::parse, time);
    let to = reader.text(TO, None, TimeOfDay::parse, time);
    let timezone = reader.text(
        TIMEZONE,
        Some(TimeZone::UTC),
        |name| TimeZone::get(name).ok(),
        "the name of a time zone such as \"Europe/Berlin\"",
    );
    let count = reader.count();
    if let (true, Some(value)) = (from.is_some() && from == to, lookup(table, TO)) {
        mistakes.push(file.wrong(
            &value.span(),
            format!("{FROM} and {TO} are the same: for a whole day, write {FROM} = \"00:00\" and {TO} = \"24:00\""),
        ));
        return None;
    }
    Some(Window { days: days?, from: from?, to: to?, timezone: timezone?, count: count? })
}

/// Reads the fields of a window.
struct Fields<'a> {
    file: &'a File<'a>,
    schedule: &'a str,
    entry: Value<'a>,
    table: &'a DeTable<'a>,
    mistakes: &'a mut Vec<ConfigError>,
}

impl Fields<'_> {
    /// Reads a text. Without a `default`, it must be there.
    fn text<T>(
        &mut self,
        key: &str,
        default: Option<T>,
        parse: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let Some(value) = lookup(self.table, key) else {
            if default.is_none() {
                self.missing(key);
            }
            return default;
        };
        let read = self.file.text_of(value, key).and_then(|text| {
            parse(&text).ok_or_else(|| {
                self.file.wrong(&value.span(), format!("{key} is {text:?}, expected {expected}"))
            })
        });
        read.map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    fn count(&mut self) -> Option<u32> {
        let Some(value) = lookup(self.table, COUNT) else {
            self.missing(COUNT);
            return None;
        };
        let count = Number(0..=500_u32).check(self.file, COUNT, value);
        count.map_err(|mistake| self.mistakes.push(mistake)).ok().flatten()
    }

    fn missing(&mut self, key: &str) {
        let message = format!("an entry of {} has no {key}", self.schedule);
        self.mistakes.push(self.file.wrong(&self.entry.span(), message));
    }
}

impl Config {
    /// Returns the name of a pool. Unless it has one, it is called after what its tasks are: the
    /// task definition's family, its image, and its size.
    #[must_use]
    pub fn pool_name(&self, pool: &Warm) -> String {
        if let Some(name) = &pool.name {
            return name.clone();
        }
        let definition = pool.task_definition.as_ref().unwrap_or(&self.fargate.task_definition);
        let mut name = definition.rsplit('/').next().unwrap_or(definition).to_owned();
        let cpu = pool.cpu.map(|cpu| format!("cpu {cpu}"));
        let memory = pool.memory.map(|memory| format!("memory {memory}"));
        let platform = pool.platform_version.clone();
        for part in [pool.image.clone(), cpu, memory, platform].into_iter().flatten() {
            name.push(' ');
            name.push_str(&part);
        }
        name
    }

    /// Returns the task definition and the platform version of a pool's tasks.
    #[must_use]
    pub fn pool_definition<'a>(&'a self, pool: &'a Warm) -> (&'a str, Option<&'a str>) {
        let definition = pool.task_definition.as_deref();
        let platform = pool.platform_version.as_deref();
        (
            definition.unwrap_or(&self.fargate.task_definition),
            platform.or(self.fargate.platform_version.as_deref()),
        )
    }
}

/// Checks what pools ask for beside the rest of the file, and that no two are the same.
pub(super) fn check_pools(reader: &mut Reader<'_>, config: &Config) {
    let entries = reader.entries("Warm");
    let mut seen: Vec<(usize, &Warm)> = Vec::new();
    for ((entry, table), pool) in entries.iter().zip(&config.warm) {
        let place = |key: &str| lookup(table, key).map_or(entry.span(), |value| value.span());
        let mut refuse = |key: &str, message: String| {
            reader.mistakes.push(reader.file.wrong(&place(key), message));
        };
        if lookup(table, "Count").is_none() && lookup(table, "Schedule").is_none() {
            refuse("", "a pool needs Count or Schedule: how many tasks it keeps ready".to_owned());
        }
        if pool.image.is_some() && config.images.allowed.is_none() {
            let message = "Image needs Allowed in [Images]: without it, jobs' images are ignored";
            refuse("Image", message.to_owned());
        }
        for (key, asked, setting, most) in [
            ("CPU", pool.cpu, "MaxCpu", config.sizes.max_cpu),
            ("Memory", pool.memory, "MaxMemory", config.sizes.max_memory),
        ] {
            match (asked, most) {
                (Some(_), None) => refuse(
                    key,
                    format!("{key} needs {setting} in [Sizes]: without it, jobs cannot choose it"),
                ),
                (Some(asked), Some(most)) if asked > most => {
                    refuse(key, format!("{key} is {asked}, and [Sizes] {setting} allows {most}"));
                }
                _ => {}
            }
        }
        let name = config.pool_name(pool);
        let is_same = |other: &Warm| {
            let what = |pool: &Warm| (pool.image.clone(), pool.cpu, pool.memory);
            config.pool_definition(other) == config.pool_definition(pool)
                && what(other) == what(pool)
        };
        if let Some((line, other)) =
            seen.iter().find(|(_, other)| is_same(other) || config.pool_name(other) == name)
        {
            let message = if is_same(other) {
                format!(
                    "the pool {name:?} has the same tasks as that of line {line}: keep one of them, with a Schedule"
                )
            } else {
                format!("the pool of line {line} is called {name:?}, too: give one another Name")
            };
            refuse("Name", message);
        }
        seen.push((reader.file.location(entry.span().start).0, pool));
    }
}
