//! Terminals in a container, as bytes.

use std::future::Future;

use bytes::Bytes;
use states::{ConnectError, Target, Transport};

use crate::delivery;

/// A terminal with a command running in it. One task reads, any may write.
pub trait Terminal: Send + Sync + 'static {
    /// Gives the command input. Returns once it is accepted for sending, in the order of the calls.
    ///
    /// # Errors
    /// When the connection is lost: what was accepted may not have arrived.
    fn write(&self, bytes: Bytes) -> impl Future<Output = Result<(), String>> + Send;

    /// The next piece of what the command writes; `None` when it has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is lost, or the session was ended by the other side, which says why.
    fn read(&self) -> impl Future<Output = Result<Option<Bytes>, String>> + Send;

    /// Tells the terminal's size, in characters.
    ///
    /// # Errors
    /// When the connection is lost.
    fn resize(&self, columns: u32, rows: u32) -> impl Future<Output = Result<(), String>> + Send;

    /// The command's exit status, once [`Terminal::read`] has returned `None`; `None` where the
    /// other side does not tell.
    fn status(&self) -> Option<u32> {
        None
    }

    /// Waits shortly until what was written has arrived, then leaves.
    fn close(&self) -> impl Future<Output = ()> + Send;
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
pub trait Command: delivery::Channel {
    /// Asks the command to end. Whether it surely hears of it: then [`delivery::Channel::next`]
    /// tells its end.
    fn end(&mut self) -> impl Future<Output = bool> + Send;

    /// Leaves, so that no connection or session stays open.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Lets people into a container, beside whatever runs there and over a connection of their own.
pub trait Visit: Transport {
    /// A terminal with a shell in it.
    type Terminal: Terminal;
    /// A command without a terminal.
    type Command: Command;

    /// Opens a terminal with the user's login shell.
    ///
    /// # Errors
    /// As [`Transport::connect`]; and when the container gives no terminal.
    fn terminal(
        &self,
        target: &Target,
        screen: &Screen,
    ) -> impl Future<Output = Result<Self::Terminal, ConnectError>> + Send;

    /// Runs a command by the user's login shell, without a terminal and without input.
    ///
    /// # Errors
    /// As [`Transport::connect`].
    fn command(
        &self,
        target: &Target,
        command: &str,
    ) -> impl Future<Output = Result<Self::Command, ConnectError>> + Send;
}
