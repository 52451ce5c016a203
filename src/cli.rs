//! The command line, compatible with GitLab's Go driver.

use std::{env, ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use tracing::{Instrument as _, level_filters::LevelFilter};

use crate::{
    config::{Config, TransportKind},
    local,
    logging::{LEVELS, LogFormat, Logging},
    manual::Manual,
    reap::Reaper,
    runner::{Contract, Identity, Verdict},
    stages::{self, Flags, JobLog, Session},
    telemetry,
    trial::Trial,
};

/// Runs every GitLab CI job in its own AWS ECS Fargate task.
#[derive(Debug, Parser)]
#[command(name = "fargate", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The driver's configuration [default: config.toml; `try` without it uses an embedded local cluster]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The same as --log-level debug
    #[arg(long, global = true)]
    debug: bool,
    /// Least important level that is logged: panic, fatal, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level)]
    log_level: Option<LevelFilter>,
    /// File that the log is appended to, instead of LogFile
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// How the log looks
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// Task definition: goes before the file's and the project's
    #[arg(long, global = true, value_name = "TASK_DEFINITION")]
    task_def: Option<String>,
    /// Fargate platform version: goes before the file's and the project's
    #[arg(long, global = true, value_name = "VERSION")]
    platform_version: Option<String>,
    /// File that entered states are appended to (`try` reads it)
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    state_log: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The stages that gitlab-runner's custom executor calls
    Custom {
        #[command(subcommand)]
        stage: Stage,
    },
    /// Play gitlab-runner: run scripts as one job, on an embedded local cluster unless --config names another
    Try {
        /// How scripts are delivered, on the embedded cluster [default: ssh]; with --config, the file says it
        #[arg(long, value_enum)]
        transport: Option<TransportName>,
        /// The scripts, a run stage each
        #[arg(required = true, value_name = "SCRIPT")]
        scripts: Vec<PathBuf>,
    },
    /// End what no job needs any more: tasks without a job, jobs without a task, abandoned jobs
    Reap {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Jobs that nobody has worked on for so long are abandoned; tasks without a job this old are orphans.
        /// 0s: whatever no process works on at this moment
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
        older_than: Duration,
        /// Only tasks of the runner manager of this name (its host name, or its Manager), for one that is gone:
        /// whatever jobs it still has lose their tasks
        #[arg(long, value_name = "NAME")]
        manager: Option<String>,
    },
    /// Serve the embedded local cluster until SIGTERM, for a gitlab-runner without AWS
    LocalCluster {
        /// Where its API listens; port 0 is any free one
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    #[command(flatten)]
    Manual(Manual),
}

#[derive(Debug, Subcommand)]
enum Stage {
    /// Tell gitlab-runner who the driver is
    Config,
    /// Launch the job's task and wait until its container answers
    Prepare,
    /// Run a script in the job's container
    Run {
        /// The script's file on the runner manager
        #[arg(value_name = "SCRIPT")]
        script: PathBuf,
        /// The stage's name
        #[arg(value_name = "STAGE")]
        stage: String,
    },
    /// Stop the job's task
    Cleanup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportName {
    /// SSH: the container runs an SSH server
    Ssh,
    /// ECS Exec: the container needs nothing but a shell
    EcsExec,
}

impl TransportName {
    fn kind(self) -> TransportKind {
        match self {
            Self::Ssh => TransportKind::Ssh,
            Self::EcsExec => TransportKind::EcsExec,
        }
    }
}

fn parse_level(name: &str) -> Result<LevelFilter, String> {
    crate::logging::level(name).ok_or_else(|| format!("expected one of {}", LEVELS.join(", ")))
}

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => {
            // If even this cannot be printed, the exit code must do.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => unusable(),
            }
        }
    }
}

