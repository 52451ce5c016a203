//! Logs a stage's beginning and end in the driver's own log, at a level for alerts. The process that
//! does the stage's work logs them.

use std::time::Instant;

use tracing::Span;

use crate::runner::Verdict;

/// One stage of one job. Lines that are logged meanwhile name both.
pub struct StageLog {
    began: Instant,
    span: Span,
}

impl StageLog {
    /// Returns the log of a stage that begins now. `job` is GitLab's number.
    #[must_use]
    pub fn new(stage: &str, job: &str) -> Self {
        // At `error`, so that logs of every level have it.
        let span = tracing::error_span!("stage", stage, job);
        Self { began: Instant::now(), span }
    }

    /// Logs that this process does the stage's work.
    pub fn begin(&self, by_service: bool) {
        let by = if by_service { ", hosted by the service" } else { "" };
        tracing::info!("the stage begins{by}");
    }

    /// Returns the span of the stage's lines.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// Logs how the stage ended: failures that need an administrator at `error`, those of the job
    /// or its owner at `warn` or `info`.
    pub fn end(&self, verdict: &Verdict, cancelled: bool) {
        let seconds = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        match verdict {
            Verdict::Success => tracing::info!(verdict = "success", seconds, "stage ended well"),
            Verdict::BuildFailure { code, message: None } => {
                let code = code.unwrap_or(1);
                tracing::info!(
                    verdict = "build failure",
                    exit_code = code,
                    seconds,
                    "stage ended: its script's exit status is {code}"
                );
            }
            Verdict::BuildFailure { message: Some(message), .. } => {
                tracing::warn!(verdict = "build failure", seconds, "stage failed: {message}");
            }
            Verdict::SystemFailure(message) if cancelled => {
                tracing::warn!(verdict = "cancelled", seconds, "stage ended: {message}")
            }
            Verdict::SystemFailure(message) => {
                tracing::error!(verdict = "system failure", seconds, "stage failed: {message}")
            }
        }
    }
}
