//! `<job>.trace` beside the snapshot: the job's position in its trace, and the processes that
//! worked on it.
//!
//! A line of JSON each, appended. A killed process leaves the line of its beginning, and the process
//! that ends the job makes a span of it. The file exists from `config` on, before there is a
//! snapshot, and is removed with the job.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use states::private_file;

use super::context::Context;

/// Bytes of the file that are read. A job of a dozen processes writes some four kilobytes.
const LONGEST: u64 = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The job's first process.
    Job { context: Context, at: u64 },
    /// A process began.
    Began { span: String, purpose: String, at: u64 },
    /// The process ended.
    Ended { span: String, result: String, error: Option<String> },
}

/// One process of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Its span's id, hexadecimal.
    pub(super) span: String,
    /// Its purpose.
    pub(super) purpose: String,
    /// When it began, in nanoseconds since the Unix epoch.
    pub(super) at: u64,
    /// How it ended: result and cause; `None` if it was killed, or still runs.
    pub(super) ended: Option<(String, Option<String>)>,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessLog {
    path: PathBuf,
    /// The job's position in its trace.
    pub(super) context: Context,
    /// When the job's first process began, in nanoseconds since the Unix epoch.
    pub(super) began: u64,
    /// The processes, in the order in which they began.
    pub(super) processes: Vec<Process>,
}

/// Returns the path of a job's process log.
pub(super) fn path(directory: &Path, job: &str) -> PathBuf {
    directory.join(format!("{job}.trace"))
}

impl ProcessLog {
    /// Creates a job's process log.
    pub(super) fn begin(path: PathBuf, context: Context, at: u64) -> Self {
        let process_log = Self { path, context, began: at, processes: Vec::new() };
        process_log.append(&Line::Job { context: process_log.context.clone(), at });
        process_log
    }

    /// Reads the job's process log, if there is one. Malformed lines are skipped.
    pub(super) fn read(path: PathBuf) -> Option<Self> {
        let text = String::from_utf8(private_file::read_up_to(&path, LONGEST + 1).ok()?).ok()?;
        if text.len() as u64 > LONGEST {
            return None;
        }
        let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let Some(Line::Job { context, at }) = lines.next() else { return None };
        context.root()?;
        let mut process_log = Self { path, context, began: at, processes: Vec::new() };
        for line in lines {
            match line {
                Line::Job { .. } => {}
                Line::Began { span, purpose, at } => {
                    process_log.processes.push(Process { span, purpose, at, ended: None })
                }
                Line::Ended { span, result, error } => {
                    if let Some(process) =
                        process_log.processes.iter_mut().find(|process| process.span == span)
                    {
                        process.ended = Some((result, error));
                    }
                }
            }
        }
        Some(process_log)
    }

    /// Records that a process begins.
    pub(super) fn note_begin(&mut self, span: &str, purpose: &str, at: u64) {
        self.append(&Line::Began { span: span.to_owned(), purpose: purpose.to_owned(), at });
        self.processes.push(Process {
            span: span.to_owned(),
            purpose: purpose.to_owned(),
            at,
            ended: None,
        });
    }

    /// Records that it ended.
    pub(super) fn note_end(&mut self, span: &str, result: &str, error: Option<&str>) {
        self.append(&Line::Ended {
            span: span.to_owned(),
            result: result.to_owned(),
            error: error.map(str::to_owned),
        });
        if let Some(process) = self.processes.iter_mut().find(|process| process.span == span) {
            process.ended = Some((result.to_owned(), error.map(str::to_owned)));
        }
    }

    /// Removes the log, as the job is over.
    pub(super) fn remove(&self) {
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} cannot be removed: {e}", self.path.display());
        }
    }

    /// Only logs a failed write: telemetry must not fail a job.
    fn append(&self, line: &Line) {
        let text = serde_json::to_string(line).map_err(io::Error::other);
        let written =
            text.and_then(|text| private_file::append(&self.path, format!("{text}\n").as_bytes()));
        if let Err(e) = written {
            tracing::warn!("{} cannot be written: {e}", self.path.display());
        }
    }
}
