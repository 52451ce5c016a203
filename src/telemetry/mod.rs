//! Telemetry over OTLP: one job is one trace, although a dozen processes make it. See
//! `docs/telemetry.md`.
//!
//! Work is instrumented with `tracing`: spans with the target `SPANS`, events with `SPANS` or
//! `METRICS`. The engine and the transports do so, too. OpenTelemetry's SDK collects them in
//! memory. At the process's end, [`flush`] sends them once, within a time limit. Unsent data stays
//! beside the snapshot for the job's next process. The service also sends them while it runs
//! ([`export_in_batches`]). If telemetry is off, nothing of the SDK exists.

#[cfg(feature = "telemetry")]
mod context;
#[cfg(feature = "telemetry")]
mod export;
#[cfg(not(feature = "telemetry"))]
mod inactive;
#[cfg(feature = "telemetry")]
pub mod job;
pub mod metrics;
#[cfg(feature = "telemetry")]
mod process_log;
#[cfg(feature = "telemetry")]
mod recorder;
#[cfg(feature = "telemetry")]
mod spool;
#[cfg(feature = "telemetry")]
mod stage;

use std::path::Path;

use ::replay::prices;
pub(crate) use states::metric;

use crate::config::Telemetry;

#[cfg(not(feature = "telemetry"))]
use inactive as recorder;
#[cfg(not(feature = "telemetry"))]
pub use inactive::*;
#[cfg(feature = "telemetry")]
pub use {
    export::{export_in_batches, flush},
    recorder::{end_service, layer, log_export},
    stage::{Stage, abandon, enter, propagated, root, take_over},
};

/// The file of the metadata directory with what the service could not send.
pub(crate) const SERVICE_SPOOL: &str = "fargate.otlp";
/// The common part of both targets.
pub(crate) const TARGETS: &str = "telemetry";

/// Starts recording if `[Telemetry]` or the environment's `OTEL_*` variables enable it. `prices` is
/// the file of prices; `None`: the built-in ones. Returns a message for each variable, and for that
/// file, that cannot be used. `service`: the metadata directory, if the process is its service: it
/// records many jobs, and also exports while it runs.
#[must_use]
pub fn start(
    settings: &Telemetry,
    prices: Option<&Path>,
    manager: &str,
    service: Option<&Path>,
) -> Vec<String> {
    let (settings, mut complaints) = settings.effective();
    if cfg!(feature = "telemetry") && settings.is_on() {
        let prices = prices::load(prices);
        complaints.extend(prices.as_ref().err().map(ToString::to_string));
        recorder::install(settings, manager, prices.ok(), service);
    }
    complaints
}

#[cfg(test)]
fn defaults() -> Telemetry {
    let least = "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'";
    crate::config::Config::parse(least, Path::new("fargate.toml")).unwrap().0.telemetry
}
