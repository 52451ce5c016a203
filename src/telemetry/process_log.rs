//! `<job>.trace` beside the snapshot: the job's position in its trace, and the processes that
//! worked on it.
//!
//! A line of JSON each, appended. A killed process leaves the line of its beginning, and the process
//! that ends the job makes a span of it. The file exists from `config` on, before there is a
//! snapshot, and is removed with the job.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use states::private_file;

use super::context::Context;

/// Bytes of the file that are read. A job of a dozen processes writes some four kilobytes.
const LONGEST: u64 = 1024 * 1024;

/// A line of the file. Times are in nanoseconds since the Unix epoch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The job's first process.
    Job { context: Context, at: u64 },
    /// A process began.
    Began { span: String, purpose: String, at: u64 },
    /// The process ended.
    Ended { span: String, result: String, error: Option<String> },
}

impl Line {
    /// Returns the line of a process that begins. `span` is its span's id, hexadecimal.
    pub(super) fn began(span: String, purpose: String, at: SystemTime) -> Self {
        Self::Began { span, purpose, at: nanoseconds(at) }
    }
}

/// One process of the job.
#[derive(Debug)]
pub(super) struct Process {
    /// Its span's id, hexadecimal.
    pub(super) span: String,
    /// Its purpose.
    pub(super) purpose: String,
    /// When it began.
    pub(super) at: SystemTime,
    /// How it ended: result and cause; `None` if it was killed, or still runs.
    pub(super) ended: Option<(String, Option<String>)>,
}

/// The content of the file.
#[derive(Debug)]
pub(super) struct ProcessLog {
    path: PathBuf,
    /// The job's position in its trace.
    pub(super) context: Context,
    began: u64,
    /// The processes, in the order in which they began.
    pub(super) processes: Vec<Process>,
}

impl ProcessLog {
    /// Creates a job's process log.
    pub(super) fn begin(path: PathBuf, context: Context, at: SystemTime) -> Self {
        let began = nanoseconds(at);
        let mut process_log = Self { path, context, began, processes: Vec::new() };
        process_log.note(Line::Job { context: process_log.context.clone(), at: began });
        process_log
    }

    /// Reads the job's process log, if there is one. Malformed lines are skipped.
    pub(super) fn read(path: PathBuf) -> Option<Self> {
        let text = String::from_utf8(private_file::read_up_to(&path, LONGEST + 1).ok()?).ok()?;
        let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let Some(Line::Job { context, at }) = lines.next() else { return None };
        let mut process_log = Self { path, context, began: at, processes: Vec::new() };
        lines.for_each(|line| process_log.add(line));
        (text.len() as u64 <= LONGEST && process_log.context.root().is_some())
            .then_some(process_log)
    }

    /// Returns when the job's first process began, to the millisecond: the states' times are no
    /// more precise, and the job must not begin after the first of them.
    pub(super) fn began(&self) -> SystemTime {
        time(self.began / 1_000_000 * 1_000_000)
    }

    /// Adds a line, also to the file. Only logs a failed write: telemetry must not fail a job.
    pub(super) fn note(&mut self, line: Line) {
        let text = serde_json::to_string(&line).map_err(io::Error::other);
        let written =
            text.and_then(|text| private_file::append(&self.path, format!("{text}\n").as_bytes()));
        if let Err(e) = written {
            tracing::warn!("{} cannot be written: {e}", self.path.display());
        }
        self.add(line);
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Job { .. } => {}
            Line::Began { span, purpose, at } => {
                self.processes.push(Process { span, purpose, at: time(at), ended: None })
            }
            Line::Ended { span, result, error } => {
                let process = self.processes.iter_mut().find(|of| of.span == span);
                process.into_iter().for_each(|of| of.ended = Some((result.clone(), error.clone())));
            }
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
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
