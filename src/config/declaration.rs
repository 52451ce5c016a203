//! What a declaration in [`super::settings`] consists of, and the macro that expands it.

use super::{
    reader::{Reader, Value},
    rules::{Describe, Rule},
};

/// A table and its settings.
pub(super) struct Table {
    /// Its name; empty for the top level.
    pub(super) name: &'static str,
    /// Whether the file may have any number of them, each `[[Name]]`.
    pub(super) is_list: bool,
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
    /// The line of the file that begins it.
    pub(super) fn heading(&self) -> String {
        let name = self.name;
        if self.is_list { format!("[[{name}]]") } else { format!("[{name}]") }
    }

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
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> R::Value {
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
    fn read(reader: &mut Reader<'_>) -> Self;
}

/// Reads a table into a field of [`super::Config`].
pub(super) fn section<T: Section>(reader: &mut Reader<'_>) -> T {
    T::read(reader)
}

/// Reads a list of tables into a field of [`super::Config`].
pub(super) fn sections<T: Section>(reader: &mut Reader<'_>) -> Vec<T> {
    let mut sections = Vec::new();
    for (_, entry) in reader.entries(T::TABLE.name) {
        reader.entry = Some(entry);
        sections.push(T::read(reader));
        reader.entry = None;
    }
    sections
}

/// Declares the settings of a table, and the struct that they are read into. For a struct of
/// another module, begin with `impl`. The name of a list of tables is in brackets.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $name:ident in $table:tt {$(
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
        impl $name:ident in $table:tt {$(
            $field:ident =
                $($function:ident [$($part:literal: $part_rule:expr),*])? $($key:literal: $rule:expr)?;
        )*}
    ) => {
        impl $crate::config::declaration::Section for $name {
            const TABLE: $crate::config::declaration::Table = $crate::config::declaration::Table {
                name: settings!(@name $table),
                is_list: settings!(@is_list $table),
                settings: &[$(
                    $($(
                        $crate::config::declaration::Declared { key: $part, rule: &$part_rule },
                    )*)?
                    $($crate::config::declaration::Declared { key: $key, rule: &$rule },)?
                )*],
            };

            fn read(reader: &mut $crate::config::reader::Reader<'_>) -> Self {
                use $crate::config::declaration::Setting;

                const TABLE: &str = settings!(@name $table);
                Self {$(
                    $field: {
                        $($function(
                            reader,
                            $(Setting { table: TABLE, key: $part, rule: $part_rule }),*
                        ))?
                        $(Setting { table: TABLE, key: $key, rule: $rule }.read(reader))?
                    },
                )*}
            }
        }
    };
    (@name [$table:literal]) => { $table };
    (@name $table:literal) => { $table };
    (@is_list [$table:literal]) => { true };
    (@is_list $table:literal) => { false };
}

pub(super) use settings;
