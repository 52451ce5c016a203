//! The jobs in `fixtures/stuck`, and their reports. The end-to-end tests use this, too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use diagnosis::Holder;
use replay::{
    Screen,
    baseline::Baseline,
    holder,
    show::{Report, last_seen},
};
use states::Snapshot;

/// The width of a wide terminal, in columns.
pub const WIDE: usize = 100;

/// Returns a file or folder of `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    // The crate's own folder, or the workspace's: this file is in tests of both.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|p| p.join("fixtures"));
    fixtures.into_iter().find(|path| path.is_dir()).unwrap().join(name)
}

/// Returns the names and the files of the jobs, in order.
pub fn stuck() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(fixture("stuck"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    assert!(found.len() >= 12, "{found:?}");
    found
}

/// Reads a snapshot.
pub fn read(path: &PathBuf) -> Snapshot {
    Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Reports on a fixture as on a copy. A silent script is reported as on its manager, after a while:
/// a copy does not show that a process still works on it.
pub fn report(name: &str, snapshot: Snapshot) -> Report {
    let (mut surroundings, mut now) = (holder::elsewhere(&snapshot), last_seen(&snapshot));
    if name == "script-silent" {
        surroundings.holder = Holder::Working("process 17 (run build_script)".to_owned());
        now = now + Duration::from_secs(20 * 60);
    }
    Report::new(snapshot, surroundings, Baseline::default(), now)
}

/// Returns the report as printed on a terminal of this width.
pub fn print(report: &Report, width: usize) -> String {
    let written = Written::default();
    report.print(&mut Screen::plain(written.clone(), width)).unwrap();
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Keeps what is written to a screen.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
