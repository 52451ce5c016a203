//! The manager's service: one process that hosts the stages of all jobs of a metadata directory.
//!
//! Without it, each stage does its work itself. With it, the stage's process is a client: it passes
//! the stage on, and writes the output. Everything else is the same: the job's snapshot, its lease,
//! the machine. So a stage goes on by itself if the service dies, and a service can be started,
//! stopped and replaced at any time.
//!
//! - [`protocol`] — what both say to each other, without I/O;
//! - `server` — `fargate serve`; `listener` — its socket; `admission` — how much it takes on;
//!   `hosted` — one stage in it; `upkeep` — what it does besides;
//! - `reload` — its configuration, read again at SIGHUP; `supervisor` — what it tells systemd;
//! - `drain` — how it ends for good;
//! - `client` — a stage's process.
//!
//! What it shows of the jobs, over HTTP on loopback:
//!
//! - [`source`] — where the jobs come from: a trait, and the metadata directory;
//! - [`page`] — the page of all jobs; a job's own page is `replay`'s;
//! - [`http`] — the server: pages, metrics and health, read-only;
//! - [`status`] — `fargate status`, which needs no service.

mod admission;
mod client;
mod connection;
mod drain;
mod hosted;
pub mod http;
mod listener;
pub mod page;
pub mod protocol;
mod reload;
mod server;
pub mod source;
pub mod status;
mod supervisor;
mod upkeep;

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub use client::{Served, Undone, serve_stage};
pub use drain::{DrainError, drain};
pub use listener::{ListenError, Passed};
pub use protocol::{Hello, RequestedStage};
pub use reload::Configured;
pub use server::{ServeError, serve};

/// The socket's name in the metadata directory.
const SOCKET: &str = "fargate.sock";

/// Whether this user's processes talk to those of user `uid`: to their own, and to root's.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Returns the path of a metadata directory's socket.
fn socket_path(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}

/// Returns what both sides must have in common: the driver, and everything that its configuration
/// follows from. That is the file's text, and the settings that the AWS SDK and telemetry take from
/// the environment. A service with other credentials must not do a stage's work.
#[must_use]
pub fn hello(text: &str, environment: impl Iterator<Item = (String, String)>) -> Hello {
    let counts = |name: &str| {
        ["AWS_", "OTEL_"].iter().any(|prefix| name.starts_with(prefix))
            || ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"]
                .iter()
                .any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let mut settings: Vec<(String, String)> =
        environment.filter(|(name, _)| counts(name)).collect();
    settings.sort();
    let mut digest = Sha256::new();
    let parts = settings.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for part in [text].into_iter().chain(parts) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Hello {
        protocol: protocol::VERSION,
        driver: env!("CARGO_PKG_VERSION").to_owned(),
        configuration: hex::encode(digest.finalize()),
    }
}

/// Returns this process's environment, as far as it is text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_are_not_trusted() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_trusted(0) && is_trusted(own) && !is_trusted(own + 1));
    }

    #[test]
    fn sides_agree_if_nothing_differs_that_counts() {
        let of = |text: &str, environment: &[(&str, &str)]| {
            let pairs = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            hello(text, pairs.collect::<Vec<_>>().into_iter())
        };
        let here = of("a", &[("AWS_REGION", "x"), ("AWS_PROFILE", "y"), ("TMPDIR", "/tmp")]);
        assert_eq!(here, of("a", &[("TMPDIR", "/x"), ("AWS_PROFILE", "y"), ("AWS_REGION", "x")]));
        for other in [
            of("b", &[("AWS_REGION", "x"), ("AWS_PROFILE", "y")]),
            of("a", &[("AWS_REGION", "x"), ("AWS_PROFILE", "z")]),
            of("a", &[("AWS_REGION", "x")]),
            of("a", &[("AWS_REGION", "x"), ("AWS_PROFILE", "y"), ("OTEL_SERVICE_NAME", "n")]),
            of("a", &[("AWS_REGION", "x"), ("AWS_PROFILE", "y"), ("https_proxy", "p")]),
        ] {
            assert_ne!(here, other);
        }
    }
}
