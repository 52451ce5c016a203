//! The owner of tasks: the name of this runner manager.

use crate::{config::Config, tags};

/// Returns this runner manager's name: the configured one, or the host's.
pub(crate) fn manager(config: &Config) -> String {
    match &config.metadata.manager {
        Some(name) => tags::value(name),
        None => host(),
    }
}

/// Returns the host's name.
pub(crate) fn host() -> String {
    tags::value(&rustix::system::uname().nodename().to_string_lossy())
}
