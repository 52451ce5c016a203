//! Plays gitlab-runner for one job: its environment, its calls, its cancels.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{
    cluster::{Cluster, eventually},
    serve::Service,
};

/// The exit codes for the driver. They are not gitlab-runner's usual ones: the driver must not
/// assume those.
pub const BUILD_FAILURE: i32 = 91;
pub const SYSTEM_FAILURE: i32 = 92;

/// One CI job on a runner manager.
pub struct Job {
    place: TempDir,
    pub config: PathBuf,
    pub metadata: PathBuf,
    pub environment: Vec<(String, String)>,
    /// Whether the runner writes the job's response to a file, as gitlab-runner does since 14.1.
    /// The file's content follows from the environment's variables, unless a test sets
    /// `JOB_RESPONSE_FILE` itself.
    pub writes_response: bool,
    /// `image` and `services` of the job's response.
    pub wishes: serde_json::Value,
    /// The driver that gitlab-runner calls.
    pub binary: PathBuf,
    service: Arc<Mutex<Hosting>>,
    /// Set if the test has changed the snapshot by hand, so that it differs from the journal.
    pub edited: AtomicBool,
}

/// What hosts the stages of a metadata directory. With `FARGATE_TEST_SERVICE`, every test runs its
/// stages through a service.
enum Hosting {
    Undecided,
    /// The stages' processes, or services that the test starts.
    Alone,
    /// `None`: it does not start.
    Service(Option<Service>),
}

/// Why a test does without the service of `FARGATE_TEST_SERVICE`: all such tests, by reason.
#[derive(Debug, Clone, Copy)]
pub enum Alone {
    /// It starts services itself, or plays one.
    HasOwnService,
    /// A later process archives its job. A service would do that in the background
    /// (`service::ended_jobs_are_archived_in_the_background`).
    ArchivesLater,
    /// Each stage has to open a session of ECS Exec, which killed or failed stages leave behind. A
    /// service keeps one session (`service::the_service_lets_go_of_the_job_of_a_killed_stage`).
    OpensSessions,
    /// It traces all system calls of a stage's process. A service does the stage's work
    /// (`service_crashes`, `service_frames`).
    IsTraced,
    /// It counts warnings about the configuration. A service has its own.
    CountsWarnings,
    /// It counts what each stage's process exports. A service exports in batches
    /// (`service_telemetry`).
    CountsExports,
}

/// Whether every test runs its stages through a service.
pub fn is_through_service() -> bool {
    std::env::var_os("FARGATE_TEST_SERVICE").is_some()
}

/// How a stage ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The content of `BUILD_EXIT_CODE_FILE`.
    pub script_code: Option<String>,
}

impl Job {
    /// Returns a job with a manager of its own.
    pub fn on(cluster: &Cluster) -> Self {
        Self::with(cluster, "")
    }

    /// Returns a job whose `fargate.toml` has more tables.
    pub fn with(cluster: &Cluster, more: &str) -> Self {
        static JOBS: AtomicU32 = AtomicU32::new(1);
        let number = JOBS.fetch_add(1, Ordering::Relaxed);
        let place = tempfile::Builder::new().prefix("fargate-job-").tempdir().unwrap();
        let metadata = place.path().join("metadata");
        let config = place.path().join("fargate.toml");
        let text = format!(
            "LogLevel = \"debug\"\nLogFile = {:?}\n\n{}[TaskMetadata]\nDirectory = {metadata:?}\n\n{more}",
            place.path().join("log"),
            cluster.configuration()
        );
        fs::write(&config, text).unwrap();
        fs::create_dir(place.path().join("tmp")).unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        let mut environment = cluster.environment();
        for (name, value) in [
            ("PATH", std::env::var("PATH").unwrap()),
            ("HOME", path("home")),
            ("TMPDIR", path("tmp")),
            ("BUILD_FAILURE_EXIT_CODE", BUILD_FAILURE.to_string()),
            ("SYSTEM_FAILURE_EXIT_CODE", SYSTEM_FAILURE.to_string()),
            ("BUILD_EXIT_CODE_FILE", path("exit-code")),
            ("CUSTOM_ENV_CI_RUNNER_SHORT_TOKEN", "tOk3n_-x".to_owned()),
            ("CUSTOM_ENV_CI_PROJECT_URL", "https://gitlab.example/group/project".to_owned()),
            ("CUSTOM_ENV_CI_PIPELINE_ID", "77".to_owned()),
            ("CUSTOM_ENV_CI_JOB_ID", format!("{}{number:04}", std::process::id())),
            ("CUSTOM_ENV_CI_JOB_NAME", "build [1/2]".to_owned()),
        ] {
            environment.push((name.to_owned(), value));
        }
        Self {
            place,
            config,
            metadata,
            environment,
            writes_response: true,
            wishes: serde_json::json!({}),
            binary: env!("CARGO_BIN_EXE_fargate").into(),
            service: Arc::new(Mutex::new(Hosting::Undecided)),
            edited: AtomicBool::new(false),
        }
    }

