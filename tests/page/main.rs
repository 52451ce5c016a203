//! The page of all jobs, its server, its metrics, and `fargate status`.

#![allow(unreachable_pub, reason = "the modules of one test program")]
#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

#[path = "../e2e/pages/browser.rs"]
mod browser;
mod client;
mod directory;
mod http;
mod looks;
mod metrics;
mod rendering;
mod status;
