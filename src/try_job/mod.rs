//! `fargate try`: plays gitlab-runner for one job, to try an installation or the driver itself.
//!
//! It calls the stages as gitlab-runner does: each in a new process of this binary, with the
//! contract's environment. So a CI job behaves alike.

mod runner;
mod timeline;

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use local_cluster::{LocalCluster, Settings};

use states::Limits;
use transports::Declaration;

use crate::{
    config::{Config, ConfigError},
    local::TimeOptions,
};

pub(crate) use runner::Ended;
use runner::Runner;
use timeline::Timeline;

/// A job to try.
#[derive(Debug, Clone)]
pub struct TryJob {
    /// The scripts, one run stage each.
    pub scripts: Vec<PathBuf>,
    /// `fargate.toml` of the cluster to use; without one, the embedded local cluster is used.
    pub config: Option<PathBuf>,
    /// The job's `image:`.
    pub image: Option<String>,
    /// The job's `services:`.
    pub services: Vec<String>,
    /// The embedded cluster's images: a directory of root file systems.
    pub images: PathBuf,
    /// The transport. On the embedded cluster, the default is SSH. With a `fargate.toml`, it must
    /// be that of the file.
    pub transport: Option<&'static Declaration>,
    /// The times of the embedded cluster. With a `fargate.toml`, no profile may be named.
    pub times: TimeOptions,
    /// Flags that are passed to every stage.
    pub flags: Vec<std::ffi::OsString>,
}

/// Why the job could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TryJobError {
    /// A script cannot be read.
    #[error("the script {} cannot be read: {source}", path.display())]
    Script {
        /// The script.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The script is not a regular file.
    #[error("the script {} is not a file", .0.display())]
    NoFile(PathBuf),
    /// There is no usable configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The options contradict the configuration.
    #[error("--transport differs from Transport in {}: change it there, or omit one of the two flags", .0.display())]
    OtherTransport(PathBuf),
    /// Times were requested for a cluster other than the embedded one.
    #[error(
        "--profile cannot be used with --config: it sets the embedded cluster's times. Leave one of the two flags out"
    )]
    OtherCluster,
    /// The embedded cluster did not start.
    #[error("the embedded local cluster did not start: {0}")]
    Cluster(#[from] local_cluster::StartError),
    /// A file or process for the job could not be created.
    #[error("cannot {what}: {source}")]
    Io {
        /// The attempted action.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl TryJobError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// How a job went.
#[derive(Debug)]
pub(crate) struct Tried {
    /// How it ended.
    pub(crate) ended: Ended,
    /// Its states, and how long each took.
    pub(crate) spans: Vec<(String, Duration)>,
}

impl TryJob {
    /// Runs the job and returns the exit status of its first failing script; 0 when all is well,
    /// and 70 (sysexits' EX_SOFTWARE) for a system failure.
    ///
    /// # Errors
    /// When the job could not be started.
    pub async fn run(&self) -> Result<ExitCode, TryJobError> {
        Ok(match self.perform().await?.ended {
            Ended::Succeeded => ExitCode::SUCCESS,
            Ended::Script(code) => {
                ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX).max(1))
            }
            Ended::System => ExitCode::from(70),
        })
    }

    /// Runs the job.
    ///
    /// # Errors
    /// When the job could not be started.
    pub(crate) async fn perform(&self) -> Result<Tried, TryJobError> {
        for path in &self.scripts {
            let script = std::fs::File::open(path).and_then(|file| file.metadata());
            if !script
                .map_err(|source| TryJobError::Script { path: path.clone(), source })?
                .is_file()
            {
                return Err(TryJobError::NoFile(path.clone()));
            }
        }
        let config = self.checked()?;
        let grace = config.as_ref().map_or(Limits::default().grace, |config| config.limits.grace);
        if !self.flags.iter().any(|flag| flag.to_string_lossy().starts_with("--task-def")) {
            for choice in config.iter().flat_map(Config::open_choices) {
                eprintln!("fargate: warning: {choice}");
            }
        }
        let place = tempfile::Builder::new()
            .prefix("fargate-try-")
            .tempdir()
            .map_err(TryJobError::io("make a temporary directory"))?;
        let (config, cluster, environment) = match &self.config {
            Some(config) => (config.clone(), None, Vec::new()),
            None => {
                let settings = self.times.settings();
                let times = settings.times;
                let images = Some(self.images.clone());
                let cluster = LocalCluster::start(Settings { images, ..settings }).await?;
                let config = place.path().join("fargate.toml");
                let mut text = crate::local::configuration(
                    self.transport.unwrap_or_else(crate::transport::default),
                    cluster.ssh_port(),
                    &place.path().join("metadata"),
                );
                // The user of this command has chosen the images.
                text.push_str("\n[Images]\nAllowed = [\"*\"]\n");
                std::fs::write(&config, text)
                    .map_err(TryJobError::io("write fargate.toml for the embedded cluster"))?;
                eprintln!(
                    "No --config: using an embedded local cluster. Its tasks are processes on this machine."
                );
                if let Some(line) = self.times.described(&times) {
                    eprintln!("{line}");
                }
                let environment =
                    crate::local::environment(&cluster.endpoint(), cluster.credentials());
                (config, Some(cluster), environment)
            }
        };
        let mut timeline = Timeline::watch(place.path().join("states"));
        let wishes = (self.image.as_deref(), &self.services[..]);
        let mut runner =
            Runner::new(place.path(), &config, &self.flags, environment, wishes, grace)
                .map_err(TryJobError::io("play gitlab-runner"))?;
        let ended =
            self.job(&mut runner, &mut timeline).await.map_err(TryJobError::io("run a stage"));
        if let Some(cluster) = cluster {
            cluster.shutdown().await;
        }
        Ok(Tried { ended: ended?, spans: timeline.close() })
    }

    /// Checks the named configuration first, so that not every stage reports its errors.
    fn checked(&self) -> Result<Option<Config>, TryJobError> {
        let Some(path) = &self.config else { return Ok(None) };
        if self.times.profile.is_some() {
            return Err(TryJobError::OtherCluster);
        }
        let (config, _) = Config::load(Some(path))?;
        match self.transport {
            Some(wanted) if wanted != config.transport => {
                Err(TryJobError::OtherTransport(path.clone()))
            }
            _ => Ok(Some(config)),
        }
    }

    async fn job(&self, runner: &mut Runner, timeline: &mut Timeline) -> io::Result<Ended> {
        let mut ended = runner.stage(&["config"], timeline).await?;
        if ended == Ended::Succeeded {
            ended = runner.stage(&["prepare"], timeline).await?;
        }
        for (number, script) in self.scripts.iter().enumerate() {
            if ended != Ended::Succeeded || runner.interrupted() {
                break;
            }
            let script = script.to_string_lossy();
            let stage = if self.scripts.len() == 1 {
                "build_script".to_owned()
            } else {
                format!("step_{}", number + 1)
            };
            ended = runner.stage(&["run", &script, &stage], timeline).await?;
        }
        // As in gitlab-runner: always, and its result changes nothing. It waits, as the local
        // cluster ends with this process and the user should see the task's end.
        let _ = runner.stage(&["cleanup", "--wait"], timeline).await?;
        Ok(ended)
    }
}

/// The interval between reads of the state log.
const LOOK: Duration = Duration::from_millis(10);
