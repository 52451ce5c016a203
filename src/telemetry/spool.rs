//! `<job>.otlp` beside the snapshot: requests that could not be sent yet. The service has one such
//! file for all jobs.
//!
//! A file is a message of Protocol Buffers with one repeated field. So a part can be appended, and
//! of a torn file, what is before the tear can be read.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use prost::Message as _;
use states::private_file;

use crate::config::Signal;

/// Most bytes that are kept per job.
const MOST: usize = 1024 * 1024;
/// Most bytes that the service keeps. All of it is one request, and gRPC's servers take 4 MiB by
/// default.
const MOST_OF_SERVICE: usize = 3 * MOST;

#[derive(Clone, PartialEq, prost::Message)]
struct Spool {
    #[prost(message, repeated, tag = "1")]
    requests: Vec<Spooled>,
}

/// A request of a signal.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Spooled {
    /// The signal's number in [`Signal::ALL`].
    #[prost(uint32, tag = "1")]
    signal: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) request: Vec<u8>,
}

impl Spooled {
    pub(super) fn new(signal: Signal, request: Vec<u8>) -> Self {
        Self { signal: signal as u32, request }
    }

    pub(super) fn is_of(&self, signal: Signal) -> bool {
        self.signal == signal as u32
    }
}

/// Reads the spooled requests. A torn end is skipped.
pub(super) fn read(path: &Path) -> Vec<Spooled> {
    let bytes = private_file::read_up_to(path, 2 * MOST_OF_SERVICE as u64).unwrap_or_default();
    let mut spool = Spool::default();
    // What is before an error has been read.
    let _ = spool.merge(&*bytes);
    spool.requests
}

/// Moves the requests of a job to another spool. Returns whether they are there. A process that is
/// killed in between leaves them in both, so that they may be sent twice.
pub(super) fn absorb(into: &Path, job: &Path) -> bool {
    let requests = read(job);
    if requests.is_empty() {
        return true;
    }
    let moved = private_file::append(into, &Spool { requests }.encode_to_vec());
    if let Err(e) = moved.and_then(|()| private_file::remove(job)) {
        tracing::debug!("{} cannot be moved to {}: {e}", job.display(), into.display());
        return false;
    }
    true
}

/// Replaces the first `tried` requests of the spool by what is still unsent, the oldest first.
/// Returns how many requests did not fit: the oldest.
pub(super) fn settle(path: &Path, tried: usize, unsent: Vec<Spooled>, of_service: bool) -> usize {
    let since = read(path).into_iter().skip(tried);
    let mut spool = Spool { requests: unsent.into_iter().chain(since).collect() };
    let (count, most) = (spool.requests.len(), if of_service { MOST_OF_SERVICE } else { MOST });
    while spool.encoded_len() > most {
        spool.requests.remove(0);
    }
    let written = match spool.requests.len() {
        0 => private_file::remove(path),
        _ => write(path, &spool.encode_to_vec()),
    };
    if let Err(e) = written {
        tracing::debug!("{} cannot be written: {e}", path.display());
        return count;
    }
    count - spool.requests.len()
}

/// Writes a new file and renames it, so that a killed process leaves the old or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("otlp.new");
    private_file::create_new(&beside)?.write_all(bytes)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn requests<const N: usize>(bytes: [u8; N], length: usize) -> [Spooled; N] {
        bytes.map(|byte| Spooled::new(Signal::Logs, vec![byte; length]))
    }

    #[test]
    fn spooled_requests_round_trip_in_a_private_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job.otlp");
        let both = [Spooled::new(Signal::Traces, vec![1, 2]), Spooled::new(Signal::Logs, vec![3])];
        assert_eq!(settle(&path, 0, both.to_vec(), false), 0);
        let read_again = read(&path);
        assert_eq!(read_again, both);
        assert!(read_again[0].is_of(Signal::Traces) && !read_again[1].is_of(Signal::Traces));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(settle(&path, 2, Vec::new(), false), 0);
        assert!(!path.exists());
    }

    #[test]
    fn the_service_takes_over_what_jobs_could_not_send() {
        let directory = tempfile::tempdir().unwrap();
        let [service, one, two] = ["s", "a", "b"].map(|name| directory.path().join(name));
        let [first, second, third] = requests([1, 2, 3], 9);
        settle(&one, 0, vec![first.clone()], false);
        settle(&two, 0, vec![second.clone()], false);
        assert!(absorb(&service, &one) && absorb(&service, &directory.path().join("none")));
        assert_eq!(read(&service), std::slice::from_ref(&first));
        // While they are sent, another job's are added.
        assert!(absorb(&service, &two) && !one.exists() && !two.exists());
        assert_eq!(settle(&service, 1, vec![first.clone(), third.clone()], true), 0);
        assert_eq!(read(&service), [first, third, second]);
        assert_eq!(settle(&service, 3, Vec::new(), true), 0);
        assert!(!service.exists());
        let large = requests([0, 1, 2, 3], MOST).to_vec();
        assert_eq!(settle(&service, 0, large, true), 2, "the oldest are dropped");
        assert_eq!(read(&service)[0].request[0], 2);
    }

    #[test]
    fn the_spool_is_bounded_and_survives_a_torn_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job.otlp");
        assert_eq!(settle(&path, 0, requests([0, 1], 600_000).to_vec(), false), 1);
        let torn = Spool { requests: requests([2], 9).to_vec() }.encode_to_vec();
        private_file::append(&path, &torn[..torn.len() - 3]).unwrap();
        assert_eq!(read(&path), requests([1], 600_000));
    }
}
