//! GitLab Runner custom-executor driver that runs every CI job in its own AWS ECS Fargate task.
//!
//! The binaries `fargate` and `fargate-replay` are thin shells around this library. It wires crates
//! together: `states` decides, `transports` delivers scripts, `diagnosis` explains, `replay` reads
//! saved jobs, and `local-cluster` is the embedded cluster.
//!
//! - [`cli`] — the command line;
//! - [`mod@config`] — `fargate.toml`;
//! - [`runner`] — gitlab-runner's contract: environment, exit codes, job identity;
//! - [`service`] — `fargate serve`: one process that hosts stages, its clients, and all jobs of a
//!   manager as a page, as metrics, and for `fargate status`;
//! - [`stages`] — config, prepare, run, cleanup, a file each; [`host`] — what those of a process share;
//! - [`launch`] — what a job launches, and the pool whose tasks it can claim;
//! - [`tags`] — tags as AWS admits them;
//! - [`control`] — task control on ECS, and ECS Exec's calls;
//! - [`mod@grant`] — what jobs ask of their tasks, and what is granted of that;
//! - [`definition`] — derived task definitions;
//! - [`transport`] — SSH or ECS Exec, by job;
//! - [`doctor`] — `fargate doctor`: what a first job needs;
//! - [`mod@init`] — `fargate init`: a first `fargate.toml`;
//! - [`try_job`] and [`local`] — `fargate try` and `fargate local-cluster`;
//! - [`telemetry`] — traces, metrics and logs over OTLP;
//! - [`schedule`] — weekly schedules of pools;
//! - [`warm`] — tasks that are ready before their jobs exist;
//! - [`reap`] — `fargate reap`;
//! - [`replay`] — `fargate-replay`: its command line, and its commands that act on a job;
//! - [`logging`] and [`console`] — the driver's own log; lines for people;
//! - [`manual`] — shell completions and man pages.

pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod definition;
pub mod doctor;
pub mod grant;
pub mod host;
pub mod init;
mod job_end;
pub mod launch;
pub mod local;
pub mod logging;
pub mod manual;
mod ownership;
pub mod reap;
pub mod replay;
pub mod runner;
pub mod schedule;
pub mod service;
pub mod stages;
pub mod tags;
pub mod telemetry;
pub mod transport;
pub mod try_job;
pub mod warm;
