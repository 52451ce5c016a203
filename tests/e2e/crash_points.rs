//! Every crash point of a whole job: strace kills the driver at each system call that the world could
//! notice, one after the other, and the job goes on as gitlab-runner would have it.
//!
//! SIGKILL comes when the call is entered, before it is executed: killing at one call shows what the
//! call before it left behind. strace counts each system call by itself (the first `write`, the second
//! `write` …), so for every stage and every call of the list N counts up until the stage ends unkilled:
//! no point is left out. `openat` is not in the list, because certificates and libraries are opened by the hundred: a file
//! that was just made is met again at the write into it, the next call of the list.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    cluster::{Cluster, Local},
    http,
    runner::{BUILD_FAILURE, Ended, Job, SYSTEM_FAILURE},
};

/// Changes of files, everything sent and received (API and SSH), output, and the exit.
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
/// So many points in a row must not be reached by a stage before there are believed to be no more:
/// the number of calls differs a little from run to run.
const UNREACHED: usize = 2;

/// The stage that is killed, and what gitlab-runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Config,
    /// `cleanup` comes between, then `config` and `prepare` again.
    PrepareCleanedUp,
    /// `prepare` is called again at once.
    PrepareAgain,
    /// `get_sources` is repeated.
    RetriedStage,
    /// `build_script`, which fails, is not repeated: `after_script` and `cleanup` follow.
    FailingStage,
    Cleanup,
}

/// Those that take the longest come first.
const ALL: [Killed; 6] =
    [Killed::PrepareCleanedUp, Killed::PrepareAgain, Killed::RetriedStage, Killed::FailingStage, Killed::Cleanup, Killed::Config];

/// What a script writes, in pieces that are read one by one.
const OUTPUT: &str = "first piece\nsecond piece\nthird piece\n";

/// A stage under strace.
struct Traced {
    ended: Ended,
    killed: bool,
    /// The call at which it was killed.
    at: String,
}

/// Whether `n` is a point of this stage, and what was seen there.
struct Point {
    killed: bool,
    repeated: usize,
}

