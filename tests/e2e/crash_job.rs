//! A job of which one stage is killed, gitlab-runner's reaction, and the conditions that must
//! always hold.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use crate::{
    cluster::{Cluster, Local},
    eventually,
    runner::{BUILD_FAILURE, Ended, Job, is_of_service},
};

/// The stage that is killed, and gitlab-runner's next calls.
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
    /// `prepare` of another job of the manager, which archives this one: its `cleanup` is done, and
    /// its task has ended.
    PrepareBeside,
}

/// The output of a script, in pieces that are read one by one.
const OUTPUT: &str = "first piece\nsecond piece\nthird piece\n";

/// The outcome of a stage with a crash point.
pub struct Stage {
    pub ended: Ended,
    pub killed: bool,
    /// Where it was killed.
    pub at: String,
}

/// The result at a crash point.
pub struct Point {
    pub killed: bool,
    /// How many bytes of output came twice.
    pub repeated: usize,
}

/// One job that is killed.
pub struct Run<'a> {
    pub job: Job,
    cluster: &'a Cluster,
    ledger: Ledger,
}

/// Where scripts record that they run.
enum Ledger {
    /// In a file of this machine.
    File(PathBuf),
    /// At a port: the job's container has files of its own.
    Port(u16, Arc<Mutex<Vec<String>>>),
}

impl Ledger {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&names);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut name = [0; 64];
                let size = stream.read(&mut name).unwrap_or(0);
                let name = String::from_utf8_lossy(&name[..size]).trim().to_owned();
                record.lock().unwrap().push(name);
            }
        });
        Self::Port(port, names)
    }

    /// A command that records a name, before anything else happens.
    fn command(&self, name: &str) -> String {
        match self {
            Self::File(path) => format!("echo {name} >>'{}'", path.display()),
            Self::Port(port, _) => format!(
                "if command -v nc >/dev/null; then echo {name} | nc 127.0.0.1 {port}; \
                 else bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; echo {name} >&3; read -r x <&3'; fi"
            ),
        }
    }

    fn times(&self, name: &str) -> usize {
        match self {
            Self::File(path) => fs::read_to_string(path)
                .unwrap_or_default()
                .lines()
                .filter(|line| *line == name)
                .count(),
            Self::Port(_, names) => names.lock().unwrap().iter().filter(|n| *n == name).count(),
        }
    }
}

