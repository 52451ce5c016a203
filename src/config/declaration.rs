//! What a declaration in [`super::settings`] consists of, and the macro that expands it.

use super::{
    ConfigError,
    reader::{Reader, Value},
    rules::{Describe, Rule},
};

/// A table and its settings.
pub(super) struct Table {
    /// Its name; empty for the top level.
    pub(super) name: &'static str,
    /// Its settings.
    pub(super) settings: &'static [Declared],
}

/// A setting of a table, as it is declared.
pub(super) struct Declared {
    /// Its key.
    pub(super) key: &'static str,
    /// Its rule.
    pub(super) rule: &'static dyn Describe,
}

impl Table {
    /// Lists the keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        self.settings.iter().map(|setting| setting.key)
    }

    /// Finds a setting by its key in any case.
    pub(super) fn setting(&self, key: &str) -> Option<&'static Declared> {
        self.settings.iter().find(|setting| setting.key.eq_ignore_ascii_case(key))
    }
}

/// A setting to be read.
pub(super) struct Setting<R> {
    /// Its table.
    pub(super) table: &'static str,
    /// Its key.
    pub(super) key: &'static str,
    /// Its rule.
    pub(super) rule: R,
}

impl<R: Rule> Setting<R> {
    /// Reads its value, or what applies without it.
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Result<R::Value, ConfigError> {
        self.rule.read(reader, self.table, self.key)
    }
}

impl<R> Setting<R> {
    /// Finds its value, for errors about it.
    pub(super) fn find<'a>(&self, reader: &Reader<'a>) -> Option<Value<'a>> {
        reader.find(self.table, self.key)
    }
}

/// A struct that is read from a table.
pub(super) trait Section: Sized {
    /// The table.
    const TABLE: Table;

    /// Reads it.
    fn read(reader: &mut Reader<'_>) -> Result<Self, ConfigError>;
}

/// Reads a table into a field of [`super::Config`].
pub(super) fn section<T: Section>(reader: &mut Reader<'_>) -> Result<T, ConfigError> {
    T::read(reader)
}

/// Declares the settings of a table, and the struct that they are read into. For a struct of
/// another module, begin with `impl`.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $name:ident in $table:literal {$(
            $(#[$help:meta])*
            pub $field:ident: $type:ty =
                $($function:ident [$($part:literal: $part_rule:expr),*])? $($key:literal: $rule:expr)?;
        )*}
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {$(
            $(#[$help])*
            pub $field: $type,
        )*}

        settings! {
            impl $name in $table {$(
                $field = $($function [$($part: $part_rule),*])? $($key: $rule)?;
            )*}
        }
    };
    (
        impl $name:ident in $table:literal {$(
            $field:ident =
                $($function:ident [$($part:literal: $part_rule:expr),*])? $($key:literal: $rule:expr)?;
        )*}
    ) => {
        impl $crate::config::declaration::Section for $name {
            const TABLE: $crate::config::declaration::Table = $crate::config::declaration::Table {
                name: $table,
                settings: &[$(
                    $($(
                        $crate::config::declaration::Declared { key: $part, rule: &$part_rule },
                    )*)?
                    $($crate::config::declaration::Declared { key: $key, rule: &$rule },)?
                )*],
            };

            fn read(
                reader: &mut $crate::config::reader::Reader<'_>,
            ) -> Result<Self, $crate::config::ConfigError> {
                use $crate::config::declaration::Setting;

                Ok(Self {$(
                    $field: {
                        $($function(
                            reader,
                            $(Setting { table: $table, key: $part, rule: $part_rule }),*
                        )?)?
                        $(Setting { table: $table, key: $key, rule: $rule }.read(reader)?)?
                    },
                )*})
            }
        }
    };
}

pub(super) use settings;
