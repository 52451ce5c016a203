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

    /// Returns the byte at a line and column, from 1.
    pub(super) fn offset(&self, line: usize, column: usize) -> usize {
        let before = self.text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
        before + column - 1
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
    /// The keys that are required and not there.
    pub(super) missing: Vec<String>,
}

/// A value with its place in the file.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Reader<'a> {
    /// Finds a value. The top level is the table without a name.
    pub(super) fn find(&self, table: &str, key: &str) -> Option<Value<'a>> {
        if table.is_empty() {
            return lookup(self.root, key);
        }
        match lookup(self.root, table)?.get_ref() {
            DeValue::Table(table) => lookup(table, key),
            _ => None,
        }
    }

    /// Reads a value that may be missing.
    pub(super) fn read<K: Kind>(
        &self,
        kind: &K,
        table: &str,
        key: &str,
    ) -> Result<Option<K::Value>, ConfigError> {
        self.find(table, key).map_or(Ok(None), |value| kind.check(self.file, key, value))
    }
}

/// Finds a key in any case, as the Go driver's TOML library does.
pub(super) fn lookup<'a>(table: &'a DeTable<'a>, key: &str) -> Option<Value<'a>> {
    table.iter().find(|(name, _)| name.get_ref().eq_ignore_ascii_case(key)).map(|(_, value)| value)
}
