//! The log's lines: one event is one line, whatever its texts are, and a file has a limit of bytes
//! per second.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use states::{Timestamp, foreign_text};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// The longest line of text, in bytes; a longer one is cut.
const LONGEST: usize = 16 * 1024;

/// How many bytes a process may write to the file.
///
/// Containers and projects cause lines: one that connects and breaks off again and again fills a
/// disk without a rate. A job of an hour at `debug` writes some hundred KB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// At once.
    pub(super) burst: f64,
    /// From then on, per second.
    pub(super) sustained: f64,
}

impl Rate {
    /// What a process has at most levels.
    pub(super) const DEFAULT: Self = Self { burst: 1024.0 * 1024.0, sustained: 8.0 * 1024.0 };
    /// What a service has, which logs for all jobs of a manager.
    pub(super) const SERVICE: Self =
        Self { burst: 16.0 * 1024.0 * 1024.0, sustained: 256.0 * 1024.0 };
    /// What it has at `trace`, where libraries log every packet.
    pub(super) const TRACE: Self =
        Self { burst: 64.0 * 1024.0 * 1024.0, sustained: 512.0 * 1024.0 };
    /// What of the burst is left to errors, in bytes.
    const RESERVE: f64 = 64.0 * 1024.0;
}

/// Makes one line of each event: what breaks lines or steers terminals in it is replaced.
pub(super) struct Lines<W>(pub(super) W);

impl<W: Write> Write for Lines<W> {
    /// `event` is one event's text, with its line break: that is what `tracing_subscriber` writes
    /// at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(line(event, false).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn line(event: &[u8], may_cut: bool) -> String {
    let text = String::from_utf8_lossy(event);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text: Cow<'_, str> = match text.char_indices().find(|(at, c)| at + c.len_utf8() > LONGEST) {
        Some((end, _)) if may_cut => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    };
    foreign_text::tame(&text) + "\n"
}

/// A log file, to which other processes append as well.
pub(super) struct LogFile {
    file: File,
    format: LogFormat,
    rate: Rate,
    state: Mutex<Bucket>,
}

/// A token bucket; a token is a byte.
struct Bucket {
    tokens: f64,
    filled: Instant,
    dropped: u64,
}

impl LogFile {
    pub(super) fn new(file: File, format: LogFormat, rate: Rate) -> Self {
        Self {
            file,
            format,
            rate,
            state: Mutex::new(Bucket { tokens: rate.burst, filled: Instant::now(), dropped: 0 }),
        }
    }

    /// Says how many lines were dropped, if any were since it was last said.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut bucket = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut bucket.dropped) {
            0 => Ok(()),
            dropped => (&self.file).write_all(self.notice(dropped).as_bytes()),
        }
    }

    fn event(&self, event: &[u8], is_error: bool, now: Instant) -> io::Result<()> {
        let line = line(event, self.format == LogFormat::Text);
        let mut bucket = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * self.rate.sustained).min(self.rate.burst);
        bucket.filled = now;
        let notice = if bucket.dropped == 0 { String::new() } else { self.notice(bucket.dropped) };
        #[allow(clippy::cast_precision_loss, reason = "the length of a line")]
        let cost = (line.len() + notice.len()) as f64;
        if bucket.tokens < cost + if is_error { 0.0 } else { Rate::RESERVE } {
            bucket.dropped += 1;
            return Ok(());
        }
        bucket.tokens -= cost;
        bucket.dropped = 0;
        // One write: other processes append at the same time.
        (&self.file).write_all((notice + &line).as_bytes())
    }

    /// A line that says what is missing here.
    fn notice(&self, dropped: u64) -> String {
        let at = Timestamp::now();
        let message =
            format!("{dropped} lines dropped: this process logged more than the log's rate admits");
        match self.format {
            LogFormat::Text => format!("{at}  WARN {message}\n"),
            LogFormat::Json => {
                let line = serde_json::json!({
                    "timestamp": at.to_string(), "level": "WARN", "fields": { "message": message, "dropped": dropped }
                });
                format!("{line}\n")
            }
        }
    }
}

/// Writes one event.
pub(super) struct Event<'a> {
    log: &'a LogFile,
    is_error: bool,
}

impl Write for Event<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.log.event(event, self.is_error, Instant::now())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static LogFile {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { log: self, is_error: false }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Event<'a> {
        Event { log: self, is_error: *about.level() == Level::ERROR }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    const SMALL: Rate = Rate { burst: Rate::RESERVE + 1000.0, sustained: 100.0 };

    fn log(place: &tempfile::TempDir, format: LogFormat, rate: Rate) -> LogFile {
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(place.path().join("log"))
            .unwrap();
        LogFile::new(file, format, rate)
    }

    fn lines(place: &tempfile::TempDir) -> Vec<String> {
        fs::read_to_string(place.path().join("log")).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_exceeds_the_rate_is_dropped_and_counted() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let place = tempfile::tempdir().unwrap();
            let log = log(&place, format, SMALL);
            let start = Instant::now();
            let event = [&[b'x'; 99][..], b"\n"].concat();
            for _ in 0..5000 {
                log.event(&event, false, start).unwrap();
            }
            assert_eq!(lines(&place).len(), 10, "the burst");
            log.event(b"stage failed\n", true, start).unwrap();
            let said = lines(&place);
            assert!(
                said[10].contains("4990 lines dropped") && said[11] == "stage failed",
                "errors come through: {:?}",
                &said[10..]
            );
            if format == LogFormat::Json {
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&said[10]).unwrap()["fields"]["dropped"],
                    4990
                );
            }
            log.event(&event, false, start).unwrap();
            assert_eq!(lines(&place).len(), 12);
            log.event(&event, false, start + Duration::from_secs(10)).unwrap();
            let said = lines(&place);
            assert!(
                said.len() == 14
                    && said[12].contains("1 lines dropped")
                    && said[13].starts_with("xxx"),
                "{:?}",
                &said[12..]
            );
            for _ in 0..100 {
                log.event(&event, false, start + Duration::from_secs(10)).unwrap();
            }
            log.finish().unwrap();
            log.finish().unwrap();
            let said = lines(&place);
            assert!(said.last().unwrap().contains("lines dropped"), "{said:?}");
            assert_eq!(said.iter().filter(|line| line.contains("dropped")).count(), 3);
        }
    }

    #[test]
    fn even_errors_are_bounded() {
        let place = tempfile::tempdir().unwrap();
        let log = log(&place, LogFormat::Text, SMALL);
        let start = Instant::now();
        for _ in 0..100_000 {
            log.event(&[&[b'x'; 99][..], b"\n"].concat(), true, start).unwrap();
        }
        let size = fs::metadata(place.path().join("log")).unwrap().len();
        assert!(size <= 64 * 1024 + 1000, "{size}");
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        let place = tempfile::tempdir().unwrap();
        let log = log(&place, LogFormat::Text, Rate::DEFAULT);
        let hostile = format!(
            "a\r\n2026-11-25T00:00:00Z  INFO forged\u{1b}[2J\u{9b}31m\u{202e}{}\n",
            "é".repeat(100_000)
        );
        log.event(hostile.as_bytes(), false, Instant::now()).unwrap();
        let said = fs::read_to_string(place.path().join("log")).unwrap();
        assert_eq!(said.matches('\n').count(), 1);
        assert!(said.len() < LONGEST + 100 && said.ends_with("…\n"), "{} bytes", said.len());
        assert!(
            said.starts_with("a\u{fffd}\u{fffd}2026")
                && said.contains("forged\u{fffd}[2J\u{fffd}31m\u{fffd}é"),
            "{said:.100}"
        );
    }
}
