//! gitlab-runner's `config.toml`: the runners that call this driver, how they call it, and their
//! time-outs. The keys are those of gitlab-runner's documentation, "Advanced configuration" and
//! "The Custom executor".

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use states::foreign_text::clipped;

use super::{Check, Problem, Report};
use crate::config::Config;

const CHECK: Check = Check::GitlabRunner;

/// gitlab-runner's default for a stage other than `run`, in seconds.
const STAGE_TIMEOUT: u64 = 3600;
/// gitlab-runner's default from SIGTERM to SIGKILL, in seconds.
const KILL_TIMEOUT: u64 = 600;

/// Variables that the driver needs itself.
const CREDENTIALS: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"];

/// The file.
#[derive(Debug, Deserialize)]
struct File {
    concurrent: Option<u32>,
    #[serde(default)]
    runners: Vec<Runner>,
}

#[derive(Debug, Deserialize)]
struct Runner {
    #[serde(default)]
    name: String,
    #[serde(default)]
    executor: String,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    token: String,
    #[serde(default)]
    shell: String,
    #[serde(default)]
    builds_dir: String,
    #[serde(default)]
    cache_dir: String,
    #[serde(default)]
    environment: Vec<String>,
    #[serde(default)]
    custom: Custom,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Custom {
    config_exec: String,
    config_args: Vec<String>,
    prepare_exec: String,
    prepare_args: Vec<String>,
    prepare_exec_timeout: Option<u64>,
    run_exec: String,
    run_args: Vec<String>,
    cleanup_exec: String,
    cleanup_args: Vec<String>,
    cleanup_exec_timeout: Option<u64>,
    graceful_kill_timeout: Option<u64>,
}

impl Custom {
    /// The stages: name, program, arguments.
    fn stages(&self) -> [(&'static str, &str, &[String]); 4] {
        [
            ("config", &self.config_exec, &self.config_args),
            ("prepare", &self.prepare_exec, &self.prepare_args),
            ("run", &self.run_exec, &self.run_args),
            ("cleanup", &self.cleanup_exec, &self.cleanup_args),
        ]
    }
}

/// The runners that call this driver.
#[derive(Debug)]
pub(super) struct Runners {
    concurrent: u32,
    runners: Vec<Runner>,
}

impl Runners {
    /// Finds the file, and checks the runners that call the driver with this configuration. `None`:
    /// there is no such file, or it cannot be used.
    pub(super) fn find(named: Option<&Path>, config: &Path, report: &mut Report) -> Option<Self> {
        let path = match named.map(Path::to_owned).or_else(default_file) {
            Some(path) => path,
            None => {
                report.unknown(CHECK, "No config.toml was found in /etc/gitlab-runner or ~/.gitlab-runner. Name it with --runner-config.");
                return None;
            }
        };
        let shown = path.display().to_string();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == io::ErrorKind::PermissionDenied => {
                report.unknown(CHECK, format!("{shown} cannot be read: {e}."));
                return None;
            }
            Err(e) => {
                report.found(CHECK, Problem::RunnerConfigWrong, [shown, e.to_string()]);
                return None;
            }
        };
        let file: File = match toml::from_str(&text) {
            Ok(file) => file,
            Err(e) => {
                let why = clipped(e.message());
                report.found(CHECK, Problem::RunnerConfigWrong, [shown, why]);
                return None;
            }
        };
        let runners = Self::of(file, config, &shown, report)?;
        for runner in &runners.runners {
            runner.check(report);
        }
        Some(runners)
    }

    /// Chooses the runners that call this driver.
    fn of(file: File, config: &Path, shown: &str, report: &mut Report) -> Option<Self> {
        let custom: Vec<Runner> =
            file.runners.into_iter().filter(|runner| runner.executor == "custom").collect();
        if custom.is_empty() {
            report.found(CHECK, Problem::NoCustomRunner, [shown.to_owned()]);
            return None;
        }
        let wanted = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
        let (ours, others): (Vec<Runner>, Vec<Runner>) = custom.into_iter().partition(|runner| {
            let mut named = runner.custom.stages().into_iter().filter_map(|s| configured(s.2));
            named.any(|named| fs::canonicalize(&named).unwrap_or(named) == wanted)
        });
        let runners = if ours.is_empty() {
            let facts = [shown.to_owned(), wanted.display().to_string()];
            report.found(CHECK, Problem::OtherConfiguration, facts);
            others
        } else {
            ours
        };
        Some(Self { concurrent: file.concurrent.unwrap_or(1), runners })
    }

