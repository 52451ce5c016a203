//! Work on jobs that no stage waits for.

use std::io;

use bytes::Bytes;
use states::{JobIo, Note};

/// The channel of such work, with its purpose: it discards output, and is never cancelled.
pub(crate) struct Background(pub(crate) &'static str);

impl JobIo for Background {
    async fn output(&mut self, bytes: Bytes) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn note(&mut self, note: Note<'_>) {
        tracing::debug!(?note, "{}", self.0);
    }

    async fn cancelled(&mut self) {
        std::future::pending().await
    }
}
