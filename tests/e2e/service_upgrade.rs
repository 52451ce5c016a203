//! The driver is replaced while jobs run: the service and the stages' processes have different
//! versions for some time, in both directions.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    eventually,
    parametrised::by_every_transport,
    runner::{Alone, BUILD_FAILURE, Job},
    serve::Service,
};

by_every_transport!(
    twenty_jobs_survive_an_upgrade_and_a_downgrade
        (not by pipes: "the versions are the same by every transport"),
);

/// Jobs at once. Each is followed by another one until both changes are made.
const AT_ONCE: usize = 20;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Returns the driver's version with another last digit.
fn other_version() -> String {
    let (before, digit) = VERSION.split_at(VERSION.len() - 1);
    format!("{before}{}", (digit.parse::<u8>().unwrap() + 1) % 10)
}

/// Makes a driver of another version: a copy that has another version's text.
fn other_driver(directory: &Path) -> PathBuf {
    let path = directory.join("fargate-of-another-version");
    let mut program = fs::read(env!("CARGO_BIN_EXE_fargate")).unwrap();
    let (own, other) = (VERSION.as_bytes(), other_version());
    let mut at = 0;
    while let Some(found) = program[at..].iter().position(|byte| *byte == own[0]) {
        at += found;
        if program[at..].starts_with(own) {
            program[at..at + own.len()].copy_from_slice(other.as_bytes());
        }
        at += 1;
    }
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Other threads start processes, which have the file open for writing until they execute theirs.
    let mut said = String::new();
    eventually("it can be executed", || match Command::new(&path).arg("--version").output() {
        Ok(output) => {
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ExecutableFileBusy);
            false
        }
    });
    assert!(said.contains(&other_version()), "{said}");
    path
}

fn twenty_jobs_survive_an_upgrade_and_a_downgrade(cluster: &Cluster) {
    let manager = Job::on(cluster).alone(Alone::HasOwnService);
    let mut upgraded = manager.beside(cluster);
    upgraded.binary = other_driver(&manager.path("."));
    // gitlab-runner calls what is installed at the moment.
    let installed = Mutex::new(manager.binary.clone());
    let (is_over, jobs) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut service = Service::start(&manager);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    a_job(manager.beside(cluster), &installed);
                    jobs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also if a check fails.
        let _over = Over(&is_over);
        let lines = |what: &str| manager.log().matches(what).count();
        // As many more stages as there are jobs.
        let stages = |what: &str| {
            let before = lines(what);
            eventually(what, || lines(what) >= before + AT_ONCE);
        };
        for driver in [&upgraded, &manager] {
            stages("hosted by the service");
            // The service is older than the stages' processes, then newer.
            installed.lock().unwrap().clone_from(&driver.binary);
            stages("restart the service. This process does the stage itself");
            service.signal(Signal::TERM);
            assert!(service.process.wait().unwrap().success());
            service = Service::start(driver);
        }
        stages("hosted by the service");
    });
    assert!(jobs.load(Ordering::Relaxed) >= AT_ONCE);
    cluster.assert_nothing_is_left(jobs.into_inner());
}

/// Lets the jobs end when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A whole job, each stage by the driver that is installed then.
fn a_job(mut job: Job, installed: &Mutex<PathBuf>) {
    let install = |job: &mut Job| job.binary.clone_from(&installed.lock().unwrap());
    install(&mut job);
    job.prepare();
    let ledger = job.path("ledger");
    for (stage, code) in [("get_sources", 0), ("build_script", 7), ("after_script", 0)] {
        install(&mut job);
        let script = format!(
            "echo {stage} >>'{}'; for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; exit {code}",
            ledger.display()
        );
        let run = job.run(stage, script);
        assert_eq!(
            (run.code, String::from_utf8_lossy(&run.stdout).as_ref()),
            (if code == 0 { 0 } else { BUILD_FAILURE }, "1\n2\n3\n4\n5\n"),
            "{stage}: {run:#?}"
        );
    }
    assert_eq!(fs::read_to_string(&ledger).unwrap(), "get_sources\nbuild_script\nafter_script\n");
    install(&mut job);
    job.cleanup();
}
