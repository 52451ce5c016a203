//! Typed access to the values of `fargate.toml`, with the place of each that is wrong.

use std::{ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::ConfigError;

/// The text of `fargate.toml` and its path, for error messages.
pub(super) struct File<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl File<'_> {
    /// Returns line and column of a byte, from 1.
    pub(super) fn location(&self, at: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        (line, column)
    }

    /// Makes the error of a value that is wrong.
    pub(super) fn wrong(&self, span: &Range<usize>, message: String) -> ConfigError {
        let (line, column) = self.location(span.start);
        ConfigError::Wrong { path: self.path.to_owned(), line, column, message }
    }
}

/// Reads typed values from `fargate.toml`.
pub(super) struct Reader<'a> {
    pub(super) file: &'a File<'a>,
    pub(super) root: &'a DeTable<'a>,
    /// The keys that are required and not there.
    pub(super) missing: Vec<String>,
}

/// A value with its place in the file.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Reader<'a> {
    pub(super) fn find(&self, table: &str, key: &str) -> Option<Value<'a>> {
        if table.is_empty() {
            return lookup(self.root, key);
        }
        match lookup(self.root, table)?.get_ref() {
            DeValue::Table(table) => lookup(table, key),
            _ => None,
        }
    }

    pub(super) fn required(&mut self, table: &str, key: &str) -> Result<String, ConfigError> {
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

    pub(super) fn texts(&self, table: &str, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.find(table, key) else { return Ok(None) };
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.mistyped(value, key, "a list of strings"));
        };
        entries.iter().map(|entry| self.as_text(entry, key)).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn one_and_more(&self, one: &str, more: &str) -> Result<Vec<String>, ConfigError> {
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

    pub(super) fn number(
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

    pub(super) fn as_number(
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
pub(super) fn lookup<'a>(table: &'a DeTable<'a>, key: &str) -> Option<Value<'a>> {
    table.iter().find(|(name, _)| name.get_ref().eq_ignore_ascii_case(key)).map(|(_, value)| value)
}
