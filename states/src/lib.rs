//! One GitLab job as an explicit state machine: Provisioning → Pending → Running → Reachable ⇄
//! Executing → Stopping.
//!
//! - The machine ([`AnyJob::observe`], [`AnyJob::plan`]) decides. It does no I/O and reads no
//!   clock, so the same code runs live, in simulations on paused time, in property tests and in
//!   replays.
//! - The [`Engine`] acts, through the traits in [`world`]: it performs one [`Action`] and journals
//!   the [`Observation`]. It saves the [`Snapshot`] before anything that the world would remember.
//! - [`DirectoryStore`] keeps snapshots as RON files.
//!
//! This crate knows neither AWS nor SSH.

mod action;
mod engine;
pub mod foreign_text;
mod ids;
mod job;
mod journal;
mod machine;
mod observation;
mod pace;
pub mod private_file;
mod replay;
mod snapshot;
mod stop_reason;
mod store;
pub mod task_tags;
mod time;
pub mod trace;
mod warm;
pub mod world;

pub use action::{Action, Follow, Watch};
pub use engine::{
    Claiming, Clock, Concluded, Engine, EngineError, Goal, JobIo, Note, Outcome, Script, Work,
};
pub use ids::{BadId, ClientToken, InterfaceId, JobId, RunId, StartedBy, TaskArn};
pub use job::{
    About, AnyJob, ConnectTo, Ending, Executing, Finished, Header, Job, Limits, Link, OtherTasks,
    Pending, Polling, Probing, Provisioning, Reachable, RunOutcome, Running, Search, Sent,
    StateName, StopPhase, Stopping,
};
pub use journal::{Entry, Journal, StateDigest};
pub use machine::{State, Step, run_id};
pub use observation::Observation;
pub use pace::Pace;
pub use replay::{Difference, Replay, Replayed, Verdict};
pub use snapshot::{BadSnapshot, MAX_BYTES, Snapshot, VERSION};
pub use stop_reason::{ContainerEnd, Fault, Obstacle, Retirement, RunLoss, StopReason, TaskEnd};
pub use store::{
    DirectoryLease, DirectoryStore, Exposed, Exposure, FileStamp, InMemoryLease, InMemoryStore,
    IndexLine, Notes, OutputMark, Pruned, Retention, StoreError,
};
pub use time::Timestamp;
pub use warm::{Claim, Fit, PoolRole, WarmOrigin};
pub use world::*;
