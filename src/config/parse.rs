//! Parses a text into a checked configuration. Errors have their location.

use std::path::Path;

use states::HostProof;
use toml::de::DeTable;
use transports::Declaration;

use super::{
    Config, ConfigError, Warning,
    declaration::{Section, Setting},
    kinds::Text,
    launch_type,
    reader::{File, Reader, lookup},
    rules::Optional,
    structure::{check_structure, hints, unknown_keys},
    warm::check_pools,
};
use crate::transport;

pub(super) fn parse(text: &str, path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let file = File { text, path };
    let root = DeTable::parse(text).map_err(|e| {
        let (line, column) = file.location(e.span().map_or(0, |span| span.start));
        ConfigError::Wrong {
            path: path.to_owned(),
            line,
            column,
            message: format!("this is not TOML: {}", e.message()),
        }
    })?;
    check_structure(&file, root.get_ref())?;
    let mut reader = Reader::new(&file, root.get_ref());
    let config = Config::read(&mut reader);
    check_pools(&mut reader, &config);
    let unknown = unknown_keys(&file, root.get_ref());
    if !reader.missing.is_empty() {
        reader.mistakes.push(ConfigError::Missing {
            path: path.to_owned(),
            keys: std::mem::take(&mut reader.missing),
            hints: hints(root.get_ref(), &unknown),
        });
    }
    ConfigError::of(std::mem::take(&mut reader.mistakes))?;
    let mut warnings = unknown;
    warnings.extend(launch_type::check(&reader, &config)?);
    warnings.extend(unverified(&reader, &config));
    warnings.sort_by_key(|warning| warning.line);
    Ok((config, warnings))
}

/// Reads `Transport`. Without it, a transport's table implies the transport: `[ECSExec]` and no
/// `[SSH]`.
pub(super) fn transport(
    reader: &mut Reader<'_>,
    setting: Setting<Optional<Text>>,
) -> &'static Declaration {
    let (name, value) = (setting.read(reader), setting.find(reader));
    let implied = transport::implied(|table| lookup(reader.root, table).is_some());
    let (Some(name), Some(value)) = (name, value) else { return implied };
    transport::named(&name).unwrap_or_else(|| {
        let offered: Vec<String> =
            transport::offered().map(|known| format!("{:?}", known.name())).collect();
        reader.mistakes.push(reader.file.wrong(
            &value.span(),
            format!("{} is {name:?}, expected {}", setting.key, offered.join(" or ")),
        ));
        implied
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
mod tests;
