//! Interactive access by ECS Exec: a shell with its exit status, which the protocol does not
//! report, and commands without a terminal.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use states::{
    ConnectCause, ConnectError, ConnectErrorKind, HostIdentity, Run as _, RunEvent, RunId,
    RunOrder, Session as _, Signal, Target,
};
use tokio::time::timeout;

use super::{
    ExecApi, ExecTerminal, ExecTransport, errors, opening::DIAL_WITHIN, session::ENDS_WITHIN,
    socket,
};
use crate::{
    Command, Interactive, Screen, Terminal,
    delivery::{
        self, Chunk, Followed, Session,
        terminal::{Boot, BootError, TerminalShell},
    },
};

/// Delimits the status in the terminal's output: ASCII's record separator, which terminals do not
/// show.
const SEPARATOR: u8 = 0x1e;
/// Longest status, in digits.
const DIGITS: usize = 3;

impl<A: ExecApi> ExecTransport<A> {
    /// Opens an interactive session, within the attempt's time. Returns it with its container's
    /// identity.
    async fn open(
        &self,
        target: &Target,
        command: &str,
    ) -> Result<(ExecTerminal, HostIdentity), ConnectError> {
        let (container, granted) =
            self.grant(target, command, None, &self.attempts(&target.task).notices).await?;
        let dialled =
            timeout(DIAL_WITHIN, socket::dial(&granted.session.url, &*self.api, &self.dialer))
                .await;
        let socket =
            dialled.map_err(|_| errors::too_slow_to_dial())?.map_err(|e| errors::dial(&e))?;
        let terminal = ExecTerminal::new(socket, granted, container.target, Arc::clone(&self.api));
        Ok((terminal, container.identity))
    }

    /// Opens a terminal with a command in a session of its own, beside the job's. No shell splits
    /// the command. The protocol reports no exit status.
    ///
    /// # Errors
    /// As [`crate::Connector::connect`]; also when the container has no free slot.
    pub async fn run(
        &self,
        target: &Target,
        command: &str,
        (columns, rows): (u32, u32),
    ) -> Result<ExecTerminal, ConnectError> {
        let (terminal, _) = self.in_time(target, self.open(target, command)).await?;
        Terminal::resize(&terminal, columns, rows)
            .await
            .map_err(|why| errors::boot(target, BootError::Lost(why), None))?;
        Ok(terminal)
    }

    async fn in_time<T>(
        &self,
        target: &Target,
        connects: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let connected = timeout(target.attempt_timeout, connects).await;
        let connected = connected.unwrap_or_else(|_| {
            Err(errors::too_slow(target, self.attempts(&target.task).notices.latest()))
        });
        connected.map_err(|mut e| {
            if e.kind == ConnectErrorKind::TimedOut {
                e.cause = ConnectCause::TerminalSlow;
            }
            e
        })
    }
}

#[async_trait]
impl<A: ExecApi> Interactive for ExecTransport<A> {
    async fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> Result<Box<dyn Terminal>, ConnectError> {
        let nonce = delivery::nonce();
        let terminal =
            self.run(target, &command(&screen.term, &nonce), (screen.columns, screen.rows)).await?;
        Ok(Box::new(LoginShell::new(terminal, &nonce)))
    }

    /// Runs it as a run of its own, whose files stay in the container.
    async fn command(
        &self,
        target: &Target,
        command: &str,
    ) -> Result<Box<dyn Command>, ConnectError> {
        let lost = |why: String| errors::boot(target, BootError::Lost(why), None);
        let boot = Boot::new();
        let booted = async {
            let (terminal, identity) = self.open(target, &boot.command()).await?;
            let end = terminal.end();
            let shell = TerminalShell::boot(terminal, &boot)
                .await
                .map_err(|e| errors::boot(target, e, end.get()))?;
            Ok((shell, identity))
        };
        let (shell, identity) = self.in_time(target, booted).await?;
        let (session, _) = Session::open(shell, identity, target).await?;
        let run = RunId::new(format!("command-{:016x}", rand::random::<u64>()))
            .map_err(|e| lost(e.to_string()))?;
        let order = RunOrder {
            run,
            stage: "command".to_owned(),
            forget: None,
            container: states::RunContainer::Coordinator,
        };
        let followed = session
            .start(&order, Bytes::from(command.to_owned()))
            .await
            .map_err(|e| lost(e.to_string()))?;
        Ok(Box::new(ExecCommand { order, followed, session }))
    }
}

