//! Recorded telemetry as plain data, without an exporter's types: recording costs a push to a list.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Level;

use super::context::Traceparent;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Attributes in the order they were given.
pub type Attributes = Vec<(&'static str, Value)>;

/// The role of a span (OpenTelemetry, "SpanKind").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Within the driver.
    Internal,
    /// A call to another service.
    Client,
}

/// An event of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// Its time, in nanoseconds since the Unix epoch.
    pub at: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A finished span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub id: [u8; 8],
    /// Its parent; `None` for the first of a trace.
    pub parent: Option<[u8; 8]>,
    /// W3C `tracestate`.
    pub state: String,
    /// Its name.
    pub name: String,
    /// Its role.
    pub kind: Kind,
    /// Its start, in nanoseconds since the Unix epoch.
    pub start: u64,
    /// Its end, likewise.
    pub end: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its events.
    pub events: Vec<Event>,
    /// Events that were left out because there were too many.
    pub omitted: u32,
    /// The class of its failure (`error.type`), if it failed.
    pub error: Option<String>,
}

/// A line of the driver's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its time, in nanoseconds since the Unix epoch.
    pub at: u64,
    /// Its severity.
    pub level: Level,
    /// The message.
    pub message: String,
    /// The span in which it was logged.
    pub span: Option<Traceparent>,
}

/// Returns the time in nanoseconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    nanoseconds(SystemTime::now())
}

/// Converts a time to nanoseconds since the Unix epoch.
#[must_use]
pub fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// Converts the machine's time to nanoseconds since the Unix epoch.
#[must_use]
pub fn of(at: states::Timestamp) -> u64 {
    at.as_millis().saturating_mul(1_000_000)
}
