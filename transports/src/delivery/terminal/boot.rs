//! The start of a session: its command, the program that it reads, and their errors.

use memchr::memmem;

use crate::{
    Terminal,
    delivery::{
        command::{ANY_WRAPPER, ARMORED_SUPERVISOR, compact, quote},
        nonce,
    },
};

const SHELL: &str = include_str!("shell.sh");
/// Most bytes before the terminal is ready.
const LONGEST_PREAMBLE: usize = 64 * 1024;
/// Bytes of them that are kept to explain a failure.
pub(super) const PREAMBLE_KEPT: usize = 2000;

/// How a session begins.
#[derive(Debug, Clone)]
pub struct Boot {
    pub(super) nonce: String,
    /// The program that is sent once the terminal is ready.
    pub helper: String,
}

impl Default for Boot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot {
    /// Returns the start of a new session, with a nonce of its own.
    #[must_use]
    pub fn new() -> Self {
        let nonce = nonce();
        let mut helper = format!("_mark={nonce}\n");
        for (name, program) in [("_supervisor", &ARMORED_SUPERVISOR), ("_wrapper", &ANY_WRAPPER)] {
            helper.push_str(name);
            helper.push('=');
            quote(&mut helper, program);
            helper.push('\n');
        }
        helper.push_str(&compact(SHELL));
        Self { nonce, helper }
    }

    /// Returns the session's command. It makes the terminal pass bytes unchanged, reports that,
    /// then reads and runs the helper. It ends if no helper comes. Its only single quotes are the
    /// outer two, so that shells and the agent (google/shlex) split it alike.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "/bin/sh -c '(sleep 60; kill -9 $$) </dev/null >/dev/null 2>&1 & _guard=$!; \
             stty raw -echo && printf \"%s\\n\" BOOT{} && eval \"$(dd bs=1 count={} 2>/dev/null)\"'",
            self.nonce,
            self.helper.len()
        )
    }
}

/// Why no command can be run over a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The connection was lost.
    #[error("{0}")]
    Lost(String),
    /// The session's command ended at once, or does not work.
    #[error("the container's shell cannot be used over a terminal: {0}")]
    Unusable(String),
    /// Programs are missing.
    #[error("the image has no {0}")]
    Missing(String),
}

/// Waits until the session's command reports that the terminal is ready. Returns the bytes that
/// follow.
pub(super) async fn preamble<T: Terminal>(terminal: &T, boot: &Boot) -> Result<Vec<u8>, BootError> {
    let wanted = format!("BOOT{}", boot.nonce).into_bytes();
    let mut text = Vec::new();
    loop {
        match terminal.read().await {
            Ok(Some(bytes)) => text.extend_from_slice(&bytes),
            Ok(None) => return Err(BootError::Unusable(said(&text))),
            Err(why) if text.is_empty() => return Err(BootError::Lost(why)),
            Err(why) => return Err(BootError::Lost(format!("{why}, after {:?}", said(&text)))),
        }
        if let Some(at) = memmem::find(&text, &wanted)
            && let Some(end) = text[at..].iter().position(|b| *b == b'\n')
        {
            return Ok(text.split_off(at + end + 1));
        }
        if text.len() > LONGEST_PREAMBLE {
            return Err(BootError::Unusable(
                "it prints without end before it runs a command".to_owned(),
            ));
        }
    }
}

pub(super) fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(PREAMBLE_KEPT)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it ended without a word".to_owned() } else { text }
}