impl Cli {
    fn run(self) -> ExitCode {
        // Stages are short and wait most of the time: one thread is the least memory and the quickest start.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return fail(&format!("the runtime does not start: {e}")),
        };
        let global = self.global;
        let code = match self.command {
            Command::Custom { stage } => match Contract::from_env() {
                Ok(contract) => contract.conclude(&runtime.block_on(custom(&global, stage))),
                Err(e) => return fail(&e.to_string()),
            },
            Command::Try { transport, scripts } => {
                if let (Some(path), Some(wanted)) = (&global.config, transport) {
                    // The stages read the file: what it says must be what was asked for.
                    match Config::load(path) {
                        Ok((config, _)) if config.transport == wanted.kind() => {}
                        Ok(_) => {
                            return fail(&format!(
                                "--transport is not what {} says: change Transport there, or leave one of the two flags out",
                                path.display()
                            ));
                        }
                        Err(e) => return fail(&e.to_string()),
                    }
                }
                let transport = transport.map_or_else(TransportKind::default, TransportName::kind);
                let trial = Trial { scripts, config: global.config.clone(), transport, flags: global.passed_on() };
                runtime.block_on(trial.run()).unwrap_or_else(|e| fail(&e.to_string()))
            }
            Command::Reap { dry_run, older_than, manager } => {
                runtime.block_on(reap(&global, &Reaper { dry_run, older_than, manager })).unwrap_or_else(|e| fail(&e))
            }
            Command::LocalCluster { listen } => match start_logging(&global, None)
                .and_then(|()| runtime.block_on(local::serve(listen)).map_err(|e| format!("the local cluster did not start: {e}")))
            {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => fail(&e),
            },
            Command::Manual(manual) => manual.run(Self::command()).unwrap_or_else(|e| fail(&e)),
        };
        // A write to a job log that nobody reads any more must not keep the process.
        runtime.shutdown_background();
        code
    }
}

async fn custom(global: &Global, stage: Stage) -> Verdict {
    perform(global, stage).await.unwrap_or_else(|why| Verdict::SystemFailure(format!("fargate: {why}")))
}

