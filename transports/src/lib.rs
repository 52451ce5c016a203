//! Transports: they bring a script into a job's container, and its output back.
//!
//! - [`ssh`]: a connection to the container's SSH server;
//! - [`delivery`]: the detached-script protocol, the same over every transport. A script runs in
//!   the container without a connection, and its output is spooled there. The next connection
//!   continues at the next byte;
//! - [`ecs_exec`]: sessions of ECS Exec;
//! - [`Connector`] and [`Declaration`]: the interface of a transport; [`Transports`]: those of a
//!   process;
//! - [`Interactive`]: terminals for people, beside the script.
//!
//! Uses the traits and data of the crate `states`, and no AWS SDK.

mod connector;
pub mod delivery;
pub mod ecs_exec;
mod interactive;
pub mod ssh;

pub use connector::{Connector, Declaration, Transports};
pub use interactive::{Command, Interactive, Screen, Terminal};
