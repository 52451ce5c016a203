//! `config`: describes the driver to gitlab-runner. The configuration is checked before, so that a
//! mistake in it fails a job's first stage.

use crate::runner::Verdict;

/// Prints the driver's description: one JSON object (GitLab's documentation, "Custom executor",
/// Config).
#[must_use]
pub fn config() -> Verdict {
    let answer = serde_json::json!({ "driver": { "name": "fargate", "version": concat!("v", env!("CARGO_PKG_VERSION")) } });
    println!("{answer}");
    Verdict::Success
}
