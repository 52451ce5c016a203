//! `<job>.trace` beside the snapshot: the job's own span, and those of its processes, as they begin
//! and end.
//!
//! A line of JSON each, appended. A killed process leaves the line of its beginning, and the process
//! that ends the job makes a span of it. The file exists from `config` on, before there is a
//! snapshot, and is removed with the job.

use std::{io, path::Path, time::SystemTime};

use opentelemetry::trace::{SpanContext, SpanId};
use serde::{Deserialize, Serialize};
use states::private_file;

use super::context::{parse, traceparent};

/// Bytes of the file that are read. A job of a dozen processes writes some four kilobytes.
const LONGEST: u64 = 1024 * 1024;

/// A span that began, and maybe ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) traceparent: String,
    tracestate: String,
    /// Its parent's id, hexadecimal.
    parent: String,
    /// The purpose of its process. Empty for the job's own span, which is the first.
    pub(super) purpose: String,
    pub(super) began: SystemTime,
    /// Result and cause; `None` if the process was killed, or still runs.
    pub(super) ended: Option<(String, Option<String>)>,
}

impl Record {
    /// Records a span that begins.
    pub(super) fn new(at: &SpanContext, parent: SpanId, purpose: &str, began: SystemTime) -> Self {
        let (traceparent, tracestate) = (traceparent(at), at.trace_state().header());
        let (parent, purpose) = (parent.to_string(), purpose.to_owned());
        Self { traceparent, tracestate, parent, purpose, began, ended: None }
    }

    /// Returns its position in the trace; `None` if others have changed the file.
    pub(super) fn context(&self) -> Option<SpanContext> {
        parse(&self.traceparent, &self.tracestate)
    }

    pub(super) fn parent(&self) -> SpanId {
        SpanId::from_hex(&self.parent).unwrap_or(SpanId::INVALID)
    }

    /// Adds it to the log. Only logs a failed write: telemetry must not fail a job.
    pub(super) fn append(&self, log: &Path) {
        let line = serde_json::to_string(self).map_err(io::Error::other);
        let written =
            line.and_then(|line| private_file::append(log, format!("{line}\n").as_bytes()));
        if let Err(e) = written {
            tracing::warn!("{} cannot be written: {e}", log.display());
        }
    }
}

/// Reads a log, in the order in which the spans began. Malformed lines are skipped.
pub(super) fn read(log: &Path) -> Vec<Record> {
    let bytes = private_file::read_up_to(log, LONGEST).unwrap_or_default();
    let mut records: Vec<Record> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
        match records.iter_mut().find(|begun| begun.traceparent == record.traceparent) {
            Some(begun) => *begun = record,
            None => records.push(record),
        }
    }
    records
}