impl<'a> Run<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut job = Job::on(cluster);
        // A job cannot lose lines of the driver's own log.
        let text = fs::read_to_string(&job.config).unwrap();
        let quiet =
            text.lines().filter(|line| !line.starts_with("Log")).collect::<Vec<_>>().join("\n");
        fs::write(&job.config, quiet).unwrap();
        job.set("RUST_BACKTRACE", "0");
        let ledger = Ledger::File(job.path("ledger"));
        Self { job, cluster, ledger }
    }

    /// A job whose scripts run in a container with an image of its own.
    pub fn with_image(cluster: &'a Cluster) -> Self {
        let mut run = Self::new(cluster);
        crate::images::add_image(&mut run.job, "busybox");
        Self { ledger: Ledger::listen(), ..run }
    }

    /// Returns a script that records its run, writes its pieces, and exits with this code.
    fn script(&self, name: &str, code: i32) -> String {
        let pieces: Vec<String> =
            OUTPUT.lines().map(|line| format!("echo '{line}'; sleep 0.03\n")).collect();
        format!("{}\n{}exit {code}\n", self.ledger.command(name), pieces.concat())
    }

    fn times(&self, name: &str) -> usize {
        self.ledger.times(name)
    }

    fn ok(&self, arguments: &[&str]) -> Ended {
        let ended = self.job.stage(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:#?}");
        ended
    }

    /// Has a stage killed by `kill`, ends the job as gitlab-runner would, and checks the
    /// conditions. Output may be repeated only with `may_repeat`: between a write and its record.
    pub fn point(
        &self,
        what: Killed,
        may_repeat: bool,
        kill: impl FnOnce(&Job, &[&str]) -> Stage,
    ) -> Point {
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
                    assert_eq!(self.tasks("RUNNING"), 0, "a task was leaked");
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
                let again = if killed.killed {
                    self.ok(&["run", &script, "get_sources"]).stdout
                } else {
                    Vec::new()
                };
                assert!(
                    OUTPUT.as_bytes().starts_with(before),
                    "killed at {}: {before:?}",
                    killed.at
                );
                assert!(OUTPUT.as_bytes().ends_with(&again), "killed at {}: {again:?}", killed.at);
                let handed_on = before.len() + again.len();
                assert!(
                    handed_on >= OUTPUT.len(),
                    "a gap after {}: {before:?} {again:?}",
                    killed.at
                );
                repeated = handed_on - OUTPUT.len();
                // The only gap: the bytes are in the pipe, and the next call would record them.
                assert!(
                    repeated == 0 || may_repeat,
                    "repeated after {}: {before:?} {again:?}",
                    killed.at
                );
                assert_eq!(self.times("get_sources"), 1, "killed at {}", killed.at);
                self.whole_stage("after_script", 0);
            }
            Killed::FailingStage => {
                self.ok(&["prepare"]);
                let script = self.job.script(self.script("build_script", 7)).display().to_string();
                killed = kill(&self.job, &["run", &script, "build_script"]);
                if !killed.killed {
                    assert_eq!(
                        (killed.ended.code, killed.ended.script_code.as_deref()),
                        (BUILD_FAILURE, Some("7")),
                        "{:#?}",
                        killed.ended
                    );
                }
                assert!(
                    OUTPUT.as_bytes().starts_with(&killed.ended.stdout),
                    "killed at {}: {:?}",
                    killed.at,
                    killed.ended
                );
                // Output of the script that the killed driver had not written comes first, in the
                // same job log.
                let after = self.job.run("after_script", self.script("after_script", 0));
                assert_eq!(
                    (after.code, self.times("after_script")),
                    (0, 1),
                    "killed at {}: {}",
                    killed.at,
                    after.stderr
                );
                let rest = after.stdout.strip_suffix(OUTPUT.as_bytes());
                let rest = rest.unwrap_or_else(|| {
                    panic!("killed at {}: {}", killed.at, String::from_utf8_lossy(&after.stdout))
                });
                let before = &killed.ended.stdout;
                let goes_on = |from: usize| {
                    OUTPUT.as_bytes().get(from..).is_some_and(|left| left.starts_with(rest))
                };
                if !goes_on(before.len()) {
                    let whole_again = (0..before.len()).rev().find(|from| goes_on(*from));
                    let said = String::from_utf8_lossy(rest);
                    assert!(
                        may_repeat && whole_again.is_some(),
                        "killed at {} after {}: {said}",
                        killed.at,
                        before.len()
                    );
                    repeated = before.len() - whole_again.unwrap_or_default();
                }
                assert!(self.times("build_script") <= 1, "killed at {}", killed.at);
            }
            Killed::Cleanup => {
                self.ok(&["prepare"]);
                self.whole_stage("get_sources", 0);
                killed = kill(&self.job, &["cleanup"]);
            }
            Killed::PrepareBeside => {
                self.ok(&["prepare"]);
                self.ok(&["cleanup"]);
                self.tasks_have_ended();
                let mut other = self.job.beside(self.cluster);
                other.wishes = self.job.wishes.clone();
                if let Some(base) = self.job.get("CUSTOM_ENV_FARGATE_TASK_DEFINITION") {
                    other.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", base);
                }
                other.environment.extend(
                    self.job
                        .environment
                        .iter()
                        .filter(|(name, _)| name == "AWS_ENDPOINT_URL")
                        .cloned(),
                );
                killed = kill(&other, &["prepare"]);
                other.prepare();
                let ended = other.run("get_sources", self.script("get_sources", 0));
                assert_eq!(
                    (ended.code, self.times("get_sources")),
                    (0, 1),
                    "killed at {}: {ended:#?}",
                    killed.at
                );
                other.cleanup_as_gitlab_runner();
            }
        }
        self.ok(&["cleanup"]);
        assert_eq!(self.tasks("RUNNING"), 0, "a task was leaked");
        self.left_behind(what);
        Point { killed: killed.killed, repeated }
    }

    fn whole_stage(&self, stage: &str, code: i32) {
        let ended = self.job.run(stage, self.script(stage, code));
        assert_eq!(
            (ended.code, String::from_utf8_lossy(&ended.stdout).as_ref()),
            (code, OUTPUT),
            "{ended:#?}"
        );
        assert_eq!(self.times(stage), 1);
    }

    /// Once the tasks have ended, the next process archives their jobs. Then only the archive is
    /// left in the directory.
    fn left_behind(&self, what: Killed) {
        self.tasks_have_ended();
        // Files that archiving moves or removes, including the mark of written output and the
        // session ledger.
        let kept = ["ron", "key", "ending", "lock", "offset", "session"];
        let kind = |name: &String| {
            name.rsplit_once('.').map(|(_, kind)| kind.to_owned()).unwrap_or_default()
        };
        let are_kept =
            |names: &[String]| names.iter().all(|name| kept.contains(&kind(name).as_str()));
        if self.job.is_hosted() {
            // The service may be saving or archiving the job at this moment.
            eventually("no other file is left", || are_kept(&self.names()));
        }
        let before = self.names();
        assert!(self.job.is_hosted() || are_kept(&before), "left behind: {before:?}");
        let reaped = self.job.reap(&[]);
        let said = String::from_utf8_lossy(&reaped.stdout);
        // A stage that was killed while it archived another job may have left that job's `.ending`. A
        // service may have archived it just now.
        let swept = said.contains("files were removed")
            && what != Killed::PrepareBeside
            && !self.job.is_hosted();
        assert!(
            reaped.code == 0 && said.contains("orphaned tasks stopped: 0") && !swept,
            "{reaped:#?}"
        );
        if self.job.is_hosted() {
            // The service may be archiving the job at this moment.
            eventually("only the archive is left", || self.names().is_empty());
        }
        assert_eq!(self.names(), [""; 0], "left behind: {reaped:#?}");
        assert!(!self.job.archived().is_empty(), "{before:?}");
        assert_eq!(self.tasks("RUNNING"), 0, "a task was leaked");
    }

    /// Lists the metadata directory without the archive.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.job.metadata)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| !is_of_service(name))
            .map(|name| name.into_string().unwrap());
        // Derived definitions are the manager's, not the job's.
        entries.filter(|name| !["archive", "definitions"].contains(&name.as_str())).collect()
    }

    fn tasks_have_ended(&self) {
        eventually("the tasks have ended", || {
            self.of_this_directory().iter().all(|task| task["status"] == "STOPPED")
        });
    }

    /// Counts tasks of the directory's jobs by desired status.
    pub fn tasks(&self, desired_status: &str) -> usize {
        self.of_this_directory()
            .iter()
            .filter(|task| task["stopped_reason"].is_null() == (desired_status == "RUNNING"))
            .count()
    }

    /// Returns the tasks that were launched for the directory's jobs.
    fn of_this_directory(&self) -> Vec<serde_json::Value> {
        let marks: Vec<String> = self
            .job
            .snapshots()
            .iter()
            .map(|snapshot| {
                snapshot
                    .split("started_by: \"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .unwrap()
                    .to_owned()
            })
            .collect();
        let tasks = local(self.cluster).get("/_tasks");
        let is_theirs = |task: &&serde_json::Value| {
            marks.iter().any(|mark| task["started_by"] == mark.as_str())
        };
        tasks.as_array().unwrap().iter().filter(is_theirs).cloned().collect()
    }
}

pub fn local(cluster: &Cluster) -> &Local {
    match cluster {
        Cluster::Local(local) => local,
        Cluster::Moto(_) => unreachable!("these tests are of the local cluster"),
    }
}
