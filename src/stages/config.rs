//! `config`: describes the driver to gitlab-runner. The configuration is checked before, so that a
//! mistake in it fails a job's first stage.

use crate::{
    config::Config,
    launch,
    runner::{StageEnvironment, Verdict},
};

/// Prints the driver's description: one JSON object (GitLab's documentation, "Custom executor",
/// Config). The directories of a job with an image are those that its containers share.
#[must_use]
pub fn config(config: &Config, environment: &StageEnvironment) -> Verdict {
    let mut answer = serde_json::json!({
        "driver": { "name": "fargate", "version": concat!("v", env!("CARGO_PKG_VERSION")) },
    });
    // `prepare` reports what the job cannot have.
    let granted = launch::granted(config, environment).unwrap_or_default();
    if let Some(job) = granted.additions.and_then(|additions| additions.job) {
        answer["builds_dir"] = job.shared.builds.into();
        answer["cache_dir"] = job.shared.cache.into();
    }
    println!("{answer}");
    Verdict::Success
}
