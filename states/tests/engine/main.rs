//! The engine against an in-memory world on paused time: crashes at every point, lost answers, a thousand jobs.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod cloud;
mod containers;
mod crashes;
mod describing;
mod fuse;
mod lost_answers;
mod manager;
mod shelf;
