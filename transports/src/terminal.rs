//! Terminals in a container, as bytes.

use std::future::Future;

use bytes::Bytes;

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

    /// Waits shortly until what was written has arrived, then leaves.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
