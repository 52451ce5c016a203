//! The job log: the script's output, byte for byte, and a few lines that help the CI user.

use std::{io, time::Duration};

use bytes::Bytes;
use states::{AnyJob, JobIo, Note, Observation, StateName, TaskStatus, Timestamp};

use super::{Attempt, StageIo, StateLog, losses::Losses};

/// After this time without a line, the job log says what the stage waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stage's channel to gitlab-runner: the job log, and cancels.
pub struct JobLog {
    states: StateLog,
    io: Box<dyn StageIo>,
    cancelled: bool,
    began: Timestamp,
    said_last: Timestamp,
    reported_trouble: Option<String>,
    losses: Losses,
    /// Bytes of output that were written.
    written: u64,
}

impl JobLog {
    /// A job log over this channel.
    #[must_use]
    pub fn new(states: StateLog, io: Box<dyn StageIo>) -> Self {
        Self {
            states,
            io,
            cancelled: false,
            began: Timestamp::now(),
            said_last: Timestamp::now(),
            reported_trouble: None,
            losses: Losses::default(),
            written: 0,
        }
    }

    /// Whether gitlab-runner has cancelled the stage.
    #[must_use]
    pub fn was_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether gitlab-runner has cancelled the stage by now. Also sees signals that came before
    /// this call.
    pub async fn is_cancelled(&mut self) -> bool {
        if !self.cancelled {
            tokio::select! {
                biased;
                () = self.cancelled() => {}
                // Lets the runtime poll for signals once.
                () = tokio::task::yield_now() => {}
            }
        }
        self.cancelled
    }

    /// Returns how many bytes of output were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes a line for the CI user.
    pub fn say(&mut self, line: &str) {
        self.io.line(line);
        tracing::info!("job log: {line}");
        self.said_last = Timestamp::now();
    }

    /// Says what the stage is about to begin.
    pub(super) async fn begins(&mut self, key: &str, offset: u64) {
        self.io.begins(Attempt { key: key.to_owned(), offset }).await;
    }

    fn seconds(&self) -> f64 {
        Timestamp::now().since(self.began).as_secs_f64()
    }

    fn entered(&mut self, state: StateName, job: &AnyJob) {
        self.states.entered(state);
        self.reported_trouble = None;
        match (state, job) {
            (StateName::Pending, AnyJob::Pending(job)) => {
                let line = format!(
                    "Fargate task {} launched in cluster {}; waiting for its container.",
                    job.state.task.task_id(),
                    job.header.spec.cluster
                );
                self.say(&line);
            }
            (StateName::Reachable, AnyJob::Reachable(job)) if job.state.runs == 0 => {
                self.say(&format!("The task's container is ready after {:.1} s.", self.seconds()));
            }
            _ => {}
        }
    }

    /// Writes what the stage waits for, if the log has been silent for long.
    fn still_waiting(&mut self, what: &str) {
        if Timestamp::now().since(self.said_last) >= PATIENCE {
            self.say(&format!("Still waiting after {:.0} s: {what}.", self.seconds()));
        }
    }

    fn lost(&mut self, why: &str) {
        let Some(more) = self.losses.note(Timestamp::now()) else {
            return tracing::debug!("connection lost: {why}");
        };
        tracing::warn!(unreported = more, "connection lost: {why}");
        let before =
            if more == 0 { String::new() } else { format!(", and {more} times before that") };
        self.say(&format!("The connection to the container was lost ({why}){before}; a script that runs there continues. Reconnecting …"));
    }

    /// Writes how many losses were not reported.
    pub fn end(&mut self) {
        match self.losses.take_unreported() {
            0 => {}
            more => {
                self.say(&format!("The connection to the container was lost {more} times more."))
            }
        }
    }

    /// Writes an obstacle, once for each text.
    fn trouble(&mut self, what: &str) {
        if self.reported_trouble.as_deref() != Some(what) {
            self.say(&format!("{what} Trying again …"));
            self.reported_trouble = Some(what.to_owned());
        }
    }
}

impl JobIo for JobLog {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        let written = self.io.write(bytes).await?;
        self.written += written as u64;
        Ok(written)
    }

    fn note(&mut self, note: Note<'_>) {
        match note {
            Note::Entered { state, snapshot } => {
                tracing::info!(%state, job = %snapshot.job.header().id, "state entered");
                self.entered(state, &snapshot.job);
            }
            Note::Observed(Observation::LaunchFailed(error)) => {
                tracing::warn!(
                    kind = error.kind.name(),
                    remedy = diagnosis::control_remedy(error),
                    "{error}; it is tried again if that can help"
                );
                self.trouble(&format!(
                    "The task could not be launched yet: {}.",
                    error.message.trim_end_matches('.')
                ));
            }
            Note::Observed(
                Observation::DescribeFailed(error)
                | Observation::StopFailed(error)
                | Observation::FindFailed(error),
            ) => {
                tracing::warn!(
                    kind = error.kind.name(),
                    remedy = diagnosis::control_remedy(error),
                    "{error}; it is tried again if that can help"
                );
            }
            Note::Observed(Observation::Described(report)) => {
                tracing::debug!(status = %report.status, stop_desired = report.stop_desired, "described");
                if report.status != TaskStatus::Running {
                    self.still_waiting(&format!(
                        "ECS says the task is {}{}",
                        report.status,
                        hint(&report.status)
                    ));
                }
            }
            Note::Observed(saw) => tracing::debug!(?saw, "observed"),
            Note::ConnectionLost(why) => self.lost(&why),
            Note::Reconnected { offset } if self.losses.is_reported() => {
                tracing::info!(offset, "reconnected");
                self.say("Reconnected.");
            }
            Note::Reconnected { offset } => tracing::debug!(offset, "reconnected"),
            Note::Waiting(what) => self.say(&format!("Waiting: {what}")),
            Note::Unreachable(error) => {
                tracing::debug!(kind = error.kind.name(), "{error}");
                self.still_waiting(error.message.trim_end_matches('.'));
            }
        }
    }

    async fn cancelled(&mut self) {
        if self.cancelled {
            std::future::pending().await
        }
        self.io.cancelled().await;
        self.cancelled = true;
    }
}

/// Explains why a task may stay in a status.
fn hint(status: &TaskStatus) -> &'static str {
    match status {
        TaskStatus::Provisioning => " (its network interface is being made)",
        TaskStatus::Pending => " (usually its image is being pulled)",
        _ => "",
    }
}
