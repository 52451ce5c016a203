//! Messages over a socket.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::protocol::{Decoder, Message};

/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// The receiving half.
pub(super) struct Receiver {
    socket: OwnedReadHalf,
    decoder: Decoder,
}

/// The sending half.
pub(super) struct Sender(OwnedWriteHalf);

/// Splits a connection.
pub(super) fn split(stream: UnixStream) -> (Receiver, Sender) {
    let (read, write) = stream.into_split();
    (Receiver { socket: read, decoder: Decoder::default() }, Sender(write))
}

impl Receiver {
    /// Returns the next message; `None` if the other side has closed the connection. Cancel-safe.
    pub(super) async fn message<M: Message>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.decoder.message().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ);
            if self.socket.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

impl Sender {
    /// Sends a message.
    pub(super) async fn send(&mut self, message: &impl Message) -> io::Result<()> {
        self.0.write_all(&message.frame()).await
    }
}
