//! What the service tells systemd: that it is ready, what it does, and that it lives. Without
//! systemd, nothing is said.

use std::{path::PathBuf, time::Duration};

use sd_notify::NotifyState;
use states::foreign_text;
use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::source::check_writable;

/// The service manager, if there is one.
pub(super) struct Supervisor {
    watchdog: Option<Watchdog>,
    /// What the service does.
    activity: String,
    /// What was said last.
    status: String,
}

/// Signs of life are expected.
struct Watchdog {
    directory: PathBuf,
    /// Half of the time after which the process is killed, as sd_watchdog_enabled(3) recommends.
    period: Duration,
    turns: Interval,
    /// The check that the next sign waits for.
    check: Option<JoinHandle<Checked>>,
}

enum Checked {
    /// The directory can be used, or cannot for this reason.
    Answered(Result<(), String>),
    Hangs,
}

impl Supervisor {
    /// Reads from the environment whether there is one, and what it expects.
    pub(super) fn of_environment(directory: PathBuf) -> Self {
        let period = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        let watchdog = period.filter(|period| !period.is_zero()).map(|period| {
            let mut turns = interval(period);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Watchdog { directory, period, turns, check: None }
        });
        Self { watchdog, activity: String::new(), status: String::new() }
    }

    /// Says that the service is ready, and what it does.
    pub(super) fn ready(&mut self, activity: &str) {
        notify(&[NotifyState::Ready]);
        self.does(activity);
    }

    /// Says that the configuration is read again. [`Supervisor::ready`] has to follow.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(e) => tracing::debug!("the clock cannot be read: {e}"),
        }
    }

    /// Says what the service does, in a line for `systemctl status`.
    pub(super) fn does(&mut self, activity: &str) {
        self.activity = foreign_text::tame(activity);
        self.say(None);
    }

    /// Says that the service ends.
    pub(super) fn stopping(&mut self) {
        notify(&[NotifyState::Stopping]);
        self.does("ending: stages go on by themselves");
    }

    /// Gives the next sign of life once the directory has answered. An answer that it cannot be
    /// used is one: another process could do no better. If the file system hangs, there is no sign.
    /// Cancel-safe. Without a watchdog, it never completes.
    pub(super) async fn give_sign(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return std::future::pending().await };
        match watchdog.check().await {
            Checked::Answered(answer) => {
                notify(&[NotifyState::Watchdog]);
                self.say(answer.err());
            }
            Checked::Hangs => {
                let problem = "the metadata directory does not answer: no sign of life is given";
                self.say(Some(problem.to_owned()));
            }
        }
    }

    /// Says what is wrong, or else what the service does. It is said again if it has changed only.
    fn say(&mut self, problem: Option<String>) {
        let status = problem.as_ref().unwrap_or(&self.activity);
        if self.status == *status {
            return;
        }
        self.status.clone_from(status);
        notify(&[NotifyState::Status(&self.status)]);
        if let Some(problem) = problem {
            tracing::error!("{problem}");
        }
    }
}

impl Watchdog {
    /// Waits for the next turn, and checks the directory. Cancel-safe.
    async fn check(&mut self) -> Checked {
        if self.check.is_none() {
            self.turns.tick().await;
        }
        let (directory, limit) = (self.directory.clone(), self.period);
        let check = self.check.get_or_insert_with(|| {
            tokio::spawn(async move {
                let asked = tokio::task::spawn_blocking(move || check_writable(&directory));
                match timeout(limit, asked).await {
                    Ok(Ok(answer)) => Checked::Answered(answer),
                    Ok(Err(e)) => Checked::Answered(Err(format!("its check failed: {e}"))),
                    Err(_) => Checked::Hangs,
                }
            })
        });
        let checked = check.await;
        self.check = None;
        // It is not cancelled, and does not panic.
        checked.unwrap_or(Checked::Hangs)
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be notified: {e}");
    }
}
