//! How a script reaches a job's container and its output comes back.
//!
//! - [`ssh`]: a connection to the container's SSH server;
//! - [`delivery`]: the detached-script protocol, the same over every transport: a script runs in
//!   the container whether anybody is connected or not, its output is spooled there, and whoever
//!   connects next goes on at the next byte;
//! - [`ecs_exec`]: sessions of ECS Exec;
//! - [`Connector`] and [`Declaration`]: what a transport is to everybody else; [`Transports`]: those
//!   that a process has;
//! - [`Interactive`]: people in a container, beside the script.
//!
//! Knows the traits and data of the crate `states`, nothing of AWS.

mod connector;
pub mod delivery;
pub mod ecs_exec;
mod interactive;
pub mod ssh;

pub use connector::{Connector, Declaration, Transports};
pub use interactive::{Command, Interactive, Screen, Terminal};
