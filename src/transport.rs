//! The transports that a job may use, and how each is made. `prepare` chooses one as `fargate.toml`
//! says; the job's snapshot names it from then on.

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
    /// What it declares.
    pub(crate) declaration: &'static Declaration,
    /// Makes it. Nothing is connected yet.
    pub(crate) connector: fn(&dyn Configuration, &EcsControl) -> Box<dyn Connector>,
}

/// All of them; the first one is the default.
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

/// The transport that is used where none is named.
#[must_use]
pub fn default() -> &'static Declaration {
    REGISTERED[0].declaration
}

/// The transport that is used where none is named, but a table is there: the first one's.
pub(crate) fn implied(has_table: impl Fn(&str) -> bool) -> &'static Declaration {
    let has_table = |known: &&Declaration| known.table.is_some_and(&has_table);
    REGISTERED
        .iter()
        .map(|registered| registered.declaration)
        .find(|known| has_table(known))
        .unwrap_or_else(default)
}

/// The transport of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Declaration> {
    REGISTERED.iter().map(|registered| registered.declaration).find(|known| known.name() == name)
}

/// The transports that people may choose.
pub fn offered() -> impl Iterator<Item = &'static Declaration> {
    REGISTERED.iter().map(|registered| registered.declaration).filter(|known| known.is_offered)
}

/// Every transport, with this configuration; calls to AWS are made as `control` does.
#[must_use]
pub fn all(config: &dyn Configuration, control: &EcsControl) -> Transports {
    let made = |registered: &Registration| {
        (registered.declaration, (registered.connector)(config, control))
    };
    Transports::new(REGISTERED.iter().map(made).collect())
}
