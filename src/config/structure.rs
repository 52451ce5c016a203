//! Checks of the structure of `fargate.toml`: tables, keys that are there twice, unknown keys.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Warning,
    declaration::Table,
    reader::{File, Value, lookup},
    settings::TABLES,
};

/// Checks that tables are tables and that no key repeats. Names ignore case, so TOML's own rule is
/// not enough.
pub(super) fn check_structure(file: &File<'_>, root: &DeTable<'_>) -> Result<(), ConfigError> {
    check_unique(file, "", root)?;
    for table in named_tables() {
        let Some(value) = lookup(root, table.name) else { continue };
        let heading = table.heading();
        let Some(all) = tables_of(table, value) else {
            let name = table.name;
            return Err(file.wrong(
                &value.span(),
                format!("{name} is not a table here, expected {heading} on a line of its own"),
            ));
        };
        for entries in all {
            check_unique(file, &format!("{heading} "), entries)?;
        }
    }
    Ok(())
}

/// Returns the tables that a value of the top level consists of: one, or those of a list. `None` if
/// it is anything else.
fn tables_of<'a>(table: &Table, value: Value<'a>) -> Option<Vec<&'a DeTable<'a>>> {
    match (table.is_list, value.get_ref()) {
        (false, DeValue::Table(entries)) => Some(vec![entries]),
        (true, DeValue::Array(all)) => all.iter().map(|one| one.get_ref().as_table()).collect(),
        _ => None,
    }
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
    for (name, value) in root.iter() {
        let known = named_tables().find(|table| name.get_ref().eq_ignore_ascii_case(table.name));
        let Some(table) = known else {
            let known = TABLES[0].keys().chain(named_tables().map(|table| table.name));
            warn_if_unknown(file, name, "", known, &mut warnings);
            continue;
        };
        // What is not a table was refused before.
        for (key, value) in tables_of(table, value).into_iter().flatten().flat_map(DeTable::iter) {
            let place = format!("{} ", table.heading());
            warn_if_unknown(file, key, &place, table.keys(), &mut warnings);
            warn_of_unknown_entry_keys(file, table, key.get_ref(), value, &mut warnings);
        }
    }
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

/// Warns of unknown keys in the tables that a setting's value consists of.
fn warn_of_unknown_entry_keys(
    file: &File<'_>,
    table: &Table,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    warnings: &mut Vec<Warning>,
) {
    let Some(setting) = table.setting(key) else { return };
    let (known, DeValue::Array(entries)) = (setting.rule.entry_keys(), value.get_ref()) else {
        return;
    };
    for entry in entries.iter().filter_map(|entry| entry.get_ref().as_table()) {
        for (key, _) in entry.iter() {
            let place = format!("{} ", setting.key);
            warn_if_unknown(file, key, &place, known.iter().copied(), warnings);
        }
    }
}

/// Lists the tables other than the top level.
fn named_tables() -> impl Iterator<Item = &'static Table> + Clone {
    TABLES.iter().filter(|table| !table.name.is_empty())
}

/// Suggests present keys that may be meant for the missing ones.
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

/// Finds the table in which a top-level key belongs.
fn table_of(key: &str) -> Option<String> {
    named_tables().find(|table| table.setting(key).is_some()).map(Table::heading)
}

/// Finds the key or table that `name` probably means.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .map(|(_, candidate)| candidate)
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
        Some(belongs) if table.is_empty() => format!(" It belongs under {belongs}."),
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
mod tests {
    use super::*;

    #[test]
    fn the_intended_key_is_suggested() {
        let keys = || TABLES[1].keys();
        assert_eq!(nearest("SecurtyGroup", keys()), Some("SecurityGroup"));
        assert_eq!(nearest("usePublicIp", keys()), Some("UsePublicIP"));
        assert_eq!(nearest("Colour", keys()), None);
    }
}
