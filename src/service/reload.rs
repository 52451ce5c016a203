//! What the service works with, and how another `fargate.toml` takes its place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protocol::Hello;
use crate::{config::Config, host::Host};

/// A configuration, and the greeting that follows from it.
pub struct Configured {
    /// The configuration.
    pub config: Config,
    /// The greeting.
    pub hello: Hello,
}

/// What new stages get. Stages that run keep what they have got.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) host: Arc<Host>,
    pub(super) hello: Hello,
}

/// [`Current`], which a reload replaces.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Current>>);

impl Shared {
    pub(super) fn new(host: Host, hello: Hello) -> Self {
        Self(Arc::new(Mutex::new(Current { host: Arc::new(host), hello })))
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // It is replaced at once, or not at all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Current {
        self.lock().clone()
    }

    pub(super) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.lock().host)
    }

    /// Takes another configuration. After an error, the service works with the one that it had.
    pub(super) fn replace(&self, with: Configured) -> Result<(), String> {
        let old = self.host();
        refuse_fixed(&old.config, &with.config)?;
        let host = Host::new(with.config).map_err(|e| e.to_string())?.in_place_of(&old);
        *self.lock() = Current { host: Arc::new(host), hello: with.hello };
        Ok(())
    }
}

/// Refuses other values of the settings that the process has taken up at its beginning: the
/// directory with its lock and its socket, the log, and the exporter of telemetry.
fn refuse_fixed(old: &Config, new: &Config) -> Result<(), String> {
    let settings = [
        ("Directory", old.metadata.directory != new.metadata.directory),
        ("Manager", old.metadata.manager != new.metadata.manager),
        ("LogLevel", old.log_level != new.log_level),
        ("LogFile", old.log_file != new.log_file),
        ("LogFormat", old.log_format != new.log_format),
        ("[Telemetry]", old.telemetry != new.telemetry),
        ("Prices", old.fargate.prices != new.fargate.prices),
    ];
    let changed: Vec<&str> =
        settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} cannot change while the service runs. Restart it: stages go on by themselves meanwhile",
        changed.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_setting_that_needs_a_restart_is_named() {
        let parse = |log: &str, directory: &str, definition: &str, more: &str| {
            let text = format!(
                "{log}\n[Fargate]\nCluster = \"c\"\nSubnet = \"s\"\nTaskDefinition = \"{definition}\"\n\
                 [TaskMetadata]\nDirectory = \"{directory}\"\n[SSH]\n{more}"
            );
            Config::parse(&text, Path::new("fargate.toml")).unwrap().0
        };
        let old = parse("", "/a", "d", "");
        assert_eq!(refuse_fixed(&old, &parse("", "/a", "other", "Port = 2222")), Ok(()));
        let refused =
            refuse_fixed(&old, &parse("LogLevel = \"debug\"", "/b", "d", "")).unwrap_err();
        assert!(refused.starts_with("Directory, LogLevel cannot change"), "{refused}");
        let telemetry = parse("", "/a", "d", "[Telemetry]\nServiceName = \"x\"");
        assert!(refuse_fixed(&old, &telemetry).unwrap_err().starts_with("[Telemetry] cannot"));
    }
}
