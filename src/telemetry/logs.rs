//! Exports the driver's own log as OTLP logs.

use std::fmt::{self, Write as _};

use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context};

use super::{
    recorder::recorder,
    settings::Signal,
    span::{self, LogLine},
};

/// Longest message that is exported, in bytes.
const LONGEST: usize = 4096;

/// Passes messages of the log to the recorder, without their fields: at debug level, these hold
/// whole observations.
#[derive(Debug, Clone, Copy)]
pub struct LogExport;

impl<S: Subscriber> Layer<S> for LogExport {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(recorder) = recorder() else { return };
        let mut message = Message(String::new());
        event.record(&mut message);
        let mut message = states::foreign_text::tame(&message.0);
        if message.len() > LONGEST {
            message.truncate(
                (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0),
            );
        }
        recorder.line(LogLine {
            at: span::now(),
            level: *event.metadata().level(),
            message,
            span: None,
        });
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// Whether the log is exported.
#[must_use]
pub fn wanted() -> bool {
    recorder().is_some_and(|recorder| recorder.exports(Signal::Logs))
}
