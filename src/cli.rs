//! The command line, compatible with GitLab's Go driver: what it says is done here.

mod codes;
mod definition;
mod global;

use std::{
    env, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, PoisonError},
};

use ::replay::{Driver as _, Failure, Location};
use bytes::Bytes;
use clap::error::ErrorKind;
use states::foreign_text;
use tracing::{Instrument as _, level_filters::LevelFilter};

use self::{
    definition::{Cli, Command, Stage, definition, parse},
    global::Global,
};
use crate::{
    config::{Config, ConfigError, DEFAULT_FILE, Warning},
    console::stderr_line,
    doctor::{self, Doctor},
    host::{self, Host},
    launch::Flags,
    local,
    logging::{self, Logging},
    ownership,
    reap::Reaper,
    replay::configuration::Configuration,
    runner::{Contract, Identity, StageEnvironment, Trust, Verdict},
    service::{
        self, Configured, Passed, RequestedStage, Served, Undone,
        protocol::Request,
        source::{DirectorySource, Pools, Source as _},
        status,
    },
    stages::{self, JobLog, ProcessIo, Session, StageLog, StageWork},
    telemetry,
    try_job::TryJob,
    warm,
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
        let mut passed = Passed::default();
        if matches!(self.command, Command::Serve { drain: false, .. }) {
            passed = Passed::take();
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
            Command::Serve { drain: true, .. } => {
                runtime.block_on(drain(&global)).unwrap_or_else(|e| fail(&e))
            }
            Command::Serve { listen, .. } => {
                match runtime.block_on(serve(&global, listen, passed)) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(e) => fail(&e),
                }
            }
            Command::Status { json } => status(&global, json).unwrap_or_else(|e| {
                stderr_line(format_args!("fargate: {e}"));
                ExitCode::from(status::UNKNOWN)
            }),
            Command::Doctor { runner_config, json, launch } => {
                let doctor = Doctor { config: global.config.clone(), runner_config, json, launch };
                runtime.block_on(doctor.run()).unwrap_or_else(|e| {
                    stderr_line(format_args!("fargate: {e}"));
                    ExitCode::from(doctor::UNUSABLE)
                })
            }
            Command::Init(arguments) => {
                let init = arguments.init(&global);
                match runtime.block_on(init.run()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(e) => fail(&e.to_string()),
                }
            }
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
    let logged = StageLog::new(&stage.to_string(), job);
    let span = logged.span();
    async {
        let done = perform(global, loaded, (identity, environment, trust), stage, &logged).await;
        done.unwrap_or_else(|why| {
            let verdict = Verdict::SystemFailure(format!("fargate: {why}"));
            logged.end(&verdict, false);
            verdict
        })
    }
    .instrument(span)
    .await
}

/// Reaps; the exit code is 1 when something could not be done.
async fn reap(global: &Global, reaper: &Reaper) -> Result<ExitCode, String> {
    let Configured { config, .. } = load(global, true, false)?;
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
    let pools = configuration.loaded().map(warm::pools).unwrap_or_default();
    match status::run(Location::of_settings(settings)?, &pools, json) {
        // The reader, such as `head`, closed the pipe: it has what it wants.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Hosts stages until SIGTERM, or until it is drained.
async fn serve(global: &Global, listen: Option<SocketAddr>, passed: Passed) -> Result<(), String> {
    let configured = load(global, true, true)?;
    // The page reads the directory, so it has to be there.
    host::store(&configured.config).map_err(|e| e.to_string())?;
    let pools = Pools::default();
    let show = |config: &Config| {
        *pools.lock().unwrap_or_else(PoisonError::into_inner) = warm::pools(config);
    };
    show(&configured.config);
    let reread = || {
        let read = read(global).map_err(|e| e.to_string())?;
        warn_of(&read, false);
        Ok(read.configured)
    };
    let service = service::serve(configured, passed, reread, show);
    let Some(address) = listen else { return service.await.map_err(|e| e.to_string()) };
    let settings = Configuration::new(global.config.as_deref()).load_settings();
    let location = Location::of_settings(settings.map_err(|e| e.to_string())?);
    let source =
        DirectorySource::new(location.map_err(|e| e.to_string())?).with_pools(Arc::clone(&pools));
    let source = Arc::new(source);
    // What ends from now on is counted, also before anyone looks.
    let counting = Arc::clone(&source);
    tokio::task::spawn_blocking(move || counting.overview().map(drop));
    let listener = service::http::listen(address).await.map_err(|e| e.to_string())?;
    if let Ok(address) = listener.local_addr() {
        println!("fargate serve: page: http://{address}/");
    }
    tokio::select! {
        served = service => served.map_err(|e| e.to_string()),
        shown = service::http::serve(listener, source) => {
            shown.map_err(|e| e.to_string())
        }
    }
}

/// Drains the service that runs, or the directory.
async fn drain(global: &Global) -> Result<ExitCode, String> {
    let Configured { config, hello } = load(global, false, false)?;
    let report = |line: &str| println!("fargate serve: {line}");
    let drained = service::drain(config, &hello, report).await;
    telemetry::flush().await;
    Ok(match drained {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            stderr_line(format_args!("fargate: {e}"));
            ExitCode::FAILURE
        }
    })
}

/// A configuration as it was read.
struct ReadConfiguration {
    path: PathBuf,
    configured: Configured,
    warnings: Vec<Warning>,
}

/// Reads the configuration.
fn read(global: &Global) -> Result<ReadConfiguration, ConfigError> {
    let path = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).to_owned();
    let text = Config::text(global.config.as_deref())?;
    let (config, warnings) = Config::parse(&text, &path)?;
    let hello = service::hello(&text, service::environment());
    Ok(ReadConfiguration { path, configured: Configured { config, hello }, warnings })
}