    /// Returns another job of the same manager.
    pub fn beside(&self, cluster: &Cluster) -> Self {
        let mut job = Self::on(cluster);
        job.config.clone_from(&self.config);
        job.metadata.clone_from(&self.metadata);
        job.service = Arc::clone(&self.service);
        job
    }

    /// Returns a job whose stages do without a service.
    pub fn alone(self, _why: Alone) -> Self {
        *self.hosting() = Hosting::Alone;
        self
    }

    fn hosting(&self) -> MutexGuard<'_, Hosting> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the service that every test has, if it has none yet.
    fn be_hosted(&self) {
        let mut hosting = self.hosting();
        if matches!(*hosting, Hosting::Undecided) && is_through_service() {
            *hosting = Hosting::Service(Service::try_start(self));
        }
    }

    /// Restarts the service that every test has, if there is one, by another program.
    pub fn restart_service_under(&self, before: &[&str]) {
        self.be_hosted();
        let mut hosting = self.hosting();
        if let Hosting::Service(service) = &mut *hosting {
            drop(service.take());
            *service = Service::start_under(before, self);
        }
    }

    /// Ends the service that every test has, if there is one. It exports the rest of its telemetry.
    pub fn end_service(&self) {
        let mut hosting = self.hosting();
        if let Hosting::Service(Some(service)) = &mut *hosting {
            service.signal(Signal::TERM);
            assert!(service.process.wait().unwrap().success());
            *hosting = Hosting::Service(None);
        }
    }

    /// Whether a service hosts the stages that follow.
    pub fn is_hosted(&self) -> bool {
        self.be_hosted();
        matches!(*self.hosting(), Hosting::Service(Some(_)))
    }

    /// Returns the process that does the work of this stage: its own, or the service.
    pub fn worker(&self, stage: &Child) -> u32 {
        match &*self.hosting() {
            Hosting::Service(Some(service)) => service.process.id(),
            _ => stage.id(),
        }
    }