    /// How many jobs they run at the same time.
    pub(super) fn concurrent(&self) -> u32 {
        // A limit of 0 is none.
        let limits = self.runners.iter().map(|runner| match runner.limit {
            0 => self.concurrent,
            limit => limit,
        });
        self.concurrent.min(limits.fold(0, u32::saturating_add))
    }

    /// Makes the checks that need the driver's configuration, if it has no mistakes.
    pub(super) fn conclude(&self, config: Option<&Config>, report: &mut Report) {
        if let Some(config) = config {
            self.check_deadlines(config, report);
        }
        if report.is_clean(CHECK) {
            let names: Vec<&str> = self.runners.iter().map(Runner::name).collect();
            let (names, jobs) = (clipped(&names.join(", ")), self.concurrent());
            let jobs = if jobs == 1 { "1 job".to_owned() } else { format!("{jobs} jobs") };
            report.pass(CHECK, format!("{names}: up to {jobs} at the same time."));
        }
    }

    /// Compares gitlab-runner's time-outs with the driver's deadlines.
    fn check_deadlines(&self, config: &Config, report: &mut Report) {
        let limits = &config.limits;
        let prepare = limits.provisioning + limits.pending + limits.running;
        for runner in &self.runners {
            let custom = &runner.custom;
            let name = || clipped(runner.name());
            let stages = [
                ("prepare", custom.prepare_exec_timeout, prepare),
                ("cleanup", custom.cleanup_exec_timeout, limits.stop),
            ];
            for (stage, timeout, own) in stages {
                let timeout = timeout.unwrap_or(STAGE_TIMEOUT);
                if Duration::from_secs(timeout) < own {
                    let facts =
                        [name(), stage.to_owned(), timeout.to_string(), own.as_secs().to_string()];
                    report.found(CHECK, Problem::StageTimeout, facts);
                }
            }
            // A cancelled `run` ends its script, and a cancelled `prepare` its task.
            let timeout = custom.graceful_kill_timeout.unwrap_or(KILL_TIMEOUT);
            for (key, own) in [("GracePeriod", limits.grace), ("Stop", limits.stop)] {
                if Duration::from_secs(timeout) <= own {
                    let facts =
                        [name(), timeout.to_string(), key.to_owned(), own.as_secs().to_string()];
                    report.found(CHECK, Problem::KillTimeout, facts);
                }
            }
        }
    }
}

impl Runner {
    /// Its name for people.
    fn name(&self) -> &str {
        if self.name.is_empty() { "without a name" } else { &self.name }
    }

    fn check(&self, report: &mut Report) {
        let name = || clipped(self.name());
        if let Some(token) = wrong_token(&self.token) {
            report.found(CHECK, Problem::NoRunnerToken, [name(), token.to_owned()]);
        }
        if !["", "bash", "sh"].contains(&&*self.shell) {
            report.found(CHECK, Problem::NotAPosixShell, [name(), clipped(&self.shell)]);
        }
        for (key, value) in [("builds_dir", &self.builds_dir), ("cache_dir", &self.cache_dir)] {
            if value.is_empty() {
                report.found(CHECK, Problem::NoRunnerDirectory, [name(), key.to_owned()]);
            }
        }
        for variable in &self.environment {
            let key = variable.split('=').next().unwrap_or_default();
            if CREDENTIALS.contains(&key) {
                report.found(CHECK, Problem::CredentialsInJobs, [name(), key.to_owned()]);
            }
        }
        for (stage, program, arguments) in self.custom.stages() {
            let stage_name = || stage.to_owned();
            if program.is_empty() {
                if stage == "config" {
                    report.found(CHECK, Problem::NoConfigStage, [name()]);
                } else {
                    report.found(CHECK, Problem::NoStageProgram, [name(), stage_name()]);
                }
                continue;
            }
            if !is_program(program) {
                let facts = [name(), clipped(program), stage_name()];
                report.found(CHECK, Problem::NoProgram, facts);
            } else if let Some(own) = other_program(program) {
                let facts = [name(), clipped(program), stage_name(), own];
                report.found(CHECK, Problem::OtherProgram, facts);
            }
            if !calls_stage(arguments, stage) {
                let facts = [name(), stage_name(), clipped(&format!("{arguments:?}"))];
                report.found(CHECK, Problem::WrongArguments, facts);
            }
            if !configured(arguments).is_some_and(|config| config.is_absolute()) {
                report.found(CHECK, Problem::NoConfigArgument, [name(), stage_name()]);
            }
        }
    }
}

/// What a runner has in place of an authentication token: nothing, a placeholder of this driver's
/// examples, or a registration token, which `gitlab-runner register` exchanges.
fn wrong_token(token: &str) -> Option<&'static str> {
    match token {
        "" => Some("nothing"),
        "RUNNER_TOKEN" | "glrt-REPLACE-ME" => Some("a placeholder"),
        _ if token.starts_with("GR1348941") => Some("a registration token"),
        _ => None,
    }
}

