//! Exports the driver's own log as OTLP logs.

use std::fmt::{self, Write as _};

use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context};

use super::{
    recorder::{recorder, stage},
    settings::Signal,
};

/// Longest message that is exported, in bytes.
const LONGEST: usize = 4096;

/// Returns the layer that exports the driver's own log, if it is exported.
#[must_use]
pub fn log_export() -> Option<LogExport> {
    recorder().filter(|recorder| recorder.settings.exports(Signal::Logs)).map(|_| LogExport)
}

/// Exports messages of the log, without their fields: at debug level, these hold whole
/// observations.
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
        recorder.pipeline.line(*event.metadata().level(), message, stage().as_ref());
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
