//! Interactive access to containers: terminals as bytes, and commands without one.

use async_trait::async_trait;
use bytes::Bytes;
use states::{ConnectError, Target};

use crate::delivery;

/// A terminal with a command running in it. One task reads, any may write.
#[async_trait]
pub trait Terminal: Send + Sync + 'static {
    /// Sends input to the command. Returns once it is accepted for sending, in the order of the
    /// calls.
    ///
    /// # Errors
    /// When the connection is lost. Bytes that were accepted before may not have arrived.
    async fn write(&self, bytes: Bytes) -> Result<(), String>;

    /// Returns the next piece of output; `None` when the command has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is lost, or the other side ended the session, with its reason.
    async fn read(&self) -> Result<Option<Bytes>, String>;

    /// Sets the terminal's size, in characters.
    ///
    /// # Errors
    /// When the connection is lost.
    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String>;

    /// Returns the command's exit status, once [`Terminal::read`] has returned `None`; `None` if
    /// the other side does not report it.
    fn status(&self) -> Option<u32> {
        None
    }

    /// Waits a short time for written bytes to arrive, then closes the terminal.
    async fn close(&self);
}

/// A person's terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Its type, as in `TERM`.
    pub term: String,
    /// Columns, in characters.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// A command without a terminal.
#[async_trait]
pub trait Command: delivery::Channel {
    /// Asks the command to end. Returns whether the request surely arrives: then
    /// [`delivery::Channel::next`] returns its end.
    async fn end(&mut self) -> bool;

    /// Closes the connection or session.
    async fn close(self: Box<Self>);
}

/// Interactive access to a container, over a connection of its own beside the job's. Optional for a
/// transport.
#[async_trait]
pub trait Interactive: Send + Sync {
    /// Opens a terminal with the user's login shell.
    ///
    /// # Errors
    /// As [`crate::Connector::connect`]; also when the container refuses a terminal.
    async fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> Result<Box<dyn Terminal>, ConnectError>;

    /// Runs a command in the user's login shell, without a terminal and without input.
    ///
    /// # Errors
    /// As [`crate::Connector::connect`].
    async fn command(
        &self,
        target: &Target,
        command: &str,
    ) -> Result<Box<dyn Command>, ConnectError>;
}
