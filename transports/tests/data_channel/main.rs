//! Tests the terminal of an ECS Exec session against a service that tests control, over real
//! sockets.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod beginning;
mod ends;
mod load;
mod service;
mod slots;
mod stream;
mod waiting;
