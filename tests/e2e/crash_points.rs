//! Kills the driver at every crash point of a whole job. By strace, it dies at each system call
//! with an outside effect, one after the other. Then the job continues as under gitlab-runner.
//!
//! SIGKILL comes when the call is entered, before it is executed. So a kill at one call tests the
//! effects of the previous one. strace counts each system call separately (the first `write`, the
//! second `write` …). For every stage and every call of the list, N counts up until the stage ends
//! unkilled, so no point is left out. `openat` is not in the list, because certificates and
//! libraries are opened by the hundred. A new file is covered by the first write to it, which is in
//! the list.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    cluster::Cluster,
    crash_job::{Killed, Run, Stage},
    parametrised::by_every_transport,
    runner::{Job, SYSTEM_FAILURE, is_through_service},
};

/// Changes of files, network traffic (API and SSH), output, and the exit.
const CALLS: [&str; 14] = [
    "write",
    "recvfrom",
    "sendto",
    "writev",
    "pwrite64",
    "connect",
    "rename",
    "fsync",
    "fdatasync",
    "unlink",
    "mkdir",
    "flock",
    "ftruncate",
    "exit_group",
];
/// How many jobs run at once: most of their time they wait for tasks.
const AT_ONCE: usize = 12;
/// After this many points in a row that a stage does not reach, it has no more. The number of calls
/// differs a little from run to run.
const UNREACHED: usize = 2;

/// The longest stages come first.
const ALL: [Killed; 7] = [
    Killed::PrepareBeside,
    Killed::PrepareCleanedUp,
    Killed::PrepareAgain,
    Killed::RetriedStage,
    Killed::FailingStage,
    Killed::Cleanup,
    Killed::Config,
];

/// Runs a stage under strace, which kills it at the `n`th such call.
fn traced(job: &Job, arguments: &[&str], call: &str, n: usize) -> Stage {
    let trace = job.path("trace");
    let (all, inject) =
        (format!("trace={}", CALLS.join(",")), format!("inject={call}:signal=SIGKILL:when={n}"));
    let mut command = job.command_under(
        &["strace", "-f", "-qq", "-o", &trace.display().to_string(), "-e", &all, "-e", &inject],
        arguments,
    );
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let killed = output.status.signal() == Some(9);
    let text = fs::read_to_string(&trace).unwrap();
    let calls: Vec<&str> = text.lines().filter(|line| !line.contains("+++")).collect();
    let mut threads: Vec<&str> =
        calls.iter().filter_map(|line| line.split_whitespace().next()).collect();
    threads.dedup();
    assert_eq!(
        threads.len(),
        1,
        "strace counts calls by thread: another one would hide points: {text}"
    );
    let name = |line: &&str| {
        line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(&format!("{call}(")))
    };
    assert!(
        !killed || calls.last().is_some_and(name),
        "killed elsewhere than at {call} {n}: {text}"
    );
    assert!(
        !killed || calls.iter().filter(|line| name(line)).count() == n,
        "not killed at {call} {n}: {text}"
    );
    Stage { ended: job.ended(output), killed, at: format!("{call} {n}") }
}

/// The next point to try, over all stages.
#[derive(Default)]
struct Progress {
    /// Stage and call → the last number tried, and how many were not reached.
    tried: BTreeMap<(usize, usize), (usize, usize)>,
    /// Stage and call → how many jobs try it. More than the two that may miss would be a waste.
    at_it: BTreeMap<(usize, usize), usize>,
    calls: BTreeMap<&'static str, usize>,
    points: BTreeMap<Killed, usize>,
    repeated: usize,
    failures: Vec<String>,
}

impl Progress {
    fn is_done(&self) -> bool {
        let finished =
            |at| self.tried.get(&at).is_some_and(|(_, unreached)| *unreached >= UNREACHED);
        (0..ALL.len()).all(|stage| (0..CALLS.len()).all(|call| finished((stage, call))))
    }

    /// The next stage, call and number.
    fn next(&mut self) -> Option<(usize, usize, usize)> {
        let open = |at: &(usize, usize)| {
            let unreached = self.tried.get(at).map_or(0, |(_, unreached)| *unreached);
            unreached + self.at_it.get(at).copied().unwrap_or_default() < UNREACHED
        };
        let (stage, call) = (0..ALL.len())
            .flat_map(|stage| (0..CALLS.len()).map(move |call| (stage, call)))
            .find(open)?;
        let (number, _) = self.tried.entry((stage, call)).or_default();
        *number += 1;
        *self.at_it.entry((stage, call)).or_default() += 1;
        Some((stage, call, *number))
    }
}

