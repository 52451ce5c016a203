//! The command line, compatible with GitLab's Go driver: what it says is done here.

mod definition;

use std::{env, io, net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use ::replay::{Driver as _, Failure, Location};
use bytes::Bytes;
use clap::error::ErrorKind;
use states::foreign_text;
use tokio::net::TcpListener;
use tracing::{Instrument as _, level_filters::LevelFilter};

use self::definition::{Cli, Command, Global, Stage, definition, parse};
use crate::{
    config::{Config, DEFAULT_FILE},
    console::stderr_line,
    local,
    logging::{self, Logging},
    ownership,
    reap::Reaper,
    replay::configuration::Configuration,
    runner::{Contract, Identity, StageEnvironment, Trust, Verdict},
    service::{
        self, Hello, RequestedStage, Served, Undone, protocol::Request, source::DirectorySource,
        status,
    },
    stages::{self, Flags, Host, JobLog, ProcessIo, Session, StageLog},
    telemetry,
    try_job::TryJob,
};

/// The service's threads, at most: encryption of its connections is most of its work.
const SERVICE_THREADS: usize = 4;

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
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        if matches!(self.command, Command::Serve { .. }) {
            runtime = tokio::runtime::Builder::new_multi_thread();
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            runtime.worker_threads(cores.min(SERVICE_THREADS));
        }
        let runtime = match runtime.enable_all().build() {
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
            Command::Serve { listen } => match runtime.block_on(serve(&global, listen)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => fail(&e),
            },
            Command::Status { json } => status(&global, json).unwrap_or_else(|e| {
                stderr_line(format_args!("fargate: {e}"));
                ExitCode::from(status::UNKNOWN)
            }),
            Command::LocalCluster { listen, times, images } => {
                match start_logging(&global, None, false).and_then(|()| {
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
    let loaded = match load(global, matches!(stage, Stage::Config), false) {
        Ok(loaded) => loaded,
        Err(why) => return Verdict::SystemFailure(format!("fargate: {why}")),
    };
    let trust = if trust_job_variables || loaded.config.runner.trust_job_variables {
        Trust::JobVariables
    } else {
        Trust::ResponseFile
    };
    let environment = StageEnvironment::of_process();
    let identity = Identity::of(&environment, trust).map_err(|e| e.to_string());
    let job = identity.as_ref().map_or("unknown", |identity| identity.about.job_id.as_str());
    let logged = StageLog::begin(&stage.to_string(), job);
    let span = logged.span();
    async {
        let mut cancelled = false;
        let done =
            perform(global, loaded, (identity, environment, trust), stage, &mut cancelled).await;
        let verdict = done.unwrap_or_else(|why| Verdict::SystemFailure(format!("fargate: {why}")));
        logged.end(&verdict, cancelled);
        verdict
    }
    .instrument(span)
    .await
}

/// Reaps; the exit code is 1 when something could not be done.
async fn reap(global: &Global, reaper: &Reaper) -> Result<ExitCode, String> {
    let Loaded { config, .. } = load(global, true, false)?;
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

/// Hosts stages until SIGTERM.
async fn serve(global: &Global, listen: Option<SocketAddr>) -> Result<(), String> {
    let Loaded { config, hello } = load(global, true, true)?;
    let service = service::serve(config, hello);
    let Some(address) = listen else { return service.await.map_err(|e| e.to_string()) };
    let settings = Configuration::new(global.config.as_deref()).load_settings();
    let location = Location::of_settings(settings.map_err(|e| e.to_string())?);
    let source = DirectorySource::new(location.map_err(|e| e.to_string())?);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("the page cannot be served at {address}: {e}"))?;
    if let Ok(address) = listener.local_addr() {
        println!("fargate serve: page: http://{address}/");
    }
    tokio::select! {
        served = service => served.map_err(|e| e.to_string()),
        shown = service::http::serve(listener, Arc::new(source)) => {
            shown.map_err(|e| e.to_string())
        }
    }
}

/// A configuration, and what it follows from.
struct Loaded {
    config: Config,
    hello: Hello,
}

/// Reads the configuration and starts logging; `warn` says on stderr too what is probably not
/// meant. `of_service` is [`Logging::of_service`].
fn load(global: &Global, warn: bool, of_service: bool) -> Result<Loaded, String> {
    let path = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let read = Config::text(global.config.as_deref())
        .and_then(|text| Ok((Config::parse(&text, path)?, text)));
    let ((config, warnings), text) = match read {
        Ok(read) => read,
        Err(e) => {
            // Where the log goes is in that file, unless the command line says it.
            if global.log_file.is_some() {
                start_logging(global, None, of_service)?;
                tracing::error!("{e}");
            }
            return Err(e.to_string());
        }
    };
    let complaints = telemetry::start(&config, &ownership::manager(&config));
    start_logging(global, Some(&config), of_service)?;
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    if warn && global.task_def.is_none() {
        // For the administrator, who reads the log; the CI user reads stderr.
        for choice in config.open_choices() {
            tracing::warn!("{}: {choice}", path.display());
        }
        if let Some(caution) = config.telemetry.effective().0.caution() {
            tracing::warn!("{}: {caution}", path.display());
        }
    }
    for warning in &warnings {
        tracing::warn!("{}: {warning}", path.display());
        if warn {
            stderr_line(format_args!("fargate: warning: {}: {warning}", path.display()));
        }
    }
    Ok(Loaded { hello: service::hello(&text, service::environment()), config })
}

async fn perform(
    global: &Global,
    Loaded { config, hello }: Loaded,
    (identity, environment, trust): (Result<Identity, String>, StageEnvironment, Trust),
    stage: Stage,
    cancelled: &mut bool,
) -> Result<Verdict, String> {
    // Also before `config` answers: a job that cannot be told from others fails at its first stage.
    let identity = identity?;
    if matches!(stage, Stage::Config) {
        stages::store(&config).map_err(|e| e.to_string())?;
        let verdict = stages::config(&config, &environment);
        telemetry::enter(&config.metadata.directory, &identity, "config", None);
        telemetry::leave(&verdict, false);
        telemetry::flush().await;
        return Ok(verdict);
    }
    let directory = config.metadata.directory.clone();
    let flags = Flags {
        task_definition: global.task_def.clone(),
        platform_version: global.platform_version.clone(),
    };
    let name = stage.to_string();
    let mut io = ProcessIo::new().map_err(|e| format!("cannot listen for signals: {e}"))?;
    // Also before a service is asked: others must not be able to change the directory.
    stages::store(&config).map_err(|e| e.to_string())?;
    let stage = Prepared::of(stage);
    let mut undone = Undone::default();
    if may_be_served(global, &config)
        && let Some((requested, script)) = stage.requested()
        && let Some(environment) = environment.to_send()
    {
        let request = Request {
            stage: requested,
            environment,
            trusts_variables: trust == Trust::JobVariables,
            flags: flags.clone(),
        };
        match service::serve_stage(&directory, &identity.id, &hello, request, script, &mut io).await
        {
            Served::Done(done) => {
                *cancelled = done.cancelled;
                return Ok(done.verdict);
            }
            Served::Undone(rest) => undone = rest,
        }
    }
    if undone.cancelled {
        io.repeat_cancel();
    }
    let host = Arc::new(Host::new(config).map_err(|e| e.to_string())?);
    let mut session =
        Session::new(host, flags, identity, Arc::new(environment), global.state_log.clone());
    session.continue_from(undone.begun);
    let mut log = JobLog::new(session.state_log().clone(), Box::new(io));
    if telemetry::is_on() {
        let kept = session.kept_trace();
        telemetry::enter(&directory, session.identity(), &name, kept.as_deref());
    }
    // In a box, as the compiler's limit for the depth of nested futures is near.
    let work = Box::pin(work(&session, stage, &mut log));
    let verdict = work.instrument(telemetry::log_span()).await;
    log.end();
    *cancelled = log.was_cancelled();
    telemetry::metric!(monotonic_counter.fargate.output = log.written());
    telemetry::leave(&verdict, *cancelled);
    telemetry::flush().await;
    Ok(verdict)
}

/// A stage that works on a job, with its script.
enum Prepared {
    Prepare,
    Run {
        name: String,
        script: Bytes,
    },
    Cleanup {
        wait: bool,
    },
    /// There is nothing to do.
    Over(Verdict),
}

impl Prepared {
    fn of(stage: Stage) -> Self {
        match stage {
            // It works on no job.
            Stage::Config => Self::Over(Verdict::Success),
            Stage::Prepare => Self::Prepare,
            Stage::Run { script, stage } => {
                let name = foreign_text::clipped(&stage);
                match stages::read_script(&script, &name) {
                    Ok(script) => Self::Run { name, script },
                    Err(verdict) => Self::Over(verdict),
                }
            }
            Stage::Cleanup { wait } => Self::Cleanup { wait },
        }
    }

    /// What a service is asked for, with the script.
    fn requested(&self) -> Option<(RequestedStage, Bytes)> {
        let script =
            if let Self::Run { script, .. } = self { script.clone() } else { Bytes::new() };
        let stage = match self {
            Self::Prepare => RequestedStage::Prepare,
            Self::Run { name, script } => {
                RequestedStage::Run { name: name.clone(), length: script.len() as u64 }
            }
            Self::Cleanup { wait } => RequestedStage::Cleanup { wait: *wait },
            Self::Over(_) => return None,
        };
        Some((stage, script))
    }
}

/// Whether a service may do the stage. Not if its log belongs in the job log, if `try` follows its
/// states, or if the stage is to be in a trace: the service records none.
fn may_be_served(global: &Global, config: &Config) -> bool {
    let has_file = global.log_file.is_some() || config.log_file.is_some();
    let logs_to_stderr = !has_file && level(global, Some(config)) >= LevelFilter::DEBUG;
    !logs_to_stderr && global.state_log.is_none() && !telemetry::is_on()
}

async fn work(session: &Session, stage: Prepared, log: &mut JobLog) -> Verdict {
    match stage {
        Prepared::Prepare => stages::prepare(session, log).await,
        Prepared::Run { name, script } => stages::run(session, script, &name, log).await,
        Prepared::Cleanup { wait } => stages::cleanup(session, wait, log).await,
        Prepared::Over(verdict) => verdict,
    }
}

fn level(global: &Global, config: Option<&Config>) -> LevelFilter {
    let level =
        global.log_level.or_else(|| config.map(|c| c.log_level)).unwrap_or(LevelFilter::INFO);
    if global.debug { level.max(LevelFilter::DEBUG) } else { level }
}

fn start_logging(global: &Global, config: Option<&Config>, of_service: bool) -> Result<(), String> {
    let logging = Logging {
        level: level(global, config),
        file: global.log_file.clone().or_else(|| config.and_then(|c| c.log_file.clone())),
        format: global.log_format.or_else(|| config.map(|c| c.log_format)).unwrap_or_default(),
        of_service,
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
