//! GitLab Runner custom-executor driver that runs every CI job in its own AWS ECS Fargate task.
//!
//! The binaries `fargate` and `fargate-replay` are thin shells around this library. What decides is
//! in the crate `states`, what delivers scripts in `transports`, the embedded cluster in
//! `local-cluster`; here is what wires them together:
//!
//! - [`cli`] — the command line;
//! - [`mod@config`] — `fargate.toml`;
//! - [`runner`] — gitlab-runner's contract: environment, exit codes, job identity;
//! - [`stages`] — config, prepare, run, cleanup, a file each;
//! - [`tags`] — tags as AWS admits them;
//! - [`control`] — task control on ECS, and ECS Exec's calls;
//! - [`transport`] — SSH or ECS Exec, by job;
//! - [`try_job`] and [`local`] — `fargate try` and `fargate local-cluster`;
//! - [`telemetry`] — traces, metrics and logs over OTLP;
//! - [`reap`] — `fargate reap`;
//! - [`replay`] — `fargate-replay`: why is a job stuck, and what helps;
//! - [`logging`] and [`console`] — the driver's own log; lines for people;
//! - [`manual`] — shell completions and man pages.

pub mod cli;
pub mod config;
pub mod console;
pub mod control;
mod job_end;
pub mod local;
pub mod logging;
pub mod manual;
mod ownership;
pub mod reap;
pub mod replay;
pub mod runner;
pub mod stages;
pub mod tags;
#[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "what only the export needs"))]
pub mod telemetry;
pub mod transport;
pub mod try_job;
