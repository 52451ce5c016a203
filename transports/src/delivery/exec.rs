//! What the protocol needs of a transport: commands with an input and two separate outputs.

use async_trait::async_trait;
use bytes::Bytes;

use super::Command;

/// Runs commands in the container, over one connection.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Runs `command` in the container and gives it `input`.
    ///
    /// The end of input follows at once, but for a command that [follows](Command::follows) a run:
    /// there it comes when the channel is dropped, or its connection is lost, and ends what the
    /// command left in the container. Where input cannot stay open, the transport has to end
    /// those processes in another way. The error says why the connection cannot be used any
    /// more.
    async fn exec(&self, command: Command, input: Bytes) -> Result<Box<dyn Channel>, String>;

    /// Ends the connection politely, as far as that is quick. Dropping it is enough otherwise.
    async fn close(self: Box<Self>) {}
}

/// A running command's outputs.
#[async_trait]
pub trait Channel: Send {
    /// The next piece of what it says. Cancel-safe. Not called again after `Ended` or `Lost`.
    async fn next(&mut self) -> Chunk;
}

/// A piece of what a command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of its stdout.
    Out(Bytes),
    /// Bytes of its stderr.
    Err(Bytes),
    /// Both outputs ended, in order.
    Ended {
        /// Its exit status, if the other side told.
        status: Option<u32>,
    },
    /// The connection ended.
    Lost(String),
}