    /// Kills a stage's process. Returns when its work has ended as well.
    pub fn kill(&self, stage: &mut Child) {
        const LET_GO: &str = "its job is let go";
        let before = self.log().matches(LET_GO).count();
        stage.kill().unwrap();
        stage.wait().unwrap();
        if self.is_hosted() {
            eventually("the service lets go", || self.log().matches(LET_GO).count() > before);
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn unset(&mut self, name: &str) {
        self.environment.retain(|(n, _)| n != name);
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Writes the job's response as gitlab-runner does, from the job's variables. Returns its path.
    pub fn response_file(&self) -> PathBuf {
        let variable = |name: &str| self.get(&format!("CUSTOM_ENV_{name}")).unwrap_or_default();
        let project = variable("CI_PROJECT_URL");
        let response = serde_json::json!({
            "id": variable("CI_JOB_ID").parse::<u64>().unwrap(),
            "token": "jobT0ken",
            "job_info": {
                "name": variable("CI_JOB_NAME"), "stage": "test",
                "project_id": 7, "project_name": project.rsplit('/').next(),
            },
            "git_info": { "repo_url": format!("{}.git", project.replacen("://", "://gitlab-ci-token:jobT0ken@", 1)) },
            "variables": [{ "key": "CI_PIPELINE_ID", "value": variable("CI_PIPELINE_ID"), "public": true }],
            "image": self.wishes["image"],
            "services": self.wishes["services"],
        });
        static WRITTEN: AtomicU32 = AtomicU32::new(1);
        let (path, text) = (self.path("response.json"), response.to_string());
        // Another stage may be reading it.
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            let beside = self.path(&format!("response{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &path).unwrap();
        }
        path
    }

    /// Returns the environment of a stage.
    pub fn stage_environment(&self) -> Vec<(String, String)> {
        let mut environment = self.environment.clone();
        if self.writes_response && self.get("JOB_RESPONSE_FILE").is_none() {
            environment
                .push(("JOB_RESPONSE_FILE".to_owned(), self.response_file().display().to_string()));
        }
        environment
    }

    /// Writes a script's file on the manager.
    pub fn script(&self, text: impl AsRef<[u8]>) -> PathBuf {
        static SCRIPTS: AtomicU32 = AtomicU32::new(1);
        let path =
            self.place.path().join(format!("script{}", SCRIPTS.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns a path in the job's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_under(&[], arguments)
    }

    /// Returns the command of a stage, started by another program (`strace …`).
    pub fn command_under(&self, before: &[&str], arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        self.be_hosted();
        let mut command = under(before, &self.binary);
        command
            .env_clear()
            .envs(self.stage_environment())
            .current_dir(self.place.path())
            .arg("--config")
            .arg(&self.config)
            .arg("custom")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    /// Starts a stage.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let _ = fs::remove_file(self.place.path().join("exit-code"));
        self.command(arguments).spawn().unwrap()
    }

    /// Waits for a stage.
    pub fn end(&self, child: Child) -> Ended {
        self.ended(child.wait_with_output().unwrap())
    }

    /// Collects the results of a stage that has ended.
    pub fn ended(&self, output: Output) -> Ended {
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            script_code: fs::read_to_string(self.place.path().join("exit-code")).ok(),
        }
    }

    /// Runs a stage.
    pub fn stage(&self, arguments: &[&str]) -> Ended {
        self.end(self.spawn(arguments))
    }

    /// Runs `prepare`, which must succeed.
    pub fn prepare(&self) {
        let prepared = self.stage(&["prepare"]);
        assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", self.log());
    }

    /// Runs a script as a stage.
    pub fn run(&self, stage: &str, text: impl AsRef<[u8]>) -> Ended {
        self.stage(&["run", &self.script(text).display().to_string(), stage])
    }

    /// Runs `cleanup` as gitlab-runner does, and again to wait for the task's end: both must
    /// succeed.
    pub fn cleanup(&self) {
        self.cleanup_as_gitlab_runner();
        let waited = self.stage(&["cleanup", "--wait"]);
        assert_eq!(waited.code, 0, "{waited:#?}\n{}", self.log());
    }

    /// Runs `cleanup`, which must succeed. The task's end is not waited for.
    pub fn cleanup_as_gitlab_runner(&self) {
        let cleaned = self.stage(&["cleanup"]);
        assert_eq!(cleaned.code, 0, "{cleaned:#?}\n{}", self.log());
    }

    /// Runs `fargate reap` with this job's configuration, as a timer does.
    pub fn reap(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .env_remove("SYSTEM_FAILURE_EXIT_CODE");
        command
            .current_dir(self.place.path())
            .arg("--config")
            .arg(&self.config)
            .arg("reap")
            .args(arguments);
        self.ended(command.output().unwrap())
    }

    /// Cancels a stage as gitlab-runner does: SIGTERM to its process group.
    pub fn cancel(child: &Child) {
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process_group(group, Signal::TERM).unwrap();
    }

    /// Returns the driver's own log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Returns the files in the metadata directory with this extension.
    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        files(&self.metadata, ending)
    }

    /// Returns the finished jobs' snapshots.
    pub fn archived(&self) -> Vec<PathBuf> {
        files(&self.metadata.join("archive"), ".ron")
    }

    /// Returns the job's snapshot, or nothing: another process may archive it at this moment.
    pub fn snapshot(&self) -> String {
        let first = self.files(".ron").into_iter().next();
        first.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Returns the snapshots of all jobs of the directory, archived ones as well.
    pub fn snapshots(&self) -> Vec<String> {
        loop {
            let paths = self.files(".ron").into_iter().chain(self.archived());
            let texts: Result<_, io::Error> = paths.map(fs::read_to_string).collect();
            match texts {
                Ok(texts) => return texts,
                // Another process archives one of them.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            }
        }
    }
}

impl Drop for Job {
    /// Asserts that every job of these tests replays to the recorded states.
    fn drop(&mut self) {
        if std::thread::panicking() || self.edited.load(Ordering::Relaxed) {
            return;
        }
        for path in self.archived() {
            let snapshot = states::Snapshot::parse(&fs::read_to_string(&path).unwrap()).unwrap();
            if let states::Verdict::Differ(difference) = snapshot.replay() {
                panic!("{}: {difference}", path.display());
            }
        }
    }
}

/// Returns the command of a program that is started by another one (`strace …`).
pub fn under(before: &[&str], program: &Path) -> Command {
    let Some((first, rest)) = before.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// Whether this is a file of a service, not of a job.
pub fn is_of_service(name: &OsStr) -> bool {
    ["fargate.sock", "fargate.serving"].iter().any(|of_service| name == *of_service)
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending))
        .filter(|path| !path.file_name().is_some_and(is_of_service))
        .collect()
}
