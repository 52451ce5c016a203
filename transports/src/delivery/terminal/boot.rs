//! The start of a session: its command, the program that it reads, what both report, and their
//! errors.

use memchr::memmem;

use super::armor::{ArmorDecoder, Piece};
use crate::delivery::{
    command::{ANY_WRAPPER, ARMORED_SUPERVISOR, compact, quote},
    nonce,
};

const SHELL: &str = include_str!("shell.sh");
/// Most bytes before the terminal is ready.
const LONGEST_PREAMBLE: usize = 64 * 1024;
/// Bytes of them that are kept to explain a failure.
const PREAMBLE_KEPT: usize = 2000;

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

/// A session that begins, without I/O: output of the terminal in, what to do next out.
#[derive(Debug)]
pub(super) struct Booting {
    nonce: String,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The session's command has not reported that the terminal is ready. What it said before.
    Preamble(Vec<u8>),
    /// The helper has not reported that it is ready. `noise` is what the terminal said otherwise.
    Helper { armor: ArmorDecoder, noise: Vec<u8> },
}

/// What is to be done next for a session that begins.
#[derive(Debug)]
pub(super) enum Next {
    /// Read on.
    Read,
    /// Send the helper, then call [`Booting::on_bytes`] again: more may have come already.
    SendHelper,
    /// Run commands. The decoder may hold what came behind the helper's report.
    Begin(ArmorDecoder),
}

impl Booting {
    pub(super) fn new(boot: &Boot) -> Self {
        Self { nonce: boot.nonce.clone(), phase: Phase::Preamble(Vec::new()) }
    }

    /// Handles output of the terminal.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Result<Next, BootError> {
        match &mut self.phase {
            Phase::Preamble(text) => {
                text.extend_from_slice(bytes);
                let wanted = format!("BOOT{}", self.nonce);
                if let Some(at) = memmem::find(text, wanted.as_bytes())
                    && let Some(end) = text[at..].iter().position(|b| *b == b'\n')
                {
                    let mut armor = ArmorDecoder::default();
                    armor.push(&text[at + end + 1..]);
                    self.phase = Phase::Helper { armor, noise: Vec::new() };
                    return Ok(Next::SendHelper);
                }
                if text.len() > LONGEST_PREAMBLE {
                    return Err(BootError::Unusable(
                        "it prints without end before it runs a command".to_owned(),
                    ));
                }
                Ok(Next::Read)
            }
            Phase::Helper { armor, noise } => {
                armor.push(bytes);
                while let Some(piece) = armor.piece() {
                    match piece {
                        Piece::Line { nonce, text }
                            if nonce == self.nonce && text.starts_with("ready") =>
                        {
                            let missing = text["ready".len()..].trim().to_owned();
                            return if missing.is_empty() {
                                Ok(Next::Begin(std::mem::take(armor)))
                            } else {
                                Err(BootError::Missing(missing))
                            };
                        }
                        Piece::Noise(bytes) => {
                            let room = PREAMBLE_KEPT.saturating_sub(noise.len());
                            noise.extend_from_slice(&bytes[..bytes.len().min(room)]);
                        }
                        _ => {}
                    }
                }
                Ok(Next::Read)
            }
        }
    }

    /// Explains the end of the session, or of its connection with a reason.
    pub(super) fn on_end(self, lost: Option<String>) -> BootError {
        match (self.phase, lost) {
            (Phase::Preamble(said_before) | Phase::Helper { noise: said_before, .. }, None) => {
                BootError::Unusable(said(&said_before))
            }
            (Phase::Preamble(text), Some(why)) if !text.is_empty() => {
                BootError::Lost(format!("{why}, after {:?}", said(&text)))
            }
            (_, Some(why)) => BootError::Lost(why),
        }
    }
}

fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(PREAMBLE_KEPT)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it ended without a word".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a text in pieces of `size`, sends the helper where asked, and returns the outcome.
    fn boot(text: &str, size: usize) -> Result<(), BootError> {
        let start = Boot { nonce: "0123456789abcdef".repeat(2), ..Boot::new() };
        let mut booting = Booting::new(&start);
        let mut sent = 0;
        for bytes in text.replace("NONCE", &start.nonce).as_bytes().chunks(size) {
            let mut next = booting.on_bytes(bytes)?;
            if let Next::SendHelper = next {
                sent += 1;
                next = booting.on_bytes(&[])?;
            }
            if let Next::Begin(_) = next {
                assert_eq!(sent, 1);
                return Ok(());
            }
        }
        Err(booting.on_end(None))
    }

    #[test]
    fn a_session_begins_however_its_output_is_cut() {
        for size in [1, 7, 1000] {
            assert_eq!(boot("motd\r\nBOOTNONCE\r\nnoise\n~NONCE ready\n", size), Ok(()), "{size}");
        }
    }

    #[test]
    fn the_reason_of_a_failed_start_is_what_was_said() {
        let unusable = |why: &str| Err(BootError::Unusable(why.to_owned()));
        for size in [1, 1000] {
            assert_eq!(boot("sh: stty: not  found\n", size), unusable("sh: stty: not found"));
            assert_eq!(boot("motd\nBOOTNONCE\nsh: oops\n", size), unusable("sh: oops"));
            assert_eq!(boot("BOOTNONCE\n", size), unusable("it ended without a word"));
            assert_eq!(
                boot("BOOTNONCE\n~NONCE ready base64 tail\n", size),
                Err(BootError::Missing("base64 tail".to_owned()))
            );
        }
        // Another session's report counts for nothing.
        let other = "BOOTNONCE\n~00000000000000000000000000000000 ready\n";
        assert_eq!(boot(other, 1000), unusable("it ended without a word"));
    }

    #[test]
    fn an_endless_preamble_is_refused() {
        let endless = boot(&"y\n".repeat(LONGEST_PREAMBLE), 1000);
        assert!(matches!(&endless, Err(BootError::Unusable(why)) if why.contains("without end")));
    }

    #[test]
    fn a_lost_connection_is_explained_by_what_was_said_before() {
        let start = Boot::new();
        let lost = || Some("reset".to_owned());
        assert_eq!(Booting::new(&start).on_end(lost()), BootError::Lost("reset".to_owned()));
        let mut booting = Booting::new(&start);
        booting.on_bytes(b"no space left\n").unwrap();
        let why = "reset, after \"no space left\"".to_owned();
        assert_eq!(booting.on_end(lost()), BootError::Lost(why));
    }
}
