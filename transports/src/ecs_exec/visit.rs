//! A person's terminal by ECS Exec: a shell whose exit status is told, which the protocol does not
//! do.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::{ExecTerminal, session::ENDS_WITHIN};
use crate::Terminal;

/// Around the status in the terminal's output: ASCII's record separator, which nothing shows.
const SEPARATOR: u8 = 0x1e;
/// Longest status, in digits.
const DIGITS: usize = 3;

/// The command of a session that runs the user's shell on a terminal of this kind, and says by
/// `nonce` how it ended.
///
/// The agent runs commands in the directory of the image and with whatever HOME it has. No quote
/// but the outer two: see [`crate::delivery::terminal::Boot::command`]. The keys' signals are for
/// what runs in the shell, whatever that is.
pub(super) fn command(term: &str, nonce: &str) -> String {
    let term: String =
        term.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.+".contains(*c)).collect();
    format!(
        "/bin/sh -c '[ -d \"$HOME\" ] || HOME=/root; export HOME TERM={term}; cd \"$HOME\" || cd /; trap : INT QUIT; \
         if command -v bash >/dev/null 2>&1; then bash -l; else /bin/sh -l; fi; printf \"\\036{nonce} %d\\036\" $?'"
    )
}

/// A terminal with a shell in it.
pub struct ExecVisit {
    terminal: ExecTerminal,
    ending: Mutex<Ending>,
    status: OnceLock<u32>,
}

impl ExecVisit {
    pub(super) fn new(terminal: ExecTerminal, nonce: &str) -> Self {
        Self { terminal, ending: Mutex::new(Ending::new(nonce)), status: OnceLock::new() }
    }
}

impl Terminal for ExecVisit {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        self.terminal.write(bytes).await
    }

    async fn read(&self) -> Result<Option<Bytes>, String> {
        loop {
            if self.status.get().is_some() {
                return Ok(None);
            }
            let read = self.terminal.read().await?;
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(read) = read else {
                let rest = ending.rest();
                if rest.is_empty() {
                    return Err("the session ended before its shell did".to_owned());
                }
                return Ok(Some(rest));
            };
            let (shown, status) = ending.pass(&read);
            if let Some(status) = status {
                let _ = self.status.set(status);
            }
            if !shown.is_empty() {
                return Ok(Some(shown));
            }
        }
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        self.terminal.resize(columns, rows).await
    }

    fn status(&self) -> Option<u32> {
        self.status.get().copied()
    }

    /// A shell that runs is hung up on: nobody would come back to it, and it keeps one of the
    /// container's slots.
    async fn close(&self) {
        self.terminal
            .leave(if self.status().is_some() { ENDS_WITHIN } else { Duration::ZERO })
            .await;
    }
}

/// Finds the shell's status in what its terminal shows.
struct Ending {
    mark: Vec<u8>,
    /// What may be the beginning of it.
    held: BytesMut,
}

impl Ending {
    fn new(nonce: &str) -> Self {
        let mut mark = vec![SEPARATOR];
        mark.extend_from_slice(nonce.as_bytes());
        mark.push(b' ');
        Self { mark, held: BytesMut::new() }
    }

    /// What is to be shown of it, and the status, behind which there is nothing.
    fn pass(&mut self, read: &[u8]) -> (Bytes, Option<u32>) {
        self.held.extend_from_slice(read);
        let mut from = 0;
        while let Some(at) =
            self.held[from..].iter().position(|b| *b == SEPARATOR).map(|at| from + at)
        {
            let rest = &self.held[at..];
            if rest.len() < self.mark.len() {
                if self.mark.starts_with(rest) {
                    return (self.held.split_to(at).freeze(), None);
                }
            } else if let Some(digits) = rest.strip_prefix(self.mark.as_slice()) {
                let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
                if (1..=DIGITS).contains(&length) && digits.get(length) == Some(&SEPARATOR) {
                    let status = std::str::from_utf8(&digits[..length])
                        .ok()
                        .and_then(|digits| digits.parse().ok());
                    let shown = self.held.split_to(at).freeze();
                    self.held.clear();
                    return (shown, status);
                }
                if length <= DIGITS && length == digits.len() {
                    return (self.held.split_to(at).freeze(), None);
                }
            }
            from = at + 1;
        }
        (self.rest(), None)
    }

    fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(pieces: &[&[u8]]) -> (Vec<u8>, Option<u32>) {
        let mut ending = Ending::new("abc");
        let (mut shown, mut status) = (Vec::new(), None);
        for piece in pieces {
            let (bytes, told) = ending.pass(piece);
            shown.extend_from_slice(&bytes);
            status = status.or(told);
        }
        shown.extend_from_slice(&ending.rest());
        (shown, status)
    }

    #[test]
    fn the_status_is_found_wherever_the_pieces_end() {
        let whole = b"$ \x1e\x1eabd 1\x1eexit\r\n\x1eabc 130\x1e";
        for cut in 0..whole.len() {
            assert_eq!(
                passed(&[&whole[..cut], &whole[cut..]]),
                (b"$ \x1e\x1eabd 1\x1eexit\r\n".to_vec(), Some(130)),
                "{cut}"
            );
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(passed(&bytes).1, Some(130));
    }

    #[test]
    fn what_only_looks_like_it_is_shown() {
        for text in [
            &b"\x1eabc 1"[..],
            b"\x1eabc 1234\x1e",
            b"\x1eabc x\x1e",
            b"\x1eab",
            b"text \x1e",
            b"\x1eabc 12",
            b"\x1eabc \x1e",
        ] {
            let (shown, status) = passed(&[text]);
            assert_eq!((shown.as_slice(), status), (text, None), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_beginning_of_it_is_shown_at_once() {
        let mut ending = Ending::new("abc");
        assert_eq!(ending.pass(b"prompt$ ").0, "prompt$ ");
        assert_eq!(ending.pass(b"a\x1eb").0, "a\x1eb");
        assert_eq!(
            (ending.pass(b"c\x1eab").0, ending.pass(b"x").0),
            (Bytes::from("c"), Bytes::from("\x1eabx"))
        );
    }

    #[test]
    fn nothing_of_the_terminals_kind_gets_out_of_its_word() {
        let command = command("x'; rm -rf / \"$(", "abc");
        assert_eq!(command.matches('\'').count(), 2);
        assert!(command.contains("TERM=xrm-rf;"), "{command}");
    }
}