struct Run<'a> {
    job: Job,
    cluster: &'a Cluster,
    ledger: PathBuf,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut job = Job::on(cluster);
        // What the driver logs for itself is nothing that a job could lose.
        let text = fs::read_to_string(&job.config).unwrap();
        let quiet = text.lines().filter(|line| !line.starts_with("Log")).collect::<Vec<_>>().join("\n");
        fs::write(&job.config, quiet).unwrap();
        job.set("RUST_BACKTRACE", "0");
        let ledger = job.path("ledger");
        Self { job, cluster, ledger }
    }

    /// Writes down that it ran, says its pieces, and ends with this code.
    fn script(&self, name: &str, code: i32) -> String {
        let pieces: Vec<String> = OUTPUT.lines().map(|line| format!("echo '{line}'; sleep 0.03\n")).collect();
        format!("echo {name} >>'{}'\n{}exit {code}\n", self.ledger.display(), pieces.concat())
    }

    fn times(&self, name: &str) -> usize {
        fs::read_to_string(&self.ledger).unwrap_or_default().lines().filter(|line| *line == name).count()
    }

    fn ok(&self, arguments: &[&str]) -> Ended {
        let ended = self.job.stage(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:#?}");
        ended
    }

    fn traced(&self, arguments: &[&str], call: &str, n: usize) -> Traced {
        let trace = self.job.path("trace");
        let (all, inject) = (format!("trace={}", CALLS.join(",")), format!("inject={call}:signal=SIGKILL:when={n}"));
        let mut command =
            self.job.command_under(&["strace", "-f", "-qq", "-o", &trace.display().to_string(), "-e", &all, "-e", &inject], arguments);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let killed = output.status.signal() == Some(9);
        let text = fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = text.lines().filter(|line| !line.contains("+++")).collect();
        let mut threads: Vec<&str> = calls.iter().filter_map(|line| line.split_whitespace().next()).collect();
        threads.dedup();
        assert_eq!(threads.len(), 1, "strace counts calls by thread: another one would hide points: {text}");
        let name = |line: &&str| line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(&format!("{call}(")));
        assert!(!killed || calls.last().is_some_and(name), "killed elsewhere than at {call} {n}: {text}");
        assert!(!killed || calls.iter().filter(|line| name(line)).count() == n, "not killed at {call} {n}: {text}");
        Traced { ended: self.job.ended(output), killed, at: format!("{call} {n}") }
    }

    /// Kills at the `n`th call of a stage, ends the job as gitlab-runner would, and checks what must hold.
    fn point(&self, what: Killed, call: &'static str, n: usize) -> Point {
        let (mut repeated, killed);
        repeated = 0;
        match what {
            Killed::Config => {
                killed = self.traced(&["config"], call, n);
                self.ok(&["config"]);
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
            }
            Killed::PrepareCleanedUp | Killed::PrepareAgain => {
                self.ok(&["config"]);
                killed = self.traced(&["prepare"], call, n);
                if what == Killed::PrepareCleanedUp {
                    self.ok(&["cleanup"]);
                    self.left_behind(0);
                    self.ok(&["config"]);
                }
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
            }
            Killed::RetriedStage => {
                self.ok(&["prepare"]);
                let script = self.job.script(self.script("get_sources", 0)).display().to_string();
                killed = self.traced(&["run", &script, "get_sources"], call, n);
                let before = &killed.ended.stdout;
                let again = if killed.killed { self.ok(&["run", &script, "get_sources"]).stdout } else { Vec::new() };
                assert!(OUTPUT.as_bytes().starts_with(before), "killed at {}: {before:?}", killed.at);
                assert!(OUTPUT.as_bytes().ends_with(&again), "killed at {}: {again:?}", killed.at);
                let handed_on = before.len() + again.len();
                assert!(handed_on >= OUTPUT.len(), "a gap after {}: {before:?} {again:?}", killed.at);
                repeated = handed_on - OUTPUT.len();
                // The one instant that is left: the bytes are in the pipe, and the mark is the very next call.
                assert!(repeated == 0 || call == "pwrite64", "repeated after {}: {before:?} {again:?}", killed.at);
                assert_eq!(self.times("get_sources"), 1, "killed at {}", killed.at);
                self.whole_stage("after_script", 0);
            }
            Killed::FailingStage => {
                self.ok(&["prepare"]);
                let script = self.job.script(self.script("build_script", 7)).display().to_string();
                killed = self.traced(&["run", &script, "build_script"], call, n);
                if !killed.killed {
                    assert_eq!((killed.ended.code, killed.ended.script_code.as_deref()), (BUILD_FAILURE, Some("7")), "{:#?}", killed.ended);
                }
                assert!(OUTPUT.as_bytes().starts_with(&killed.ended.stdout), "killed at {}: {:?}", killed.at, killed.ended);
                // What the killed driver had not handed on of the script that still ran comes first: one job log.
                let after = self.job.run("after_script", self.script("after_script", 0));
                assert_eq!((after.code, self.times("after_script")), (0, 1), "killed at {}: {}", killed.at, after.stderr);
                let rest = after.stdout.strip_suffix(OUTPUT.as_bytes());
                let rest = rest.unwrap_or_else(|| panic!("killed at {}: {}", killed.at, String::from_utf8_lossy(&after.stdout)));
                let before = &killed.ended.stdout;
                let goes_on = |from: usize| OUTPUT.as_bytes().get(from..).is_some_and(|left| left.starts_with(rest));
                if !goes_on(before.len()) {
                    let whole_again = (0..before.len()).rev().find(|from| goes_on(*from));
                    let said = String::from_utf8_lossy(rest);
                    assert!(call == "pwrite64" && whole_again.is_some(), "killed at {} after {}: {said}", killed.at, before.len());
                    repeated = before.len() - whole_again.unwrap_or_default();
                }
                assert!(self.times("build_script") <= 1, "killed at {}", killed.at);
            }
            Killed::Cleanup => {
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
                killed = self.traced(&["cleanup"], call, n);
            }
        }
        self.ok(&["cleanup"]);
        self.left_behind(1);
        Point { killed: killed.killed, repeated }
    }

    fn whole_stage(&self, stage: &str, code: i32) {
        let ended = self.job.run(stage, self.script(stage, code));
        assert_eq!((ended.code, String::from_utf8_lossy(&ended.stdout).as_ref()), (code, OUTPUT), "{ended:#?}");
        assert_eq!(self.times(stage), 1);
    }

    /// Nothing runs, and nothing lies in the directory but the archive.
    fn left_behind(&self, archived_at_least: usize) {
        let archived = self.job.archived();
        assert!(archived.len() >= archived_at_least, "{archived:?}");
        let names = fs::read_dir(&self.job.metadata).map(|entries| entries.map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
        let names: Vec<_> = names.unwrap_or_default().into_iter().filter(|name| name != "archive").collect();
        assert!(names.is_empty(), "left behind: {names:?}");
        let Some(snapshot) = archived.first().map(|path| fs::read_to_string(path).unwrap()) else { return };
        let started_by = snapshot.split("started_by: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let ask = serde_json::json!({ "cluster": "local", "startedBy": started_by, "desiredStatus": "RUNNING" });
        let headers = ["X-Amz-Target: AmazonEC2ContainerServiceV20141113.ListTasks", "Content-Type: application/x-amz-json-1.1"];
        let answer = http::request(&local(self.cluster).endpoint, "POST", "/", &headers, ask.to_string().as_bytes());
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["taskArns"], serde_json::json!([]), "a task was leaked: {answer}");
    }
}

