//! Exports what the service records, while it runs: in batches, and no stage waits for it.

use std::{path::Path, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use super::{
    SERVICE_SPOOL,
    export::flush_batch,
    recorder::{Recorder, recorder},
};

/// How often the service exports, if no job ends: the default of OpenTelemetry's batch processor
/// (`OTEL_BSP_SCHEDULE_DELAY`).
const EVERY: Duration = Duration::from_secs(5);
/// The same after the collector has not taken something.
const AGAIN: Duration = Duration::from_secs(30);
/// How long an export may take, if `FlushTimeout` is not longer. No stage waits for it.
const WITHIN: Duration = Duration::from_secs(5);

/// The service's exporter.
#[derive(Debug)]
pub struct Batches {
    end: oneshot::Sender<()>,
    exporting: JoinHandle<()>,
}

impl Batches {
    /// Begins to export. What the collector does not take is kept in this metadata directory.
    /// `None` if telemetry is off.
    #[must_use]
    pub fn begin(directory: &Path) -> Option<Self> {
        let recorder = recorder()?;
        recorder.keep_in(directory.join(SERVICE_SPOOL));
        let (end, ends) = oneshot::channel();
        Some(Self { end, exporting: tokio::spawn(export(recorder, ends)) })
    }

    /// Exports the rest, within `FlushTimeout`, and ends.
    pub async fn end(self) {
        drop(self.end);
        let _ = self.exporting.await;
    }
}

/// Exports until `ends` completes.
async fn export(recorder: &'static Recorder, mut ends: oneshot::Receiver<()>) {
    let limit = recorder.settings.flush_timeout;
    let mut is_troubled = false;
    loop {
        let pause = if is_troubled { AGAIN } else { EVERY };
        let is_last = tokio::select! {
            biased;
            _ = &mut ends => true,
            () = recorder.pipeline.half_full() => false,
            () = recorder.job_ended.notified(), if !is_troubled => false,
            () = sleep(pause) => false,
        };
        let limit = if is_last { limit } else { limit.max(WITHIN) };
        match flush_batch(recorder, limit).await {
            Some(problem) if !is_troubled || is_last => {
                is_troubled = true;
                tracing::warn!("{problem}; what can be sent later is kept. No job is affected.");
            }
            Some(problem) => tracing::debug!("{problem}"),
            None if is_troubled => {
                is_troubled = false;
                tracing::info!("the collector takes telemetry again");
            }
            None => {}
        }
        if is_last {
            return;
        }
    }
}
