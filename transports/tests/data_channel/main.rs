//! The terminal of an ECS Exec session against a service that does whatever a test says, over real
//! sockets.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod beginning;
mod ends;
mod load;
mod service;
mod slots;
mod stream;
mod waiting;
