//! Tests the `fargate` binary end to end, as gitlab-runner calls it. They run on the local cluster,
//! which needs nothing installed, and on moto with OpenSSH's sshd behind each task. The latter are
//! ignored here; `scripts/test` runs them.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

mod at_once;
mod bad_input;
mod cluster;
#[cfg(feature = "telemetry")]
mod collector;
mod connect_proxy;
mod connections;
#[cfg(feature = "telemetry")]
mod conventions;
mod costs;
mod crash_api;
mod crash_job;
mod crash_points;
mod definitions;
mod disk;
mod doctor;
mod ending;
mod exec_agent;
mod exec_cuts;
mod fargate_times;
mod faults;
mod hostile;
#[path = "../../transports/tests/hostile/server.rs"]
mod hostile_server;
mod hostile_text;
mod http;
mod identity;
mod images;
mod init;
mod ipv6;
mod jobs;
mod moto;
mod openssh;
mod pages;
mod parametrised;
mod processes;
mod proxy;
mod reap;
mod records;
mod refusals;
mod relay;
mod replay_act;
mod replay_files;
mod replay_stuck;
mod requests;
mod root_filesystems;
mod runner;
mod serve;
mod service;
mod service_crashes;
mod service_frames;
mod service_load;
mod service_operations;
mod service_soak;
#[cfg(feature = "telemetry")]
mod service_telemetry;
mod service_upgrade;
mod session;
mod stuck;
#[path = "../../replay/tests/stuck/fixtures.rs"]
mod stuck_fixtures;
#[cfg(feature = "telemetry")]
mod telemetry;
#[cfg(feature = "telemetry")]
mod telemetry_by_hand;
#[cfg(feature = "telemetry")]
mod telemetry_grpc;
#[cfg(feature = "telemetry")]
mod telemetry_settings;
mod template;
mod transports;
mod try_job;
mod unreachable;
mod warm;
mod warm_crashes;
mod warm_pool;

use cluster::eventually;
