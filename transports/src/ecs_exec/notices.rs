//! What an attempt to connect waits for, for people.

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
    /// Says what is waited for now. The same text again is no news.
    pub(super) fn say(&self, text: &str) {
        let text = foreign_text::clipped(text);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.latest.as_ref() != Some(&text) {
            tracing::info!("waiting: {text}");
            *state = State { latest: Some(text), is_handed_out: false };
            self.changed.notify_one();
        }
    }

    /// Nothing is waited for any more.
    pub(super) fn clear(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// What is waited for.
    pub(super) fn latest(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).latest.clone()
    }

    /// The next notice. Cancel-safe.
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
