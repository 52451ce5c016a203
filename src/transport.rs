//! The registered transports, and how to create each. `prepare` chooses one by `fargate.toml`; the
//! job's snapshot names it from then on.

use transports::{
    Connector, Declaration, Transports,
    ecs_exec::{self, ExecTransport},
    ssh::{self, SshSettings, SshTransport},
};

use crate::control::{EcsControl, ExecCalls};

#[cfg(feature = "pipes")]
#[path = "../tests/pipes/mod.rs"]
mod pipes;

/// The part of the driver's configuration that transports need.
pub trait Configuration {
    /// Returns the settings of `[SSH]`.
    fn ssh(&self) -> SshSettings;
}

/// A transport that can be chosen.
pub(crate) struct Registration {
    /// Its declaration.
    pub(crate) declaration: &'static Declaration,
    /// Creates it. It connects on demand.
    pub(crate) connector: fn(&dyn Configuration, &EcsControl) -> Box<dyn Connector>,
}

/// All transports; the first one is the default.
static REGISTERED: &[Registration] = &[
    Registration {
        declaration: &ssh::DECLARATION,
        connector: |config, _| Box::new(SshTransport::new(config.ssh())),
    },
    Registration {
        declaration: &ecs_exec::DECLARATION,
        connector: |_, control| Box::new(ExecTransport::new(ExecCalls::new(control.clone()))),
    },
    #[cfg(feature = "pipes")]
    pipes::REGISTRATION,
];

/// Returns the default transport.
#[must_use]
pub fn default() -> &'static Declaration {
    REGISTERED[0].declaration
}

/// Returns the first transport whose table exists, or else the default.
pub(crate) fn implied(has_table: impl Fn(&str) -> bool) -> &'static Declaration {
    let has_table = |known: &&Declaration| known.table.is_some_and(&has_table);
    REGISTERED
        .iter()
        .map(|registered| registered.declaration)
        .find(|known| has_table(known))
        .unwrap_or_else(default)
}

/// Returns the transport of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Declaration> {
    REGISTERED.iter().map(|registered| registered.declaration).find(|known| known.name() == name)
}

/// Lists the transports for help and messages.
pub fn offered() -> impl Iterator<Item = &'static Declaration> {
    REGISTERED.iter().map(|registered| registered.declaration).filter(|known| known.is_offered)
}

/// Creates every transport. Their calls to AWS use `control`'s credentials and region.
#[must_use]
pub fn all(config: &dyn Configuration, control: &EcsControl) -> Transports {
    let made = |registered: &Registration| {
        (registered.declaration, (registered.connector)(config, control))
    };
    Transports::new(REGISTERED.iter().map(made).collect())
}
