//! What a job's facts mean. `states` records what happened, in the words of ECS and the container.
//! This crate makes causes, evidence, sentences and remedies of that. The job log,
//! `fargate-replay`, telemetry and the log of `fargate reap` show them. It does no I/O.
//!
//! - `task_end` — the one table of ECS's reasons why tasks stop;
//! - `errors` — remedies for refused calls and failed connections;
//! - `stop_reason` — why a job's task must end;
//! - [`costs`] — what a job costs, and what of that it uses;
//! - [`settings`] — the settings that remedies name;
//! - `case` — what is wrong with a job, from its snapshot and what is known around it;
//! - [`timeline`] — a journal as a sequence of states; [`stage`] — which stages decide how a job
//!   ends;
//! - [`words`] — observations, times and sizes in words.

#[macro_use]
pub mod settings;

mod case;
mod cause;
pub mod costs;
mod errors;
pub mod stage;
mod stop_reason;
mod surroundings;
mod task_end;
pub mod timeline;
pub mod words;

pub use case::{Diagnosis, Evidence, diagnose};
pub use cause::Cause;
pub use errors::{connect_remedy, control_remedy, explain_connect, explain_control};
pub use stop_reason::{error_type, lost_run, remains, stop_note, stop_reason};
pub use surroundings::{Holder, Surroundings};
pub use task_end::{TaskEndWords, explain_task_end};

/// Every sentence of the crate's tables, for tests that nothing else depends on them.
pub fn phrases() -> impl Iterator<Item = &'static str> {
    task_end::phrases().chain(errors::phrases())
}