by_every_transport!(
    #[ignore = "needs strace: scripts/test installs it and runs this"]
    every_crash_point
        (not by pipes: "strace would count the calls of the container's processes too"),
    cleanup_stops_the_task_of_a_torn_snapshot_and_keeps_the_file,
);

mod every_crash_point_with_an_image {
    #[test]
    #[ignore = "needs strace, root and the root file systems of scripts/root-filesystems: scripts/test makes them and runs this"]
    fn by_ssh() {
        super::every_point(&crate::images::cluster("ssh"), |cluster| {
            super::Run::with_image(cluster)
        });
    }

    #[test]
    #[ignore = "needs strace, root and the root file systems of scripts/root-filesystems: scripts/test makes them and runs this"]
    fn by_ecs_exec() {
        super::every_point(&crate::images::cluster("ecs-exec"), |cluster| {
            super::Run::with_image(cluster)
        });
    }
}

fn every_crash_point(cluster: &Cluster) {
    every_point(cluster, |cluster| Run::new(cluster));
}

fn every_point(cluster: &Cluster, job: for<'a> fn(&'a Cluster) -> Run<'a>) {
    let began = Instant::now();
    let progress = Mutex::new(Progress::default());
    let runs = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = progress.lock().unwrap().next();
                    let Some((stage, call, n)) = next else {
                        if progress.lock().unwrap().is_done() {
                            break;
                        }
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        continue;
                    };
                    runs.fetch_add(1, Ordering::Relaxed);
                    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let (call, between) = (CALLS[call], CALLS[call] == "pwrite64");
                        job(cluster).point(ALL[stage], between, |job, arguments| {
                            traced(job, arguments, call, n)
                        })
                    }));
                    let mut progress = progress.lock().unwrap();
                    *progress.at_it.entry((stage, call)).or_default() -= 1;
                    match tried {
                        Ok(point) if point.killed => {
                            *progress.points.entry(ALL[stage]).or_default() += 1;
                            *progress.calls.entry(CALLS[call]).or_default() += 1;
                            progress.repeated += usize::from(point.repeated > 0);
                        }
                        Ok(_) => progress.tried.entry((stage, call)).or_default().1 += 1,
                        Err(panic) => {
                            let why = panic
                                .downcast_ref::<String>()
                                .cloned()
                                .unwrap_or_else(|| "it panicked".to_owned());
                            progress
                                .failures
                                .push(format!("{:?}, {} {n}: {why}", ALL[stage], CALLS[call]));
                        }
                    }
                }
            });
        }
    });
    let progress = progress.into_inner().unwrap();
    println!(
        "{} crash points in {} jobs, {:.0} s; by stage: {:?}; by call: {:?}; {} between a write and its mark repeated that write",
        progress.points.values().sum::<usize>(),
        runs.into_inner(),
        began.elapsed().as_secs_f64(),
        progress.points,
        progress.calls,
        progress.repeated
    );
    assert!(
        progress.failures.is_empty(),
        "{} failures:\n{}",
        progress.failures.len(),
        progress.failures.join("\n")
    );
    let tasks = cluster.tasks();
    assert!(tasks.iter().all(|task| task.status == "STOPPED" && task.processes == 0), "{tasks:?}");
    let least = [
        (Killed::PrepareAgain, 50),
        (Killed::RetriedStage, 30),
        (Killed::PrepareBeside, 60),
        (Killed::Cleanup, 15),
        (Killed::Config, 1),
    ];
    // With a service, most calls are the service's: `service_crashes`.
    let part = if is_through_service() { 5 } else { 1 };
    for (stage, least) in least {
        assert!(
            progress.points.get(&stage).is_some_and(|points| *points >= least / part),
            "too few points: {:?}",
            progress.points
        );
    }
}

fn cleanup_stops_the_task_of_a_torn_snapshot_and_keeps_the_file(cluster: &Cluster) {
    let job = Job::on(cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cleaned = job.stage(&["cleanup"]);
    assert_eq!(cleaned.code, SYSTEM_FAILURE, "{cleaned:#?}");
    assert!(
        cleaned.stderr.contains("not a whole snapshot") && cleaned.stderr.contains("was stopped"),
        "{}",
        cleaned.stderr
    );
    crate::eventually("the task stops", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED")
    });
    assert_eq!(fs::read(&path).unwrap().len(), whole.len() / 2, "it is evidence");
}
