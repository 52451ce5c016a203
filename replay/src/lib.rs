//! The commands of `fargate-replay` that work on files alone, without AWS and without the driver.
//!
//! Each command has a file of its own: [`list`], [`show`], [`stats`], [`step`], [`export`],
//! [`prune`]. Commands that act on a job's task are in the driver. What the commands share:
//!
//! - [`location`] — the metadata directory, and the snapshot that `JOB|FILE` means;
//! - [`holder`] — the process that works on a job;
//! - [`summary`] — a job in one line of `list` and of the archive's index;
//! - [`archive`] — all finished jobs, read by that index;
//! - [`overview`] — all jobs at one time, for the service's page, its metrics and `fargate status`;
//! - [`baseline`] — how long finished jobs stayed in each state;
//! - [`prices`] — the file of prices, for costs;
//! - [`what_if`] — observations as people type them;
//! - [`page`] — pages in HTML;
//! - [`screen`] — colour, width and pipes.
//!
//! What is wrong with a job, and what helps, is in the crate `diagnosis`.

pub mod archive;
pub mod baseline;
pub mod export;
pub mod holder;
pub mod list;
pub mod location;
pub mod overview;
pub mod page;
pub mod pools;
pub mod prices;
pub mod prune;
pub mod screen;
pub mod show;
pub mod stats;
pub mod step;
pub mod summary;
pub mod what_if;

mod failure;

pub use failure::Failure;
pub use location::{
    Driver, FoundSnapshot, Location, LocationArgs, LocationError, Locator, Settings,
};
pub use screen::{ColourArg, Screen};