/// A command without a terminal.
struct ExecCommand {
    order: RunOrder,
    followed: Followed,
    session: Session,
}

#[async_trait]
impl delivery::Channel for ExecCommand {
    /// Returns both outputs as one, in order.
    async fn next(&mut self) -> Chunk {
        loop {
            return match self.followed.next().await {
                Ok(RunEvent::Started | RunEvent::Measured(_)) => continue,
                Ok(RunEvent::Output(bytes)) => Chunk::Out(bytes),
                Ok(RunEvent::Exited { code, .. }) => {
                    Chunk::Ended { status: u32::try_from(code).ok() }
                }
                Err(e) => Chunk::Lost(e.to_string()),
            };
        }
    }
}

#[async_trait]
impl Command for ExecCommand {
    async fn end(&mut self) -> bool {
        self.session.signal(&self.order, Signal::Term).await.is_ok()
    }

    async fn close(self: Box<Self>) {
        drop(self.followed);
        self.session.close().await;
    }
}

/// Returns the command of a session that runs the user's shell on a terminal of type `term`, then
/// prints its exit status, marked by `nonce`.
///
/// The agent runs commands in the image's directory and with its HOME. The only quotes are the
/// outer two: see [`crate::delivery::terminal::Boot::command`]. Signals of keys are for the
/// programs in the shell.
fn command(term: &str, nonce: &str) -> String {
    let term: String =
        term.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.+".contains(*c)).collect();
    format!(
        "/bin/sh -c '[ -d \"$HOME\" ] || HOME=/root; export HOME TERM={term}; cd \"$HOME\" || cd /; trap : INT QUIT; \
         if command -v bash >/dev/null 2>&1; then bash -l; else /bin/sh -l; fi; printf \"\\036{nonce} %d\\036\" $?'"
    )
}

/// A terminal with a shell in it.
struct LoginShell {
    terminal: ExecTerminal,
    ending: Mutex<Ending>,
    status: OnceLock<u32>,
}

impl LoginShell {
    fn new(terminal: ExecTerminal, nonce: &str) -> Self {
        Self { terminal, ending: Mutex::new(Ending::new(nonce)), status: OnceLock::new() }
    }
}

#[async_trait]
impl Terminal for LoginShell {
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

    /// Hangs up on a running shell: no client could come back to it, and it would hold one of the
    /// container's slots.
    async fn close(&self) {
        self.terminal
            .leave(if self.status().is_some() { ENDS_WITHIN } else { Duration::ZERO })
            .await;
    }
}

/// Finds the shell's exit status in the terminal's output.
struct Ending {
    mark: Vec<u8>,
    /// Bytes that may be the beginning of the status.
    held: BytesMut,
}

impl Ending {
    fn new(nonce: &str) -> Self {
        let mut mark = vec![SEPARATOR];
        mark.extend_from_slice(nonce.as_bytes());
        mark.push(b' ');
        Self { mark, held: BytesMut::new() }
    }

    /// Returns the bytes to show, and the status once it has come, which is the end.
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
            let (bytes, found) = ending.pass(piece);
            shown.extend_from_slice(&bytes);
            status = status.or(found);
        }
        shown.extend_from_slice(&ending.rest());
        (shown, status)
    }

    #[test]
    fn the_status_is_found_at_any_split() {
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
    fn lookalikes_of_the_status_are_shown() {
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
    fn other_output_is_shown_at_once() {
        let mut ending = Ending::new("abc");
        assert_eq!(ending.pass(b"prompt$ ").0, "prompt$ ");
        assert_eq!(ending.pass(b"a\x1eb").0, "a\x1eb");
        assert_eq!(
            (ending.pass(b"c\x1eab").0, ending.pass(b"x").0),
            (Bytes::from("c"), Bytes::from("\x1eabx"))
        );
    }

    #[test]
    fn the_terminal_type_cannot_inject_a_command() {
        let command = command("x'; rm -rf / \"$(", "abc");
        assert_eq!(command.matches('\'').count(), 2);
        assert!(command.contains("TERM=xrm-rf;"), "{command}");
    }
}