/// Logs what is probably not meant, and also writes it to stderr if users see that.
fn warn_of(read: &ReadConfiguration, is_seen: bool) {
    let path = read.path.display();
    for warning in &read.warnings {
        tracing::warn!("{path}: {warning}");
        if is_seen {
            stderr_line(format_args!("fargate: warning: {path}: {warning}"));
        }
    }
}

/// Reads the configuration and starts logging; `warn` says on stderr too what is probably not
/// meant. `of_service` is [`Logging::of_service`].
fn load(global: &Global, warn: bool, of_service: bool) -> Result<Configured, String> {
    let read = match read(global) {
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
    let (config, path) = (&read.configured.config, read.path.display());
    let (prices, manager) = (config.fargate.prices.as_deref(), ownership::manager(config));
    let directory = of_service.then_some(config.metadata.directory.as_path());
    let complaints = telemetry::start(&config.telemetry, prices, &manager, directory);
    start_logging(global, Some(config), of_service)?;
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    if warn && global.task_def.is_none() {
        // For the administrator, who reads the log; the CI user reads stderr.
        for choice in config.open_choices() {
            tracing::warn!("{path}: {choice}");
        }
        if let Some(caution) = config.telemetry.effective().0.caution() {
            tracing::warn!("{path}: {caution}");
        }
    }
    warn_of(&read, warn);
    Ok(read.configured)
}

/// Performs a stage, or lets the service do it. The process that does it logs how it ends; an error is to be
/// logged by the caller.
async fn perform(
    global: &Global,
    Configured { config, hello }: Configured,
    (identity, environment, trust): (Result<Identity, String>, StageEnvironment, Trust),
    stage: Stage,
    logged: &StageLog,
) -> Result<Verdict, String> {
    // Also before `config` answers: a job that cannot be told from others fails at its first stage.
    let identity = identity?;
    let work = match work_of(stage) {
        Ok(Some(work)) => work,
        Ok(None) => return answer_config(&config, &identity, &environment, logged).await,
        Err(verdict) => {
            logged.end(&verdict, false);
            return Ok(verdict);
        }
    };
    let directory = config.metadata.directory.clone();
    let flags = Flags {
        task_definition: global.task_def.clone(),
        platform_version: global.platform_version.clone(),
    };
    let mut io = ProcessIo::new().map_err(|e| format!("cannot listen for signals: {e}"))?;
    // Also before a service is asked: others must not be able to change the directory.
    host::store(&config).map_err(|e| e.to_string())?;
    let mut undone = Undone::default();
    if may_be_served(global, &config)
        && let Some(environment) = environment.to_send()
    {
        let (stage, script) = requested(&work);
        let trusts_variables = trust == Trust::JobVariables;
        let request = Request { stage, environment, trusts_variables, flags: flags.clone() };
        match service::serve_stage(&directory, &identity.id, &hello, request, script, &mut io).await
        {
            Served::Done(done) => return Ok(done.verdict),
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
    let verdict = work.perform(&session, &mut log, logged, false).await;
    session.settle().await;
    telemetry::flush().await;
    Ok(verdict)
}

/// Tells gitlab-runner who the driver is.
async fn answer_config(
    config: &Config,
    identity: &Identity,
    environment: &StageEnvironment,
    logged: &StageLog,
) -> Result<Verdict, String> {
    logged.begin(false);
    host::store(config).map_err(|e| e.to_string())?;
    let verdict = stages::config(config, environment);
    let directory = &config.metadata.directory;
    let stage = telemetry::enter(directory, identity, environment, "config", || None);
    stage.run(async { logged.end(&verdict, false) }).await;
    stage.leave(&verdict, false);
    telemetry::flush().await;
    Ok(verdict)
}

/// Returns the work of a stage, with its script. `config` has none.
fn work_of(stage: Stage) -> Result<Option<StageWork>, Verdict> {
    Ok(Some(match stage {
        Stage::Config => return Ok(None),
        Stage::Prepare => StageWork::Prepare,
        Stage::Run { script, stage } => {
            let name = foreign_text::clipped(&stage);
            let script = stages::read_script(&script, &name)?;
            StageWork::Run { name, script }
        }
        Stage::Cleanup { wait } => StageWork::Cleanup { wait },
    }))
}

/// Returns what a service is asked for, with the script.
fn requested(work: &StageWork) -> (RequestedStage, Bytes) {
    match work {
        StageWork::Prepare => (RequestedStage::Prepare, Bytes::new()),
        StageWork::Run { name, script } => {
            let length = script.len() as u64;
            (RequestedStage::Run { name: name.clone(), length }, script.clone())
        }
        StageWork::Cleanup { wait } => (RequestedStage::Cleanup { wait: *wait }, Bytes::new()),
    }
}

/// Whether a service may do the stage. Not if its log belongs in the job log, or if `try` follows
/// its states.
fn may_be_served(global: &Global, config: &Config) -> bool {
    let has_file = global.log_file.is_some() || config.log_file.is_some();
    let logs_to_stderr = !has_file && level(global, Some(config)) >= LevelFilter::DEBUG;
    !logs_to_stderr && global.state_log.is_none()
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
