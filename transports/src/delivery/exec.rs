//! The interface between the protocol and a transport: commands with an input and two separate
//! outputs.

use async_trait::async_trait;
use bytes::Bytes;

use super::Command;

/// Runs commands in the container, over one connection.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Runs `command` in the container and gives it `input`.
    ///
    /// Input ends at once, except for a command that [follows](Command::follows) a run. There it
    /// ends when the channel is dropped or the connection is lost, and the command's processes end
    /// with it. A transport that cannot keep input open has to end them in another way. The error
    /// says why the connection cannot be used any more.
    async fn exec(&self, command: Command, input: Bytes) -> Result<Box<dyn Channel>, String>;

    /// Whether the connection has not ended, as far as that is known here.
    fn is_open(&self) -> bool {
        true
    }

    /// Whether the connection still works. May wait for the other side's answer.
    async fn answers(&self) -> bool {
        true
    }

    /// Whether commands have channels of their own, to which input can be sent later
    /// ([`Channel::send`]). A standby is such a command.
    fn sends_later(&self) -> bool {
        false
    }

    /// Ends the connection politely, as far as that is quick. Dropping it is enough otherwise.
    async fn close(self: Box<Self>) {}
}

/// A running command's outputs.
#[async_trait]
pub trait Channel: Send {
    /// Returns the next piece of output. Cancel-safe. Not called again after `Ended` or `Lost`.
    async fn next(&mut self) -> Chunk;

    /// Sends more input to a command that [follows](Command::follows) a run, or takes orders. The
    /// error says why the channel cannot be used any more. If this future is dropped, a part may
    /// have been sent.
    async fn send(&mut self, input: Bytes) -> Result<(), String> {
        let _ = input;
        Err("this transport sends input only with a command".to_owned())
    }
}

/// A piece of a command's output, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of its stdout.
    Out(Bytes),
    /// Bytes of its stderr.
    Err(Bytes),
    /// Both outputs ended, in order.
    Ended {
        /// Its exit status, if the other side reported it.
        status: Option<u32>,
    },
    /// The connection ended.
    Lost(String),
}
