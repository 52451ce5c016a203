//! Checks of the structure of `fargate.toml`: tables, keys that are there twice, unknown keys.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Warning,
    keys::{CAPACITY_PROVIDER, TABLES, nearest},
    reader::{File, lookup},
};

/// Checks that tables are tables, and that no key is there twice. TOML's own rule is not enough:
/// names are matched without regard to case.
pub(super) fn check_structure(file: &File<'_>, root: &DeTable<'_>) -> Result<(), ConfigError> {
    check_unique(file, "", root)?;
    for (table, _) in TABLES.iter().filter(|(table, _)| !table.is_empty()) {
        match lookup(root, table).map(|value| (value.get_ref(), value.span())) {
            Some((DeValue::Table(entries), _)) => {
                check_unique(file, &format!("[{table}] "), entries)?
            }
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

/// Checks that no key of a table is there twice.
fn check_unique(file: &File<'_>, table: &str, entries: &DeTable<'_>) -> Result<(), ConfigError> {
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

/// Warns of unknown keys.
pub(super) fn unknown_keys(file: &File<'_>, root: &DeTable<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let tables = || TABLES.iter().map(|(table, _)| *table).filter(|table| !table.is_empty());
    for (name, value) in root.iter() {
        let known = TABLES
            .iter()
            .find(|(table, _)| !table.is_empty() && name.get_ref().eq_ignore_ascii_case(table));
        match (known, value.get_ref()) {
            (Some((table, keys)), DeValue::Table(entries)) => {
                for (key, value) in entries.iter() {
                    warn_if_unknown(
                        file,
                        key,
                        &format!("[{table}] "),
                        keys.iter().copied(),
                        &mut warnings,
                    );
                    if let (true, DeValue::Array(providers)) =
                        (key.get_ref().eq_ignore_ascii_case("CapacityProviders"), value.get_ref())
                    {
                        for provider in
                            providers.iter().filter_map(|provider| provider.get_ref().as_table())
                        {
                            let known = CAPACITY_PROVIDER.iter().copied();
                            provider.iter().for_each(|(key, _)| {
                                warn_if_unknown(
                                    file,
                                    key,
                                    "CapacityProviders ",
                                    known.clone(),
                                    &mut warnings,
                                )
                            });
                        }
                    }
                }
            }
            // Refused before, as it is not a table.
            (Some(_), _) => {}
            (None, _) => warn_if_unknown(
                file,
                name,
                "",
                TABLES[0].1.iter().copied().chain(tables()),
                &mut warnings,
            ),
        }
    }
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

/// Returns hints for a file without required keys, from what it has instead.
pub(super) fn hints(root: &DeTable<'_>, unknown: &[Warning]) -> Vec<String> {
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

/// Returns the table that a key at the top level belongs to.
fn table_of(key: &str) -> Option<&'static str> {
    TABLES
        .iter()
        .find(|(table, keys)| !table.is_empty() && keys.iter().any(|k| k.eq_ignore_ascii_case(key)))
        .map(|(table, _)| *table)
}

/// Adds a warning if the key is unknown.
fn warn_if_unknown<'a>(
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