/// Reaps; the exit code is 1 when something could not be done.
async fn reap(global: &Global, reaper: &Reaper) -> Result<ExitCode, String> {
    let config = load(global, true)?;
    let summary = reaper.run(&config).await;
    telemetry::flush().await;
    let summary = summary.map_err(|e| e.to_string())?;
    println!("{summary}{}", if reaper.dry_run { " (dry run: nothing was done)" } else { "" });
    Ok(if summary.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the configuration and starts logging; `warn` says on stderr too what is probably not meant.
fn load(global: &Global, warn: bool) -> Result<Config, String> {
    let path = global.config.clone().unwrap_or_else(|| PathBuf::from("config.toml"));
    let (config, warnings) = Config::load(&path).map_err(|e| e.to_string())?;
    let complaints = telemetry::start(&config);
    start_logging(global, Some(&config))?;
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    for warning in &warnings {
        tracing::warn!("{}: {warning}", path.display());
        if warn {
            eprintln!("fargate: warning: {}: {warning}", path.display());
        }
    }
    Ok(config)
}

async fn perform(global: &Global, stage: Stage) -> Result<Verdict, String> {
    // Warnings once per job, where somebody sees them; every stage would be too often.
    let config = load(global, matches!(stage, Stage::Config))?;
    if matches!(stage, Stage::Config) {
        let verdict = stages::config();
        // What `config` cannot say of the job, `prepare` will complain of.
        if let (Some(recorder), Ok(identity)) = (telemetry::recorder(), Identity::from_env()) {
            telemetry::enter(recorder, &config.metadata.directory, &identity, "config", None);
            recorder.leave(&verdict, false);
            telemetry::flush().await;
        }
        return Ok(verdict);
    }
    let identity = Identity::from_env().map_err(|e| e.to_string())?;
    let directory = config.metadata.directory.clone();
    let flags = Flags { task_definition: global.task_def.clone(), platform_version: global.platform_version.clone() };
    let session = Session::new(config, flags, identity, global.state_log.clone()).map_err(|e| e.to_string())?;
    let mut log = JobLog::new(session.state_log().clone()).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let Some(recorder) = telemetry::recorder() else { return Ok(work(&session, stage, &mut log).await) };
    let name = match &stage {
        Stage::Config => "config".to_owned(),
        Stage::Prepare => "prepare".to_owned(),
        Stage::Run { stage, .. } => format!("run {stage}"),
        Stage::Cleanup => "cleanup".to_owned(),
    };
    telemetry::enter(recorder, &directory, session.identity(), &name, session.kept_trace().as_deref());
    let verdict = work(&session, stage, &mut log).instrument(telemetry::log_span(recorder)).await;
    recorder.count("fargate.output", Vec::new(), log.written());
    recorder.leave(&verdict, log.was_cancelled());
    telemetry::flush().await;
    Ok(verdict)
}

async fn work(session: &Session, stage: Stage, log: &mut JobLog) -> Verdict {
    match stage {
        Stage::Config => stages::config(),
        Stage::Prepare => stages::prepare(session, log).await,
        Stage::Run { script, stage } => stages::run(session, &script, &stage, log).await,
        Stage::Cleanup => stages::cleanup(session, log).await,
    }
}

fn start_logging(global: &Global, config: Option<&Config>) -> Result<(), String> {
    let level = global.log_level.or_else(|| config.map(|c| c.log_level)).unwrap_or(LevelFilter::INFO);
    let logging = Logging {
        level: if global.debug { level.max(LevelFilter::DEBUG) } else { level },
        file: global.log_file.clone().or_else(|| config.and_then(|c| c.log_file.clone())),
        format: global.log_format.or_else(|| config.map(|c| c.log_format)).unwrap_or_default(),
    };
    logging.start().map_err(|e| e.to_string())
}

impl Global {
    /// The flags that `try` passes on to the stages.
    fn passed_on(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if self.debug {
            flags.push("--debug".into());
        }
        let mut pass = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                flags.extend([name.into(), value]);
            }
        };
        pass("--log-level", self.log_level.map(|level| level.to_string().into()));
        pass("--log-file", self.log_file.clone().map(Into::into));
        pass("--log-format", self.log_format.and_then(|f| f.to_possible_value().map(|v| v.get_name().into())));
        pass("--task-def", self.task_def.clone().map(Into::into));
        pass("--platform-version", self.platform_version.clone().map(Into::into));
        flags
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("fargate: {why}");
    unusable()
}

/// gitlab-runner's code for system failures where it gave one; else the one it uses today.
fn unusable() -> ExitCode {
    ExitCode::from(
        env::var("SYSTEM_FAILURE_EXIT_CODE").ok().and_then(|code| code.trim().parse().ok()).filter(|code| *code != 0).unwrap_or(2_u8),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn takes_what_the_go_drivers_users_have_in_config_toml() {
        let cli =
            Cli::try_parse_from(["fargate", "--config", "/etc/fargate.toml", "custom", "run", "/tmp/script", "build_script"]).unwrap();
        assert_eq!(cli.global.config.as_deref(), Some(std::path::Path::new("/etc/fargate.toml")));
        assert!(matches!(cli.command, Command::Custom { stage: Stage::Run { .. } }));
    }

    #[test]
    fn a_trial_passes_its_flags_on_in_a_form_that_stages_take() {
        let cli =
            Cli::try_parse_from(["fargate", "--debug", "--log-level", "warning", "--log-format", "json", "--task-def", "t:1", "try", "x"])
                .unwrap();
        let mut again = vec![OsString::from("fargate")];
        again.extend(cli.global.passed_on());
        again.extend(["custom".into(), "config".into()]);
        let global = Cli::try_parse_from(again).unwrap().global;
        assert_eq!((global.debug, global.log_level, global.log_format), (true, Some(LevelFilter::WARN), Some(LogFormat::Json)));
        assert_eq!(global.task_def.as_deref(), Some("t:1"));
    }
}
