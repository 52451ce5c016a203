//! gitlab-runner's part, for one job: processes with the contract's environment.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{LOOK, timeline::Timeline};

/// The exit codes for the stages, as gitlab-runner sets them. They are unusual on purpose: the
/// driver must not assume any.
const BUILD_FAILURE: u8 = 101;
const SYSTEM_FAILURE: u8 = 102;

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It succeeded.
    Succeeded,
    /// The script's own failure, with its exit status.
    Script(i32),
    /// Anything else.
    System,
}

/// Returns GitLab's response with the job, in the parts that stages read.
fn response(job: u64, (image, services): (Option<&str>, &[String])) -> serde_json::Value {
    let services: Vec<_> =
        services.iter().map(|name| serde_json::json!({ "name": name })).collect();
    serde_json::json!({
        "image": image.map(|name| serde_json::json!({ "name": name })),
        "services": services,
        "id": job,
        "job_info": { "name": "try", "stage": "test", "project_id": 1, "project_name": "try" },
        "git_info": { "repo_url": "https://gitlab.example/fargate/try.git" },
        "variables": [{ "key": "CI_PIPELINE_ID", "value": "1", "public": true }],
    })
}

/// Calls stages.
pub(super) struct Runner {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    exit_code_file: PathBuf,
    /// How long a script gets to end by itself.
    grace: Duration,
    interrupted: bool,
}

impl Runner {
    pub(super) fn new(
        directory: &Path,
        config: &Path,
        flags: &[OsString],
        mut environment: Vec<(String, String)>,
        wishes: (Option<&str>, &[String]),
        grace: Duration,
    ) -> io::Result<Self> {
        let temporary = directory.join("tmp");
        fs::create_dir(&temporary)?;
        let exit_code_file = directory.join("exit-code");
        let job = u64::from(std::process::id()) * 1000 + rand::random_range(0..1000);
        let response_file = directory.join("response.json");
        fs::write(&response_file, response(job, wishes).to_string())?;
        let states = directory.join("states");
        for (name, value) in [
            ("BUILD_FAILURE_EXIT_CODE", BUILD_FAILURE.to_string()),
            ("SYSTEM_FAILURE_EXIT_CODE", SYSTEM_FAILURE.to_string()),
            ("BUILD_EXIT_CODE_FILE", exit_code_file.display().to_string()),
            ("JOB_RESPONSE_FILE", response_file.display().to_string()),
            ("TMPDIR", temporary.display().to_string()),
            ("CUSTOM_ENV_CI_RUNNER_SHORT_TOKEN", "try".to_owned()),
        ] {
            environment.push((name.to_owned(), value));
        }
        let mut arguments: Vec<OsString> =
            vec!["--config".into(), config.into(), "--state-log".into(), states.into()];
        arguments.extend(flags.iter().cloned());
        arguments.push("custom".into());
        Ok(Self {
            program: std::env::current_exe()?,
            arguments,
            environment,
            exit_code_file,
            grace,
            interrupted: false,
        })
    }

    /// Whether the user has interrupted the job.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Runs one stage, showing states as they pass.
    pub(super) async fn stage(
        &mut self,
        stage: &[&str],
        timeline: &mut Timeline,
    ) -> io::Result<Ended> {
        let is_run = stage.first() == Some(&"run");
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(stage)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            // Only scripts write to stdout: the output of `config` is for gitlab-runner.
            .stdout(if is_run { Stdio::inherit() } else { Stdio::null() })
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = interrupt.recv() => self.interrupt(group),
                _ = term.recv() => self.interrupt(group),
                () = tokio::time::sleep(LOOK) => timeline.look(),
            }
        };
        timeline.look();
        if status.success() {
            return Ok(Ended::Succeeded);
        }
        if status.code() == Some(i32::from(BUILD_FAILURE)) {
            let code = fs::read_to_string(&self.exit_code_file)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            return Ok(Ended::Script(code.unwrap_or(1)));
        }
        Ok(Ended::System)
    }

    /// Ends a stage as gitlab-runner does: SIGTERM to its process group.
    fn interrupt(&mut self, group: Option<Pid>) {
        if self.interrupted {
            eprintln!(
                "Still ending the job: its task is stopped as soon as the script has ended, or was killed."
            );
        } else {
            eprintln!(
                "Ending the job … (a script that runs has {} to end itself)",
                humantime::format_duration(self.grace)
            );
        }
        self.interrupted = true;
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}
