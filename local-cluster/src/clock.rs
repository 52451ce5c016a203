//! The time since the Unix epoch.

use std::time::{Duration, SystemTime};

/// Returns it in seconds, as AWS's JSON has it.
pub(crate) fn seconds() -> f64 {
    since_epoch().as_secs_f64()
}

/// Returns it in milliseconds.
pub(crate) fn unix_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
