//! What `fargate reap` prints, and its summary.

use std::fmt;

use states::Snapshot;

use crate::console::{stderr_line, stdout_line};

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Tasks that were stopped without a job.
    pub orphans: usize,
    /// Jobs that were ended.
    pub jobs: usize,
    /// Jobs that were left alone.
    pub alive: usize,
    /// Derived task definitions that were retired.
    pub definitions: usize,
    /// Actions that failed.
    pub failures: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orphans, jobs, alive, definitions, failures } = self;
        write!(
            f,
            "orphaned tasks stopped: {orphans}; jobs ended: {jobs}; jobs left alone: {alive}; failures: {failures}"
        )?;
        if *definitions > 0 {
            write!(f, "; task definitions retired: {definitions}")
        } else {
            Ok(())
        }
    }
}

impl Summary {
    /// Prints a failure, and counts it.
    pub(super) fn record_failure(&mut self, what: &str, why: &dyn fmt::Display) {
        tracing::error!("reap: {what}: {why}");
        stderr_line(format_args!("fargate: reap: {what}: {why}"));
        self.failures += 1;
    }
}

/// Prints a line to standard output and to the driver's log.
pub(super) fn report(line: impl fmt::Display) {
    tracing::info!("reap: {line}");
    stdout_line(line);
}

/// Describes a job for people.
pub(super) fn describe(snapshot: &Snapshot) -> String {
    let header = snapshot.job.header();
    let task = snapshot
        .job
        .task()
        .map_or_else(|| "no task known".to_owned(), |task| format!("task {}", task.task_id()));
    format!("job {} ({}, job {}, {task})", header.id, header.about.project_url, header.about.job_id)
}
