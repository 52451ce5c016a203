//! A terminal over SSH: `pty-req`, `shell`, `window-change` (RFC 4254, section 6).

use std::{sync::OnceLock, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Sig, client::Msg};
use states::{ConnectCause, ConnectError, ConnectErrorKind, Target};
use tokio::{sync::Mutex, time::timeout};

use super::{InputEnd, SshChannel, SshTransport, client, errors, watcher::CloseReason};
use crate::{
    delivery::{Channel, Chunk},
    interactive::{Command, Interactive, Screen, Terminal},
};

/// How long an orderly disconnect may take.
const DISCONNECT_WITHIN: Duration = Duration::from_millis(500);

/// A shell on a terminal in the container.
struct SshTerminal {
    connection: client::Handle,
    close_reason: CloseReason,
    read: Mutex<ChannelReadHalf>,
    write: ChannelWriteHalf<Msg>,
    status: OnceLock<u32>,
}

#[async_trait]
impl Interactive for SshTransport {
    async fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> Result<Box<dyn Terminal>, ConnectError> {
        let peer = client::Peer::of(target, &self.settings)?;
        let (shell, _) = self.enter(target).await?;
        let open = async {
            let channel = shell.handle.channel_open_session().await?;
            let (mut read, write) = channel.split();
            write.request_pty(true, &screen.term, screen.columns, screen.rows, 0, 0, &[]).await?;
            write.request_shell(true).await?;
            // Requests are answered in order (RFC 4254, section 5.4); output comes after.
            let granted = answered(&mut read).await && answered(&mut read).await;
            Ok::<_, russh::Error>(granted.then_some((read, write)))
        };
        match timeout(target.attempt_timeout, open).await {
            Err(_) => Err(errors::too_slow(peer.address, peer.port, "to open a terminal")),
            Ok(Err(e)) => Err(errors::handshake(peer.address, peer.port, &e)),
            Ok(Ok(None)) => Err(errors::error(
                ConnectErrorKind::Denied,
                ConnectCause::NoTerminal,
                format!("the SSH server at {} port {} refuses a terminal", peer.address, peer.port),
            )),
            Ok(Ok(Some((read, write)))) => Ok(Box::new(SshTerminal {
                connection: shell.handle,
                close_reason: shell.close_reason,
                read: Mutex::new(read),
                write,
                status: OnceLock::new(),
            })),
        }
    }

    async fn command(
        &self,
        target: &Target,
        command: &str,
    ) -> Result<Box<dyn Command>, ConnectError> {
        let (shell, _) = self.enter(target).await?;
        let channel = shell
            .run(command.to_owned(), Bytes::new(), InputEnd::AtOnce, false)
            .await
            .map_err(|e| {
                errors::error(
                    ConnectErrorKind::Interrupted,
                    ConnectCause::ServerClosed,
                    format!("the command could not be started: {e}"),
                )
            })?;
        Ok(Box::new(SshCommand { channel, connection: shell.handle }))
    }
}

/// Waits for the answer to a request. Returns whether it was granted.
async fn answered(read: &mut ChannelReadHalf) -> bool {
    loop {
        match read.wait().await {
            Some(ChannelMsg::Success) => return true,
            Some(ChannelMsg::Failure | ChannelMsg::Close) | None => return false,
            Some(_) => {}
        }
    }
}

#[async_trait]
impl Terminal for SshTerminal {
    async fn write(&self, bytes: Bytes) -> Result<(), String> {
        self.write.data_bytes(bytes).await.map_err(|e| self.why(e))
    }

    async fn read(&self) -> Result<Option<Bytes>, String> {
        let mut read = self.read.lock().await;
        loop {
            match read.wait().await {
                Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => {
                    return Ok(Some(data));
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    let _ = self.status.set(exit_status);
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    let _ = self.status.set(128 + number(&signal_name));
                }
                // Data may follow an exit status, never the end; a status may follow the end of
                // data.
                Some(ChannelMsg::Close) => return Ok(None),
                Some(_) => {}
                None if self.status.get().is_some() => return Ok(None),
                None => {
                    return Err(self
                        .close_reason
                        .get()
                        .cloned()
                        .unwrap_or_else(|| "the SSH connection ended".to_owned()));
                }
            }
        }
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        self.write.window_change(columns, rows, 0, 0).await.map_err(|e| self.why(e))
    }

    fn status(&self) -> Option<u32> {
        self.status.get().copied()
    }

    async fn close(&self) {
        let disconnect = async {
            let _ = self.write.close().await;
            let _ = self.connection.disconnect(Disconnect::ByApplication, "", "").await;
        };
        // The server notices the closed socket anyway.
        let _ = timeout(DISCONNECT_WITHIN, disconnect).await;
    }
}

impl SshTerminal {
    fn why(&self, e: russh::Error) -> String {
        self.close_reason.get().cloned().unwrap_or_else(|| errors::text(e))
    }
}

/// Returns a signal's number on Linux, as shells add it to `$?`.
fn number(signal: &Sig) -> u32 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => 0,
    }
}

/// A command in the container, over a connection of its own.
struct SshCommand {
    channel: SshChannel,
    connection: client::Handle,
}

#[async_trait]
impl Channel for SshCommand {
    async fn next(&mut self) -> Chunk {
        match self.channel.next().await {
            // The end of output may come before the status; the channel's close comes after both.
            Chunk::Ended { status: None } => match self.channel.next().await {
                Chunk::Lost(_) => Chunk::Ended { status: None },
                chunk => chunk,
            },
            chunk => chunk,
        }
    }
}

#[async_trait]
impl Command for SshCommand {
    async fn end(&mut self) -> bool {
        let _ = timeout(DISCONNECT_WITHIN, self.channel.signal(Sig::TERM)).await;
        // OpenSSH forwards no signals to root's commands, nor before 7.9 to other users', and
        // reports no error.
        false
    }

    async fn close(self: Box<Self>) {
        let _ = timeout(
            DISCONNECT_WITHIN,
            self.connection.disconnect(Disconnect::ByApplication, "", ""),
        )
        .await;
    }
}
