//! How a script reaches a job's container and its output comes back.
//!
//! - [`ssh`]: a connection to the container's SSH server;
//! - [`delivery`]: the detached-script protocol, the same over every transport: a script runs in
//!   the container whether anybody is connected or not, its output is spooled there, and whoever
//!   connects next goes on at the next byte;
//! - [`Terminal`] and [`Visit`]: people in a container, beside the script.
//!
//! Knows the traits and data of the crate `states`, nothing of AWS.

pub mod delivery;
pub mod ecs_exec;
pub mod ssh;
mod terminal;

pub use terminal::{Command, Screen, Terminal, Visit};
