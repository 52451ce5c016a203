//! What the protocol needs of a transport: commands with an input and two separate outputs.

use std::future::Future;

use bytes::Bytes;

use super::Command;

/// Runs commands in the container.
pub trait Exec: Send + Sync {
    /// A running command.
    type Channel: Channel;

    /// Runs `command` in the container and gives it `input`.
    ///
    /// The end of input follows at once, but for a command that [follows](Command::follows) a run:
    /// there it comes when the channel is dropped, or its connection is lost, and ends what the
    /// command left in the container. Where input cannot stay open, the transport has to end
    /// those processes in another way. The error says why the connection cannot be used any
    /// more.
    fn exec(
        &self,
        command: Command,
        input: Bytes,
    ) -> impl Future<Output = Result<Self::Channel, String>> + Send;
}

/// A running command's outputs.
pub trait Channel: Send + 'static {
    /// The next piece of what it says. Cancel-safe. Not called again after `Ended` or `Lost`.
    fn next(&mut self) -> impl Future<Output = Chunk> + Send;
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
