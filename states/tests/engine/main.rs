//! The engine against an in-memory world on paused time: crashes at every point, lost answers, a
//! thousand jobs.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod cancels;
mod changed_control;
mod claims;
mod crashes;
mod describing;
mod full_disk;
mod killed;
mod lost_answers;
mod pacing;
mod piggyback;
mod silence;
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod world;
mod write_ahead;
