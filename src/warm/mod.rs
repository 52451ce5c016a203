//! Warm tasks: tasks that are ready before their jobs exist.
//!
//! A warm task is a job without a GitLab job (see `states::warm`). It lies in the metadata directory
//! as any job does, so that `reap`, `fargate-replay` and the next process know it. `prepare` claims
//! one that fits; `docs/decisions/0052-warm-tasks.md` says how.
//!
//! - `launching` — launches a pool's task, finishes what a killed process began, and retires one;
//! - `tasks` — the warm tasks that there are, and the pools that jobs fit.

mod launching;
mod tasks;

pub use launching::{LaunchError, Launched, launch, resume, retire};
pub use tasks::{WarmTask, finish_claims, fit, look, matching_pool};
