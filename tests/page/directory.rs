//! Metadata directories full of fixtures, and sources of them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use fargate_driver::service::source::{CallCount, DirectorySource, Pool, Source, View};
use replay::{Failure, Location, overview::Overview, show::Report, summary::Summary};
use states::DirectoryStore;

/// The fixtures: a job of each state, and one for each failure mode.
pub fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut files: Vec<PathBuf> = ["snapshots/v1", "stuck"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"))
        .collect();
    files.sort();
    files
}

/// Makes a directory of so many jobs, and of some finished ones if there are any.
pub fn directory(jobs: usize) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let fixtures = fixtures();
    assert!(fixtures.len() >= 25, "{}", fixtures.len());
    for (number, file) in fixtures.iter().cycle().take(jobs).enumerate() {
        fs::copy(file, place.path().join(format!("job-{number}.ron"))).unwrap();
    }
    if jobs > 0 {
        let archive = place.path().join("archive");
        fs::create_dir(&archive).unwrap();
        for file in fixtures.iter().filter(|file| file.parent().unwrap().ends_with("stuck")) {
            let name = file.file_stem().unwrap().to_str().unwrap();
            fs::copy(file, archive.join(format!("{name}.1764000000000.ron"))).unwrap();
        }
    }
    place
}

pub fn location(directory: &Path) -> Location {
    let store = DirectoryStore::look(directory).with_notes(Summary::note);
    Location { store, settings: None, manager: "runner-1".to_owned() }
}

pub fn source(directory: &Path) -> DirectorySource {
    DirectorySource::new(location(directory))
}

/// What the page shows of a directory.
pub fn view(directory: &Path) -> View {
    View::of(&source(directory)).unwrap()
}

/// A source whose answers a test sets.
pub struct Memory {
    pub view: Mutex<View>,
    pub health: Mutex<Result<(), String>>,
}

impl Memory {
    pub fn new(view: View) -> Arc<Self> {
        Arc::new(Self { view: Mutex::new(view), health: Mutex::new(Ok(())) })
    }
}

impl Source for Memory {
    fn manager(&self) -> String {
        "runner-1".to_owned()
    }

    fn overview(&self) -> Result<Arc<Overview>, Failure> {
        Ok(Arc::clone(&self.view.lock().unwrap().overview))
    }

    fn report(&self, _: &str) -> Result<Report, Failure> {
        Err(Failure::Other("no reports here".to_owned()))
    }

    fn health(&self) -> Result<(), String> {
        self.health.lock().unwrap().clone()
    }

    fn calls(&self) -> Vec<CallCount> {
        self.view.lock().unwrap().calls.clone()
    }

    fn pools(&self) -> Vec<Pool> {
        self.view.lock().unwrap().pools.clone()
    }
}

/// Calls and pools as a service has them.
pub fn calls_and_pools(view: &mut View) {
    view.calls = vec![CallCount {
        method: "ECS/DescribeTasks".to_owned(),
        calls: 100,
        last_minute: 12,
        last_quarter: 60,
        errors: vec![("ThrottlingException".to_owned(), 3)],
    }];
    view.pools = vec![Pool {
        name: "ci-job".to_owned(),
        wanted: 4,
        ready: 3,
        starting: 1,
        hits: 7,
        misses: 2,
        idle: std::time::Duration::from_secs(90),
        problem: Some("2 tasks did not start".to_owned()),
    }];
}
