//! Warm tasks: tasks that are ready before their jobs exist.
//!
//! A warm task is a job without a GitLab job (see `states::warm`). It lies in the metadata directory
//! as any job does, so that `reap`, `fargate-replay` and the next process know it. `prepare` claims
//! one that fits; `docs/decisions/0052-warm-tasks.md` says how.
//!
//! - `launching` — launches a pool's task, finishes what a killed process began, and retires one;
//! - `tasks` — the warm tasks that there are;
//! - `plan` — what the pools need next: a decision without I/O;
//! - `keeper` — the service's loop, which does what the plan says;
//! - `demand` — whether jobs wait for their launches, which come first;
//! - `drain` — ends all warm tasks;
//! - `pool_state` — what keeps pools from being full, in a file for the page, `fargate status` and the
//!   next service.

mod demand;
mod drain;
mod keeper;
mod launching;
mod plan;
mod pool_state;
mod tasks;

pub use drain::{Drained, drain};
pub(crate) use keeper::{Beginning, keep};
pub use launching::{LaunchError, Launched, launch, resume, retire};
pub use plan::Pool;
pub use pool_state::PoolState;
pub use tasks::{WarmTask, finish_claims, look};

use crate::config::Config;

/// Returns the pools of a configuration.
#[must_use]
pub fn pools(config: &Config) -> Vec<Pool> {
    config.warm.iter().map(|settings| Pool::of(config, settings)).collect()
}
