//! The rules of settings: a kind of value, and what applies where there is none.

use super::{
    kinds::{Defaultable, Kind},
    reader::{Read, Reader},
};

/// A setting without which the file is not complete.
pub(super) struct Required<K>(K);

/// A setting that may be missing.
pub(super) struct Optional<K> {
    kind: K,
    otherwise: &'static str,
}

/// A setting that is empty where it is missing.
pub(super) struct OrEmpty<K>(K);

/// A setting with a default.
pub(super) struct WithDefault<K: Defaultable> {
    kind: K,
    default: K::Default,
}

/// A setting of this kind that must be there.
pub(super) const fn required<K: Kind>(kind: K) -> Required<K> {
    Required(kind)
}

/// A setting of this kind that may be missing. `otherwise` says what applies then, in the
/// documentation's words.
pub(super) const fn optional<K: Kind>(kind: K, otherwise: &'static str) -> Optional<K> {
    Optional { kind, otherwise }
}

/// A setting of this kind, a list or a table, that is empty where it is missing.
pub(super) const fn or_empty<K: Kind>(kind: K) -> OrEmpty<K> {
    OrEmpty(kind)
}

/// A setting of this kind with a default.
pub(super) const fn with_default<K: Defaultable>(kind: K, default: K::Default) -> WithDefault<K> {
    WithDefault { kind, default }
}

/// What a setting admits, and what applies without it.
pub(super) trait Rule: Sync {
    /// The kind of its values.
    type Kind: Kind;
    /// The type of the result.
    type Value;

    /// Reads a setting. For one that is missing or wrong, returns what applies without it.
    fn read(&self, reader: &mut Reader<'_>, table: &str, key: &str) -> Self::Value;

    /// Returns what applies where the setting is missing, as Markdown.
    fn otherwise(&self) -> String;
}

/// A rule, as the documentation has it.
pub(super) trait Describe: Sync {
    /// Returns the name of the kind.
    fn kind(&self) -> &'static str;

    /// Returns the keys of the tables that values consist of.
    fn entry_keys(&self) -> &'static [&'static str];

    /// Returns what applies where the setting is missing, as Markdown.
    fn otherwise(&self) -> String;
}

impl<R: Rule> Describe for R {
    fn kind(&self) -> &'static str {
        R::Kind::NAME
    }

    fn entry_keys(&self) -> &'static [&'static str] {
        R::Kind::ENTRY_KEYS
    }

    fn otherwise(&self) -> String {
        Rule::otherwise(self)
    }
}

impl<K: Kind<Value: Default>> Rule for Required<K> {
    type Kind = K;
    type Value = K::Value;

    /// Records a missing one and returns a placeholder, so that all missing ones are reported.
    fn read(&self, reader: &mut Reader<'_>, table: &str, key: &str) -> K::Value {
        let read = reader.read(&self.0, table, key);
        if matches!(read, Read::Missing) {
            reader.missing.push(format!("[{table}] {key}"));
        }
        read.value().unwrap_or_default()
    }

    fn otherwise(&self) -> String {
        "required".to_owned()
    }
}

impl<K: Kind> Rule for Optional<K> {
    type Kind = K;
    type Value = Option<K::Value>;

    fn read(&self, reader: &mut Reader<'_>, table: &str, key: &str) -> Option<K::Value> {
        reader.read(&self.kind, table, key).value()
    }

    fn otherwise(&self) -> String {
        self.otherwise.to_owned()
    }
}

impl<K: Kind<Value: Default>> Rule for OrEmpty<K> {
    type Kind = K;
    type Value = K::Value;

    fn read(&self, reader: &mut Reader<'_>, table: &str, key: &str) -> K::Value {
        reader.read(&self.0, table, key).value().unwrap_or_default()
    }

    fn otherwise(&self) -> String {
        "none".to_owned()
    }
}

impl<K: Defaultable> Rule for WithDefault<K> {
    type Kind = K;
    type Value = K::Value;

    fn read(&self, reader: &mut Reader<'_>, table: &str, key: &str) -> K::Value {
        let read = reader.read(&self.kind, table, key);
        read.value().unwrap_or_else(|| self.kind.value(self.default))
    }

    fn otherwise(&self) -> String {
        format!("`{}`", self.kind.toml(self.default))
    }
}
