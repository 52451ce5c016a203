//! `<job>.otlp` beside the snapshot: requests that could not be sent yet. `<signal, one byte>
//! <length, four bytes> <request>`, again and again. The service has one for all jobs.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use states::private_file;

use super::settings::Signal;

/// Most bytes that are kept per job.
const MOST: usize = 1024 * 1024;
/// Most bytes that the service keeps. All of it is one request, and gRPC's servers take 4 MiB by
/// default.
const MOST_OF_SERVICE: usize = 3 * MOST;
/// A request's signal and length.
const HEAD: usize = 5;

/// A request of a signal.
pub(super) type Spooled = (Signal, Vec<u8>);

/// Reads the spooled requests. A torn end and malformed entries are skipped.
pub(super) fn read(path: &Path) -> Vec<Spooled> {
    parse(&bytes_of(path))
}

/// Reads the service's spool, and how many bytes it has.
pub(super) fn read_measured(path: &Path) -> (Vec<Spooled>, usize) {
    let bytes = bytes_of(path);
    (parse(&bytes), bytes.len())
}

/// Moves the requests of a job to the service's spool. Returns whether they are there. A service
/// that is killed in between leaves them in both, so that they may be sent twice.
pub(super) fn absorb(service: &Path, job: &Path) -> bool {
    let requests = read(job);
    if requests.is_empty() {
        return true;
    }
    let moved =
        private_file::append(service, &encode(&requests, MOST).0).and_then(|()| remove(job));
    if let Err(e) = &moved {
        tracing::debug!("{} cannot be moved to {}: {e}", job.display(), service.display());
    }
    moved.is_ok()
}

/// Replaces the first `measured` bytes of the service's spool by what is still unsent, the oldest
/// first. Returns how many requests did not fit: the oldest.
pub(super) fn settle(path: &Path, measured: usize, unsent: Vec<Spooled>) -> usize {
    let since = bytes_of(path).get(measured..).map(parse).unwrap_or_default();
    let mut requests = [unsent, since].concat();
    let mut size: usize = requests.iter().map(|(_, request)| HEAD + request.len()).sum();
    let mut left_out = 0;
    while size > MOST_OF_SERVICE {
        size -= HEAD + requests.remove(0).1.len();
        left_out += 1;
    }
    left_out + write_all(path, &encode(&requests, MOST_OF_SERVICE).0, requests.len())
}

fn bytes_of(path: &Path) -> Vec<u8> {
    private_file::read_up_to(path, 2 * MOST_OF_SERVICE as u64).unwrap_or_default()
}

fn parse(mut rest: &[u8]) -> Vec<Spooled> {
    let mut requests = Vec::new();
    while let [kind, a, b, c, d, more @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (Some(signal), Some(request)) =
            (Signal::ALL.get(usize::from(*kind)), more.get(..length))
        else {
            break;
        };
        requests.push((*signal, request.to_vec()));
        rest = &more[length..];
    }
    requests
}

/// Replaces the spooled requests. Returns how many did not fit.
pub(super) fn replace(path: &Path, requests: &[Spooled]) -> usize {
    let (bytes, left_out) = encode(requests, MOST);
    left_out + write_all(path, &bytes, requests.len() - left_out)
}

/// Returns the content of a file with these requests, and how many did not fit.
fn encode(requests: &[Spooled], most: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut left_out) = (Vec::new(), 0);
    for (signal, request) in requests {
        match u32::try_from(request.len()) {
            Ok(length) if bytes.len() + HEAD + request.len() <= most => {
                bytes.push(
                    Signal::ALL
                        .iter()
                        .position(|of| of == signal)
                        .and_then(|n| u8::try_from(n).ok())
                        .unwrap_or(0),
                );
                bytes.extend(length.to_be_bytes());
                bytes.extend(request);
            }
            _ => left_out += 1,
        }
    }
    (bytes, left_out)
}

/// Writes the file, or removes it if there is nothing. Returns how many of the requests are lost.
fn write_all(path: &Path, bytes: &[u8], requests: usize) -> usize {
    let written = if bytes.is_empty() { remove(path) } else { write(path, bytes) };
    if let Err(e) = written {
        tracing::debug!("{} cannot be written: {e}", path.display());
        return requests;
    }
    0
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
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

    #[test]
    fn spooled_requests_round_trip_in_a_private_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job.otlp");
        let requests = [(Signal::Traces, vec![1, 2]), (Signal::Logs, vec![3])];
        assert_eq!(replace(&path, &requests), 0);
        assert_eq!(read(&path), requests);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(replace(&path, &[]), 0);
        assert!(!path.exists());
    }

    #[test]
    fn the_service_takes_over_what_jobs_could_not_send() {
        let directory = tempfile::tempdir().unwrap();
        let [service, one, two] = ["s", "a", "b"].map(|name| directory.path().join(name));
        let [first, second, third] = [1, 2, 3].map(|byte| (Signal::Traces, vec![byte; 9]));
        replace(&one, std::slice::from_ref(&first));
        replace(&two, std::slice::from_ref(&second));
        assert!(absorb(&service, &one) && absorb(&service, &directory.path().join("none")));
        let (requests, measured) = read_measured(&service);
        assert_eq!(requests, std::slice::from_ref(&first));
        // While they are sent, another job's are added.
        assert!(absorb(&service, &two) && !one.exists() && !two.exists());
        assert_eq!(settle(&service, measured, vec![first.clone(), third.clone()]), 0);
        let (requests, measured) = read_measured(&service);
        assert_eq!(requests, [first, third, second]);
        assert_eq!(settle(&service, measured, Vec::new()), 0);
        assert!(!service.exists());
        let large = (0..4).map(|n| (Signal::Logs, vec![n; MOST])).collect();
        assert_eq!(settle(&service, 0, large), 2, "the oldest are dropped");
        assert_eq!(read(&service)[0].1[0], 2);
    }

    #[test]
    fn the_spool_is_bounded_and_survives_a_torn_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job.otlp");
        assert_eq!(
            replace(
                &path,
                &[(Signal::Traces, vec![0; 600_000]), (Signal::Metrics, vec![0; 600_000])]
            ),
            1
        );
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, [&bytes[..], &[1, 0, 0]].concat()).unwrap();
        assert_eq!(read(&path).len(), 1);
    }
}
