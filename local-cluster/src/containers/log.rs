//! The output of a container's main process.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use crate::clock::unix_millis;

/// Most lines that are kept; older ones are lost.
const LINES: usize = 10_000;
/// Most bytes that are kept.
const BYTES: usize = 4 * 1024 * 1024;
/// Longest line, in bytes: a longer one is several (CloudWatch Logs: 256 KiB for an event).
const LONGEST: usize = 16 * 1024;

/// A line of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// In milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) text: String,
}

/// A container's output, by lines.
#[derive(Debug, Default)]
pub(crate) struct Log {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    /// The length of all lines.
    bytes: usize,
    /// The line whose end has not come.
    partial: Vec<u8>,
}

impl Log {
    /// Reads a pipe until all its writers have closed it.
    pub(super) async fn read(&self, mut from: pipe::Receiver) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(size) => self.append(&buffer[..size]),
            }
        }
        let mut kept = self.kept();
        if !kept.partial.is_empty() {
            kept.end_line();
        }
    }

    fn append(&self, bytes: &[u8]) {
        let mut kept = self.kept();
        for byte in bytes {
            if *byte == b'\n' {
                kept.end_line();
            } else {
                kept.partial.push(*byte);
                if kept.partial.len() == LONGEST {
                    kept.end_line();
                }
            }
        }
    }

    /// Returns the lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.kept().lines.iter().cloned().collect()
    }

    /// Returns the last lines' text.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let kept = self.kept();
        let skipped = kept.lines.len().saturating_sub(count);
        kept.lines.iter().skip(skipped).map(|line| line.text.clone()).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.partial).trim_end_matches('\r').to_owned();
        self.bytes += text.len();
        self.lines.push_back(Line { at_ms: unix_millis(), text });
        self.partial.clear();
        while self.lines.len() > LINES || self.bytes > BYTES {
            let oldest = self.lines.pop_front();
            self.bytes -= oldest.map_or(self.bytes, |line| line.text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_by_lines_within_bounds() {
        let log = Log::default();
        log.append(b"one\r\ntw");
        log.append(b"o\n\nrest");
        assert_eq!(log.last(9), ["one", "two", ""]);
        assert_eq!(log.last(1), [""]);
        log.append(&vec![b'x'; LONGEST]);
        assert_eq!(log.last(2).iter().map(String::len).collect::<Vec<_>>(), [0, LONGEST]);
        log.append(&b"\n".repeat(2 * LINES));
        assert_eq!(log.lines().len(), LINES);
        log.append(&vec![b'y'; 2 * BYTES]);
        assert_eq!(log.lines().len(), BYTES / LONGEST);
    }
}
