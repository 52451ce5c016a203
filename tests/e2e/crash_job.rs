//! A job of which one stage is killed, what gitlab-runner does then, and what must hold whatever happened.

use std::{fs, path::PathBuf};

use crate::{
    cluster::{Cluster, Local},
    runner::{BUILD_FAILURE, Ended, Job},
};

/// The stage that is killed, and what gitlab-runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Killed {
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

/// What a script writes, in pieces that are read one by one.
const OUTPUT: &str = "first piece\nsecond piece\nthird piece\n";

/// A stage that was to be killed.
pub struct Stage {
    pub ended: Ended,
    pub killed: bool,
    /// Where it was killed.
    pub at: String,
}

/// What was seen at a point.
pub struct Point {
    pub killed: bool,
    /// How many bytes of output came twice.
    pub repeated: usize,
}

/// One job that is killed on its way.
pub struct Run<'a> {
    pub job: Job,
    cluster: &'a Cluster,
    ledger: PathBuf,
}

impl<'a> Run<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
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

    /// Has a stage killed by `kill`, ends the job as gitlab-runner would, and checks what must hold.
    /// Output may be repeated only where `may_repeat` says so: between a write and the note of it.
    pub fn point(&self, what: Killed, may_repeat: bool, kill: impl FnOnce(&Job, &[&str]) -> Stage) -> Point {
        let (mut repeated, killed);
        repeated = 0;
        match what {
            Killed::Config => {
                killed = kill(&self.job, &["config"]);
                self.ok(&["config"]);
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
            }
            Killed::PrepareCleanedUp | Killed::PrepareAgain => {
                self.ok(&["config"]);
                killed = kill(&self.job, &["prepare"]);
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
                killed = kill(&self.job, &["run", &script, "get_sources"]);
                let before = &killed.ended.stdout;
                let again = if killed.killed { self.ok(&["run", &script, "get_sources"]).stdout } else { Vec::new() };
                assert!(OUTPUT.as_bytes().starts_with(before), "killed at {}: {before:?}", killed.at);
                assert!(OUTPUT.as_bytes().ends_with(&again), "killed at {}: {again:?}", killed.at);
                let handed_on = before.len() + again.len();
                assert!(handed_on >= OUTPUT.len(), "a gap after {}: {before:?} {again:?}", killed.at);
                repeated = handed_on - OUTPUT.len();
                // The one instant that is left: the bytes are in the pipe, and the mark is the very next call.
                assert!(repeated == 0 || may_repeat, "repeated after {}: {before:?} {again:?}", killed.at);
                assert_eq!(self.times("get_sources"), 1, "killed at {}", killed.at);
                self.whole_stage("after_script", 0);
            }
            Killed::FailingStage => {
                self.ok(&["prepare"]);
                let script = self.job.script(self.script("build_script", 7)).display().to_string();
                killed = kill(&self.job, &["run", &script, "build_script"]);
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
                    assert!(may_repeat && whole_again.is_some(), "killed at {} after {}: {said}", killed.at, before.len());
                    repeated = before.len() - whole_again.unwrap_or_default();
                }
                assert!(self.times("build_script") <= 1, "killed at {}", killed.at);
            }
            Killed::Cleanup => {
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
                killed = kill(&self.job, &["cleanup"]);
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
        assert_eq!(self.tasks("RUNNING"), 0, "a task was leaked");
    }

    /// How many tasks of the job, which has an archived snapshot, are meant to be in this state.
    pub fn tasks(&self, desired_status: &str) -> usize {
        let Some(snapshot) = self.job.archived().first().map(|path| fs::read_to_string(path).unwrap()) else { return 0 };
        let started_by = snapshot.split("started_by: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let is_meant = |task: &serde_json::Value| {
            let stopping = !task["stopped_reason"].is_null();
            task["started_by"] == started_by && stopping == (desired_status == "STOPPED")
        };
        let tasks = local(self.cluster).get("/_tasks");
        tasks.as_array().unwrap().iter().filter(|task| is_meant(task)).count()
    }
}

pub fn local(cluster: &Cluster) -> &Local {
    match cluster {
        Cluster::Local(local) => local,
        Cluster::Moto(_) => unreachable!("these tests are of the local cluster"),
    }
}
