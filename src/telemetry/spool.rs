//! `<job>.otlp` beside the snapshot: requests that could not be sent yet. `<signal, one byte>
//! <length, four bytes> <request>`, again and again.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use states::private_file;

use super::settings::Signal;

/// Most bytes that are kept per job.
const MOST: usize = 1024 * 1024;

/// Reads the spooled requests. A torn end and malformed entries are skipped.
pub(super) fn read(path: &Path) -> Vec<(Signal, Vec<u8>)> {
    let mut requests = Vec::new();
    let bytes = private_file::read_up_to(path, 2 * MOST as u64).unwrap_or_default();
    let mut rest = bytes.as_slice();
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
pub(super) fn replace(path: &Path, requests: &[(Signal, Vec<u8>)]) -> usize {
    let (mut bytes, mut left_out) = (Vec::new(), 0);
    for (signal, request) in requests {
        match u32::try_from(request.len()) {
            Ok(length) if bytes.len() + 5 + request.len() <= MOST => {
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
    let written = if bytes.is_empty() { remove(path) } else { write(path, &bytes) };
    if let Err(e) = written {
        tracing::debug!("{} cannot be written: {e}", path.display());
        return requests.len();
    }
    left_out
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