/// This program's path, if a stage calls another one.
fn other_program(program: &str) -> Option<String> {
    let own = env::current_exe().and_then(fs::canonicalize).ok()?;
    let called = fs::canonicalize(program).ok()?;
    (called != own).then(|| clipped(&own.display().to_string()))
}

/// The file that gitlab-runner uses as root, or as the user.
fn default_file() -> Option<PathBuf> {
    let of_user = env::home_dir().map(|home| home.join(".gitlab-runner/config.toml"));
    let candidates = [Some(PathBuf::from("/etc/gitlab-runner/config.toml")), of_user];
    candidates.into_iter().flatten().find(|path| path.exists())
}

/// Whether the arguments are `custom` and the stage, in this order. Options may be between them.
fn calls_stage(arguments: &[String], stage: &str) -> bool {
    let mut rest = arguments.iter().skip_while(|argument| *argument != "custom").skip(1);
    rest.find(|argument| !argument.starts_with('-')).is_some_and(|word| word == stage)
}

/// The configuration that the arguments name.
fn configured(arguments: &[String]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    let named = arguments.find_map(|argument| {
        let rest = argument.strip_prefix("--config")?;
        Some(rest.strip_prefix('=').map(str::to_owned))
    })?;
    named.or_else(|| arguments.next().cloned()).map(PathBuf::from)
}

/// Whether a program can be executed: a path, or a name that is found in `PATH`.
fn is_program(program: &str) -> bool {
    let is_executable = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| is_executable(&directory.join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn arguments_name_the_stage_after_custom() {
        for (arguments, is_right) in [
            (&["--config", "/f", "custom", "prepare"][..], true),
            (&["/opt/fargate", "--config", "/f", "custom", "prepare", "--wait"], true),
            (&["custom", "--trust-job-variables", "prepare"], true),
            (&["custom", "run"], false),
            (&["prepare"], false),
            (&["prepare", "custom"], false),
            (&[], false),
        ] {
            assert_eq!(calls_stage(&words(arguments), "prepare"), is_right, "{arguments:?}");
        }
    }

    #[test]
    fn the_configuration_is_found_in_both_forms() {
        let path = |arguments: &[&str]| configured(&words(arguments));
        assert_eq!(path(&["--config", "/f", "custom"]), Some("/f".into()));
        assert_eq!(path(&["--debug", "--config=/f", "custom"]), Some("/f".into()));
        assert_eq!(path(&["custom", "run"]), None);
        assert_eq!(path(&["--config"]), None);
    }

    #[test]
    fn the_limits_of_runners_bound_the_jobs() {
        let runners = |concurrent, limits: &[u32]| Runners {
            concurrent,
            runners: limits
                .iter()
                .map(|limit| toml::from_str(&format!("limit = {limit}")).unwrap())
                .collect(),
        };
        assert_eq!(runners(10, &[0]).concurrent(), 10);
        assert_eq!(runners(10, &[3, 4]).concurrent(), 7);
        assert_eq!(runners(5, &[3, 4]).concurrent(), 5);
    }

    #[test]
    fn the_example_of_getting_started_has_no_mistakes() {
        let page = include_str!("../../docs/getting-started.md");
        let example = page.split("```toml\n").nth(2).unwrap().split("```").next().unwrap();
        let file: File = toml::from_str(example).unwrap();
        let runner = &file.runners[0];
        for (stage, program, arguments) in runner.custom.stages() {
            assert_eq!(program, "/opt/gitlab-runner/fargate");
            assert!(calls_stage(arguments, stage), "{stage}: {arguments:?}");
            assert_eq!(configured(arguments), Some("/etc/gitlab-runner/fargate.toml".into()));
        }
        assert!(!runner.builds_dir.is_empty() && !runner.cache_dir.is_empty());
    }
}
