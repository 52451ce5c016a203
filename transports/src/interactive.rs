//! People in a container: terminals as bytes, and commands without one.

use async_trait::async_trait;
use bytes::Bytes;
use states::{ConnectError, Target};

use crate::delivery;

/// A terminal with a command running in it. One task reads, any may write.
#[async_trait]
pub trait Terminal: Send + Sync + 'static {
    /// Gives the command input. Returns once it is accepted for sending, in the order of the calls.
    ///
    /// # Errors
    /// When the connection is lost: what was accepted may not have arrived.
    async fn write(&self, bytes: Bytes) -> Result<(), String>;

    /// The next piece of what the command writes; `None` when it has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is lost, or the session was ended by the other side, which says why.
    async fn read(&self) -> Result<Option<Bytes>, String>;

    /// Tells the terminal's size, in characters.
    ///
    /// # Errors
    /// When the connection is lost.
    async fn resize(&self, columns: u32, rows: u32) -> Result<(), String>;

    /// The command's exit status, once [`Terminal::read`] has returned `None`; `None` where the
    /// other side does not tell.
    fn status(&self) -> Option<u32> {
        None
    }

    /// Waits shortly until what was written has arrived, then leaves.
    async fn close(&self);
}

/// A person's terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Its kind, as `TERM` has it.
    pub term: String,
    /// Columns, in characters.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// A command without a terminal.
#[async_trait]
pub trait Command: delivery::Channel {
    /// Asks the command to end. Whether it surely hears of it: then [`delivery::Channel::next`]
    /// tells its end.
    async fn end(&mut self) -> bool;

    /// Leaves, so that no connection or session stays open.
    async fn close(self: Box<Self>);
}

/// Lets people into a container, beside whatever runs there and over a connection of their own. A
/// transport may have it or not.
#[async_trait]
pub trait Interactive: Send + Sync {
    /// Opens a terminal with the user's login shell.
    ///
    /// # Errors
    /// As [`crate::Connector::connect`]; and when the container gives no terminal.
    async fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> Result<Box<dyn Terminal>, ConnectError>;

    /// Runs a command by the user's login shell, without a terminal and without input.
    ///
    /// # Errors
    /// As [`crate::Connector::connect`].
    async fn command(
        &self,
        target: &Target,
        command: &str,
    ) -> Result<Box<dyn Command>, ConnectError>;
}
