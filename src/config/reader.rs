//! Access to the values of `fargate.toml`, with the place of each that is wrong.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ConfigError, kinds::Kind};

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

    /// Makes the error of a value that has another type.
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
        self.wrong(&value.span(), format!("{key} is {found}, expected {expected}"))
    }

    /// Returns a string's text, which may be empty.
    pub(super) fn text_of(&self, value: Value<'_>, key: &str) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.mistyped(value, key, "a string in quotes")),
        }
    }
}

/// Reads values from `fargate.toml`.
pub(super) struct Reader<'a> {
    pub(super) file: &'a File<'a>,
    pub(super) root: &'a DeTable<'a>,
    /// The entry of a list of tables that is being read; `None` while tables are read.
    pub(super) entry: Option<&'a DeTable<'a>>,
    /// The keys that are required and not there.
    pub(super) missing: Vec<String>,
    /// What is wrong with values. Each was replaced by what applies without it.
    pub(super) mistakes: Vec<ConfigError>,
}

/// A value with its place in the file.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Reader<'a> {
    /// Creates a reader of this file.
    pub(super) fn new(file: &'a File<'a>, root: &'a DeTable<'a>) -> Self {
        Self { file, root, entry: None, missing: Vec::new(), mistakes: Vec::new() }
    }

    /// Finds a value. The top level is the table without a name.
    pub(super) fn find(&self, table: &str, key: &str) -> Option<Value<'a>> {
        if let Some(entry) = self.entry {
            return lookup(entry, key);
        }
        if table.is_empty() {
            return lookup(self.root, key);
        }
        match lookup(self.root, table)?.get_ref() {
            DeValue::Table(table) => lookup(table, key),
            _ => None,
        }
    }

    /// Reads a value that may be missing. A wrong one is recorded, and is [`Read::Wrong`].
    pub(super) fn read<K: Kind>(&mut self, kind: &K, table: &str, key: &str) -> Read<K::Value> {
        let Some(value) = self.find(table, key) else { return Read::Missing };
        match kind.check(self.file, key, value) {
            Ok(Some(value)) => Read::Value(value),
            Ok(None) => Read::Missing,
            Err(mistake) => {
                self.mistakes.push(mistake);
                Read::Wrong
            }
        }
    }

    /// Lists the entries of a list of tables, each with its place. The structure was checked.
    pub(super) fn entries(&self, list: &str) -> Vec<(Value<'a>, &'a DeTable<'a>)> {
        let entries = lookup(self.root, list).and_then(|value| value.get_ref().as_array());
        let entries = entries.into_iter().flat_map(|entries| entries.iter());
        entries.filter_map(|entry| Some((entry, entry.get_ref().as_table()?))).collect()
    }
}

/// What was read of a setting.
pub(super) enum Read<T> {
    /// Its value.
    Value(T),
    /// There is none.
    Missing,
    /// Its value is wrong, which is recorded.
    Wrong,
}

impl<T> Read<T> {
    /// The value. The other two are the same to those who have a substitute.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Wrong => None,
        }
    }
}

/// Finds a key in any case, as the Go driver's TOML library does.
pub(super) fn lookup<'a>(table: &'a DeTable<'a>, key: &str) -> Option<Value<'a>> {
    table.iter().find(|(name, _)| name.get_ref().eq_ignore_ascii_case(key)).map(|(_, value)| value)
}
