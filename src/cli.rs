//! The command line, compatible with GitLab's Go driver: what it says is done here.

mod definition;

use std::{env, io, path::Path, process::ExitCode};

use ::replay::{Driver as _, Failure, Location};
use clap::error::ErrorKind;
use states::foreign_text;
use tracing::{Instrument as _, level_filters::LevelFilter};

use self::definition::{Cli, Command, Global, Stage, definition, parse};
use crate::{
    config::{Config, DEFAULT_FILE},
    console::stderr_line,
    local,
    logging::{self, Logging},
    reap::Reaper,
    replay::configuration::Configuration,
    runner::{Contract, Identity, Trust, Verdict},
    service::status,
    stages::{self, Flags, JobLog, Session, StageLog},
    telemetry,
    try_job::TryJob,
};

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    match parse(env::args_os()) {
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
        // Stages are short and wait most of the time: one thread is the least memory and the
        // quickest start.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return fail(&format!("the runtime does not start: {e}")),
        };
        let global = self.global;
        let code = match self.command {
            Command::Custom { trust_job_variables, stage } => match Contract::from_env() {
                Ok(contract) => contract.conclude(&runtime.block_on(custom(
                    &global,
                    trust_job_variables,
                    stage,
                ))),
                Err(e) => return fail(&e.to_string()),
            },
            Command::Try { transport, image, services, images, times, scripts } => {
                let try_job = TryJob {
                    scripts,
                    image,
                    services,
                    images: images.unwrap_or_else(local::images),
                    config: global.config.clone(),
                    transport,
                    times: times.options(),
                    flags: global.passed_on(),
                };
                runtime.block_on(try_job.run()).unwrap_or_else(|e| fail(&e.to_string()))
            }
            Command::Reap { dry_run, older_than, manager } => runtime
                .block_on(reap(&global, &Reaper { dry_run, older_than, manager }))
                .unwrap_or_else(|e| fail(&e)),
            Command::Status { json } => status(&global, json).unwrap_or_else(|e| {
                stderr_line(format_args!("fargate: {e}"));
                ExitCode::from(status::UNKNOWN)
            }),
            Command::LocalCluster { listen, times, images } => {
                match start_logging(&global, None).and_then(|()| {
                    runtime
                        .block_on(local::serve(listen, times.options(), images))
                        .map_err(|e| format!("the local cluster did not start: {e}"))
                }) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(e) => fail(&e),
                }
            }
            Command::Manual(manual) => manual.run(definition()).unwrap_or_else(|e| fail(&e)),
        };
        logging::finish();
        // A write to a job log without a reader must not keep the process.
        runtime.shutdown_background();
        code
    }
}

