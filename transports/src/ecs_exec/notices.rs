//! Notices for people: why an attempt to connect waits.

use std::sync::{Mutex, PoisonError};

use states::foreign_text;
use tokio::sync::Notify;

/// The latest notice of one container's attempts. A notice is handed out once.
#[derive(Debug, Default)]
pub(super) struct Notices {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<String>,
    is_handed_out: bool,
}

impl Notices {
    /// Reports why the attempt waits now. The same text again is not a new notice.
    pub(super) fn say(&self, text: &str) {
        let text = foreign_text::clipped(text);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.latest.as_ref() != Some(&text) {
            tracing::info!("waiting: {text}");
            *state = State { latest: Some(text), is_handed_out: false };
            self.changed.notify_one();
        }
    }

    /// Clears the notice: the attempt waits no more.
    pub(super) fn clear(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Returns the latest notice.
    pub(super) fn latest(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).latest.clone()
    }

    /// Waits for the next notice. Cancel-safe.
    pub(super) async fn next(&self) -> String {
        loop {
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if !state.is_handed_out
                    && let Some(text) = state.latest.clone()
                {
                    state.is_handed_out = true;
                    return text;
                }
            }
            self.changed.notified().await;
        }
    }
}
