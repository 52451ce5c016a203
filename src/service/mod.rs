//! What a runner manager's service shows of its jobs, over HTTP on loopback.
//!
//! - [`source`] — where the jobs come from: a trait, and the metadata directory;
//! - [`page`] — the page of all jobs; a job's own page is `replay`'s;
//! - [`http`] — the server: pages, metrics and health, read-only;
//! - [`status`] — `fargate status`, which needs no service.

pub mod http;
pub mod page;
pub mod source;
pub mod status;