async fn custom(global: &Global, trust_job_variables: bool, stage: Stage) -> Verdict {
    // Warnings once per job, where users see them; in every stage would be too often.
    let config = match load(global, matches!(stage, Stage::Config)) {
        Ok(config) => config,
        Err(why) => return Verdict::SystemFailure(format!("fargate: {why}")),
    };
    let trust = if trust_job_variables || config.runner.trust_job_variables {
        Trust::JobVariables
    } else {
        Trust::ResponseFile
    };
    let identity = Identity::from_env(trust).map_err(|e| e.to_string());
    let job = identity.as_ref().map_or("unknown", |identity| identity.about.job_id.as_str());
    let logged = StageLog::begin(&stage.to_string(), job);
    let span = logged.span();
    async {
        let mut cancelled = false;
        let done = perform(global, config, identity, stage, &mut cancelled).await;
        let verdict = done.unwrap_or_else(|why| Verdict::SystemFailure(format!("fargate: {why}")));
        logged.end(&verdict, cancelled);
        verdict
    }
    .instrument(span)
    .await
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

/// Prints what runs here.
fn status(global: &Global, json: bool) -> Result<ExitCode, Failure> {
    let configuration = Configuration::new(global.config.as_deref());
    let settings = configuration.load_settings().map_err(|e| Failure::Other(e.to_string()))?;
    match status::run(Location::of_settings(settings)?, json) {
        // The reader, such as `head`, closed the pipe: it has what it wants.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Reads the configuration and starts logging; `warn` says on stderr too what is probably not
/// meant.
fn load(global: &Global, warn: bool) -> Result<Config, String> {
    let path = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let (config, warnings) = match Config::load(global.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(e) => {
            // Where the log goes is in that file, unless the command line says it.
            if global.log_file.is_some() {
                start_logging(global, None)?;
                tracing::error!("{e}");
            }
            return Err(e.to_string());
        }
    };
    let complaints = telemetry::start(&config);
    start_logging(global, Some(&config))?;
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    if warn && global.task_def.is_none() {
        // For the administrator, who reads the log; the CI user reads stderr.
        for choice in config.open_choices() {
            tracing::warn!("{}: {choice}", path.display());
        }
    }
    for warning in &warnings {
        tracing::warn!("{}: {warning}", path.display());
        if warn {
            stderr_line(format_args!("fargate: warning: {}: {warning}", path.display()));
        }
    }
    Ok(config)
}

async fn perform(
    global: &Global,
    config: Config,
    identity: Result<Identity, String>,
    stage: Stage,
    cancelled: &mut bool,
) -> Result<Verdict, String> {
    // Also before `config` answers: a job that cannot be told from others fails at its first stage.
    let identity = identity?;
    if matches!(stage, Stage::Config) {
        stages::store(&config).map_err(|e| e.to_string())?;
        let verdict = stages::config(&config);
        if let Some(recorder) = telemetry::recorder() {
            telemetry::enter(recorder, &config.metadata.directory, &identity, "config", None);
            recorder.leave(&verdict, false);
            telemetry::flush().await;
        }
        return Ok(verdict);
    }
    let directory = config.metadata.directory.clone();
    let flags = Flags {
        task_definition: global.task_def.clone(),
        platform_version: global.platform_version.clone(),
    };
    let session = Session::new(config, flags, identity, global.state_log.clone())
        .map_err(|e| e.to_string())?;
    let mut log = JobLog::new(session.state_log().clone())
        .map_err(|e| format!("cannot listen for signals: {e}"))?;
    let name = stage.to_string();
    if let Some(recorder) = telemetry::recorder() {
        telemetry::enter(
            recorder,
            &directory,
            session.identity(),
            &name,
            session.kept_trace().as_deref(),
        );
    }
    let in_trace = telemetry::recorder().map_or_else(tracing::Span::none, telemetry::log_span);
    let verdict = work(&session, stage, &mut log).instrument(in_trace).await;
    log.end();
    *cancelled = log.was_cancelled();
    if let Some(recorder) = telemetry::recorder() {
        recorder.count("fargate.output", Vec::new(), log.written());
        recorder.leave(&verdict, *cancelled);
        telemetry::flush().await;
    }
    Ok(verdict)
}

async fn work(session: &Session, stage: Stage, log: &mut JobLog) -> Verdict {
    match stage {
        Stage::Config => stages::config(session.configuration()),
        Stage::Prepare => stages::prepare(session, log).await,
        Stage::Run { script, stage } => {
            stages::run(session, &script, &foreign_text::clipped(&stage), log).await
        }
        Stage::Cleanup { wait } => stages::cleanup(session, wait, log).await,
    }
}

fn start_logging(global: &Global, config: Option<&Config>) -> Result<(), String> {
    let level =
        global.log_level.or_else(|| config.map(|c| c.log_level)).unwrap_or(LevelFilter::INFO);
    let logging = Logging {
        level: if global.debug { level.max(LevelFilter::DEBUG) } else { level },
        file: global.log_file.clone().or_else(|| config.and_then(|c| c.log_file.clone())),
        format: global.log_format.or_else(|| config.map(|c| c.log_format)).unwrap_or_default(),
    };
    logging.start().map_err(|e| e.to_string())
}

fn fail(why: &str) -> ExitCode {
    stderr_line(format_args!("fargate: {why}"));
    unusable()
}

/// gitlab-runner's code for system failures where it gave one; else the one it uses today.
fn unusable() -> ExitCode {
    ExitCode::from(
        env::var("SYSTEM_FAILURE_EXIT_CODE")
            .ok()
            .and_then(|code| code.trim().parse().ok())
            .filter(|code| *code != 0)
            .unwrap_or(2_u8),
    )
}
