//! Parses a text into a checked configuration. Errors have their location.

use std::path::Path;

use states::HostProof;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use transports::Declaration;

use super::{
    Config, ConfigError, Warning,
    declaration::{Section, Setting},
    kinds::Text,
    reader::{File, Reader, lookup},
    rules::Optional,
    structure::{check_structure, hints, unknown_keys},
};
use crate::transport;

pub(super) fn parse(text: &str, path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let file = File { text, path };
    read(&file, &document(&file)?)
}

/// Lists the mistakes of a text. The value of each is taken out, and the rest is read again.
pub(super) fn mistakes(text: &str, path: &Path) -> Vec<ConfigError> {
    let file = File { text, path };
    let mut root = match document(&file) {
        Ok(root) => root,
        Err(error) => return vec![error],
    };
    let (mut mistakes, mut taken_out) = (Vec::new(), Vec::<String>::new());
    loop {
        match read(&file, &root) {
            Ok(_) => return mistakes,
            Err(ConfigError::Wrong { path, line, column, message }) => {
                let place = file.offset(line, column);
                mistakes.push(ConfigError::Wrong { path, line, column, message });
                match take_out(&mut root, place) {
                    Some(key) => taken_out.push(key),
                    None => return mistakes,
                }
            }
            Err(ConfigError::Missing { path, mut keys, hints }) => {
                // Not those that were there, with a mistake.
                keys.retain(|missing| !taken_out.iter().any(|key| names(missing, key)));
                if !keys.is_empty() {
                    mistakes.push(ConfigError::Missing { path, keys, hints });
                }
                return mistakes;
            }
            Err(other) => {
                mistakes.push(other);
                return mistakes;
            }
        }
    }
}

/// Whether a missing setting, such as `[Fargate] Subnet (or Subnets)`, is the one with this key.
fn names(missing: &str, key: &str) -> bool {
    let mut words = missing.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case(key))
}

/// Removes the innermost entry at a byte of the text, and returns its key.
fn take_out(table: &mut DeTable<'_>, place: usize) -> Option<String> {
    for (_, value) in table.iter_mut() {
        if let DeValue::Table(nested) = value.get_mut()
            && let Some(key) = take_out(nested, place)
        {
            return Some(key);
        }
    }
    let is_there = |(key, value): &(&Spanned<_>, &Spanned<_>)| {
        key.span().contains(&place) || value.span().contains(&place)
    };
    let key = table.iter().find(is_there)?.0.clone();
    table.remove(&key);
    Some(key.get_ref().to_string())
}

fn document<'a>(file: &File<'a>) -> Result<DeTable<'a>, ConfigError> {
    DeTable::parse(file.text).map(Spanned::into_inner).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        file.wrong(&(at..at), format!("this is not TOML: {}", e.message()))
    })
}

fn read(file: &File<'_>, root: &DeTable<'_>) -> Result<(Config, Vec<Warning>), ConfigError> {
    check_structure(file, root)?;
    let mut reader = Reader { file, root, missing: Vec::new() };
    let config = Config::read(&mut reader)?;
    let unknown = unknown_keys(file, root);
    if !reader.missing.is_empty() {
        return Err(ConfigError::Missing {
            path: file.path.to_owned(),
            keys: reader.missing,
            hints: hints(root, &unknown),
        });
    }
    let mut warnings = unknown;
    warnings.extend(unverified(&reader, &config));
    warnings.sort_by_key(|warning| warning.line);
    Ok((config, warnings))
}

/// Reads `Transport`. Without it, a transport's table implies the transport: `[ECSExec]` and no
/// `[SSH]`.
pub(super) fn transport(
    reader: &mut Reader<'_>,
    setting: Setting<Optional<Text>>,
) -> Result<&'static Declaration, ConfigError> {
    let implied = || transport::implied(|table| lookup(reader.root, table).is_some());
    let (Some(name), Some(value)) = (setting.read(reader)?, setting.find(reader)) else {
        return Ok(implied());
    };
    transport::named(&name).ok_or_else(|| {
        let offered: Vec<String> =
            transport::offered().map(|known| format!("{:?}", known.name())).collect();
        reader.file.wrong(
            &value.span(),
            format!("{} is {name:?}, expected {}", setting.key, offered.join(" or ")),
        )
    })
}

/// Warns of connections over the internet, where another server could pose as the container at
/// first contact.
fn unverified(reader: &Reader<'_>, config: &Config) -> Option<Warning> {
    let at_risk = config.transport.needs_login
        && config.fargate.use_public_ip
        && config.ssh.verify_host != HostProof::Required;
    let value = reader.find("Fargate", "UsePublicIP").filter(|_| at_risk)?;
    let (line, _) = reader.file.location(value.span().start);
    let message = "UsePublicIP is true, and nothing makes containers prove their host keys: a server in between can take a container's place at first contact, and with it scripts and secrets. Set [SSH] VerifyHost = \"required\" as soon as the image has this version's deploy/ssh-entrypoint.sh.";
    Some(Warning { line, message: message.to_owned() })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