fn local(cluster: &Cluster) -> &Local {
    match cluster {
        Cluster::Local(local) => local,
        Cluster::Moto(_) => unreachable!("these tests are of the local cluster"),
    }
}

/// The next point to try, over all stages.
#[derive(Default)]
struct Progress {
    /// Stage and call → the last number tried, and how many were not reached.
    tried: BTreeMap<(usize, usize), (usize, usize)>,
    /// Stage and call → how many jobs are at it: more than the two that are to miss would be for nothing.
    at_it: BTreeMap<(usize, usize), usize>,
    calls: BTreeMap<&'static str, usize>,
    points: BTreeMap<Killed, usize>,
    repeated: usize,
    failures: Vec<String>,
}

impl Progress {
    fn is_done(&self) -> bool {
        let finished = |at| self.tried.get(&at).is_some_and(|(_, unreached)| *unreached >= UNREACHED);
        (0..ALL.len()).all(|stage| (0..CALLS.len()).all(|call| finished((stage, call))))
    }

    /// The next stage, call and number.
    fn next(&mut self) -> Option<(usize, usize, usize)> {
        let open = |at: &(usize, usize)| {
            let unreached = self.tried.get(at).map_or(0, |(_, unreached)| *unreached);
            unreached + self.at_it.get(at).copied().unwrap_or_default() < UNREACHED
        };
        let (stage, call) = (0..ALL.len()).flat_map(|stage| (0..CALLS.len()).map(move |call| (stage, call))).find(open)?;
        let (number, _) = self.tried.entry((stage, call)).or_default();
        *number += 1;
        *self.at_it.entry((stage, call)).or_default() += 1;
        Some((stage, call, *number))
    }
}

#[test]
#[ignore = "needs strace: scripts/test installs it and runs this"]
fn every_crash_point() {
    let cluster = Cluster::local();
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
                    let tried = std::panic::catch_unwind(|| Run::new(&cluster).point(ALL[stage], CALLS[call], n));
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
                            let why = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned());
                            progress.failures.push(format!("{:?}, {} {n}: {why}", ALL[stage], CALLS[call]));
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
    assert!(progress.failures.is_empty(), "{} failures:\n{}", progress.failures.len(), progress.failures.join("\n"));
    let tasks = cluster.tasks();
    assert!(tasks.iter().all(|task| task.status == "STOPPED" && task.processes == 0), "{tasks:?}");
    for (stage, least) in [(Killed::PrepareAgain, 50), (Killed::RetriedStage, 30), (Killed::Cleanup, 15), (Killed::Config, 1)] {
        assert!(progress.points.get(&stage).is_some_and(|points| *points >= least), "too few points: {:?}", progress.points);
    }
}

#[test]
fn cleanup_stops_the_task_of_a_torn_snapshot_and_keeps_the_file() {
    let cluster = Cluster::local();
    let job = Job::on(&cluster);
    job.prepare();
    let path = job.files(".ron").remove(0);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cleaned = job.stage(&["cleanup"]);
    assert_eq!(cleaned.code, SYSTEM_FAILURE, "{cleaned:#?}");
    assert!(cleaned.stderr.contains("not a whole snapshot") && cleaned.stderr.contains("was stopped"), "{}", cleaned.stderr);
    crate::eventually("the task stops", || cluster.tasks().iter().all(|task| task.status == "STOPPED"));
    assert_eq!(fs::read(&path).unwrap().len(), whole.len() / 2, "it is evidence");
}
