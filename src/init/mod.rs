//! `fargate init`: writes a first `fargate.toml`, from flags, from answers at the terminal, and from
//! what the account has to choose from.
//!
//! It changes nothing in the account and overwrites no file. What it writes is parsed first.

mod questions;
mod template;

use std::{
    fs, io,
    io::{IsTerminal as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use states::ControlError;
use transports::Declaration;

use crate::{
    config::{Config, ConfigError},
    console::{stderr_line, stdout_line},
    control::{EcsControl, Exit, RouteTable, Subnet},
    transport,
};

use self::questions::{Offer, Questions};

/// The default file.
const DEFAULT_FILE: &str = "fargate.toml";
/// The default metadata directory.
const DEFAULT_DIRECTORY: &str = "/opt/gitlab-runner/metadata";

/// What to write, and where.
#[derive(Debug, Clone)]
pub struct Init {
    /// The file; `None`: `fargate.toml` in the working directory.
    pub file: Option<PathBuf>,
    /// Whether nothing is asked, even at a terminal.
    pub no_input: bool,
    /// What need not be asked for.
    pub answers: Answers,
}

/// What is known of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Cluster name or ARN.
    pub cluster: Option<String>,
    /// Region; `None`: the environment's.
    pub region: Option<String>,
    /// The tasks' subnets.
    pub subnets: Vec<String>,
    /// The tasks' security groups.
    pub security_groups: Vec<String>,
    /// Task definition.
    pub task_definition: Option<String>,
    /// The transport.
    pub transport: Option<&'static Declaration>,
    /// Whether tasks get a public address.
    pub public_ip: Option<bool>,
    /// The metadata directory.
    pub directory: Option<PathBuf>,
}

/// Everything that the file has.
#[derive(Debug, Clone)]
struct Settings {
    cluster: String,
    region: String,
    subnets: Vec<String>,
    security_groups: Vec<String>,
    task_definition: String,
    transport: &'static Declaration,
    public_ip: bool,
    directory: PathBuf,
    /// Whether the cluster has a default capacity provider strategy.
    has_strategy: bool,
}

/// Why no file was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The file exists.
    #[error("{} exists, and is not overwritten: name another file with --config, or move it away.", .0.display())]
    Exists(PathBuf),
    /// There is no directory for it.
    #[error("{} cannot be written: its directory does not exist. Create it first, or name another file with --config.", .0.display())]
    NoDirectory(PathBuf),
    /// Flags are missing, and no one can be asked.
    #[error("missing {}. Without a terminal, each has to be given.", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// The questions were not answered.
    #[error("the answers ended too early: nothing was written.")]
    Ended,
    /// The answers make no valid file.
    #[error("these answers make no valid configuration, and nothing was written: {0}")]
    Invalid(#[from] ConfigError),
    /// The file cannot be written.
    #[error("{} cannot be written: {source}.", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The terminal cannot be read or written.
    #[error("the terminal cannot be used: {0}.")]
    Terminal(#[from] io::Error),
}

impl Init {
    /// Asks what is missing, and writes the file.
    ///
    /// # Errors
    /// When it exists, an answer is missing, or it cannot be written. Nothing is written then.
    pub async fn run(&self) -> Result<(), InitError> {
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        if fs::symlink_metadata(&path).is_ok() {
            return Err(InitError::Exists(path));
        }
        // Before the questions, whose answers would be lost.
        if !directory_of(&path).is_dir() {
            return Err(InitError::NoDirectory(path));
        }
        let settings = if self.no_input || !io::stdin().is_terminal() {
            self.without_questions().await?
        } else {
            self.by_questions().await?
        };
        let text = template::render(&settings);
        Config::parse(&text, &path)?;
        write(&path, &text)?;
        let shown = path.display();
        stdout_line(format_args!("{shown} was written."));
        stdout_line(format_args!("Next: fargate --config {shown} doctor"));
        Ok(())
    }

    /// Takes the flags, and defaults for what may be missing.
    async fn without_questions(&self) -> Result<Settings, InitError> {
        let answers = self.answers.clone();
        let control = EcsControl::new(answers.region.clone());
        let region = control.region().await;
        let (Some(cluster), Some(task_definition), Some(region), false) =
            (answers.cluster, answers.task_definition, region, answers.subnets.is_empty())
        else {
            let Answers { cluster, task_definition, subnets, .. } = &self.answers;
            let region = control.region().await;
            let missing = [
                ("--cluster", cluster.is_none()),
                ("--region", region.is_none()),
                ("--subnet", subnets.is_empty()),
                ("--task-def", task_definition.is_none()),
            ];
            let missing = missing.into_iter().filter(|(_, is_missing)| *is_missing);
            return Err(InitError::Missing(missing.map(|(flag, _)| flag).collect()));
        };
        let has_strategy = has_strategy(&control, &cluster).await.unwrap_or_default();
        Ok(Settings {
            cluster,
            region,
            subnets: answers.subnets,
            security_groups: answers.security_groups,
            task_definition,
            transport: answers.transport.unwrap_or_else(transport::default),
            public_ip: answers.public_ip.unwrap_or_default(),
            directory: answers.directory.unwrap_or_else(|| DEFAULT_DIRECTORY.into()),
            has_strategy,
        })
    }

    /// Asks at the terminal for what no flag says.
    async fn by_questions(&self) -> Result<Settings, InitError> {
        let given = self.answers.clone();
        let mut questions = Questions::at_terminal();
        let region = match given.region {
            Some(region) => region,
            None => {
                let own = EcsControl::new(None).region().await;
                questions.text("AWS region", own.as_deref())?
            }
        };
        let control = EcsControl::new(Some(region.clone()));
        let cluster = match given.cluster {
            Some(cluster) => cluster,
            None => {
                let names = offered(control.cluster_names().await, Offer::plain);
                questions.one("Cluster", &names)?
            }
        };
        let task_definition = match given.task_definition {
            Some(task_definition) => task_definition,
            None => {
                let families = offered(control.definition_families().await, Offer::plain);
                questions.one("Task definition", &families)?
            }
        };
        let known = if given.subnets.is_empty()
            || given.security_groups.is_empty()
            || given.public_ip.is_none()
        {
            control.subnets(&given.subnets).await
        } else {
            Ok(Vec::new())
        };
        let vpc_of = |id: &String| {
            known.iter().flatten().find(|subnet| subnet.id == *id).map(|subnet| subnet.vpc.clone())
        };
        let subnets = if given.subnets.is_empty() {
            let offers = offered(known.clone(), |subnet| Offer {
                about: format!(
                    "{} in {}, {}, {} free addresses {}",
                    subnet.cidr, subnet.vpc, subnet.zone, subnet.free_addresses, subnet.name
                ),
                value: subnet.id,
            });
            questions.several("Subnets of the tasks", &offers, true)?
        } else {
            given.subnets
        };
        let security_groups = if given.security_groups.is_empty() {
            let groups = match subnets.first().and_then(vpc_of) {
                Some(vpc) => offered(control.security_groups_of(&vpc, None).await, |group| Offer {
                    about: group.name,
                    value: group.id,
                }),
                None => Vec::new(),
            };
            questions.several(
                "Security groups of the tasks (none: the VPC's default)",
                &groups,
                false,
            )?
        } else {
            given.security_groups
        };
        let public_ip = match given.public_ip {
            Some(public_ip) => public_ip,
            None => {
                let first =
                    known.iter().flatten().find(|subnet| Some(&subnet.id) == subnets.first());
                let is_public = match first {
                    Some(subnet) => is_public(&control, subnet).await.unwrap_or_default(),
                    None => false,
                };
                let what = "Do tasks need a public address, as in a public subnet without NAT?";
                questions.yes(what, is_public)?
            }
        };
        let transport = match given.transport {
            Some(transport) => transport,
            None => {
                let offers: Vec<Offer> = transport::offered()
                    .map(|known| Offer {
                        value: known.name().to_owned(),
                        about: known.about.to_owned(),
                    })
                    .collect();
                loop {
                    let name = questions.one("Transport", &offers)?;
                    if let Some(transport) = transport::named(&name) {
                        break transport;
                    }
                }
            }
        };
        let directory = match given.directory {
            Some(directory) => directory,
            None => questions.text("Metadata directory", Some(DEFAULT_DIRECTORY))?.into(),
        };
        let has_strategy = has_strategy(&control, &cluster).await.unwrap_or_default();
        Ok(Settings {
            cluster,
            region,
            subnets,
            security_groups,
            task_definition,
            transport,
            public_ip,
            directory,
            has_strategy,
        })
    }
}

/// What there is to choose from. Where AWS refuses to list it, the user has to know it.
fn offered<T>(listed: Result<Vec<T>, ControlError>, offer: impl Fn(T) -> Offer) -> Vec<Offer> {
    match listed {
        Ok(all) => all.into_iter().map(offer).collect(),
        Err(error) => {
            stderr_line(format_args!("(No list to choose from: {error})"));
            Vec::new()
        }
    }
}

async fn has_strategy(control: &EcsControl, cluster: &str) -> Option<bool> {
    let cluster = control.cluster(cluster).await.ok()??;
    Some(!cluster.default_capacity_provider_strategy().is_empty())
}

/// Whether a subnet's default route needs public addresses. `None`: it is not known.
async fn is_public(control: &EcsControl, subnet: &Subnet) -> Option<bool> {
    let tables = control.route_tables(&subnet.vpc).await.ok()?;
    Some(matches!(RouteTable::of(subnet, &tables)?.exit(), Exit::Internet(_)))
}

/// Returns the directory that a file is in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a new file, whole or not at all. Its owner alone may read it: `[Telemetry] Headers` may
/// get a token later.
fn write(path: &Path, text: &str) -> Result<(), InitError> {
    let unwritable = |source| InitError::Unwritable { path: path.to_owned(), source };
    let mut file = tempfile::Builder::new()
        .prefix(".fargate-init-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory_of(path))
        .map_err(unwritable)?;
    file.write_all(text.as_bytes()).map_err(unwritable)?;
    file.as_file().sync_all().map_err(unwritable)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(InitError::Exists(path.to_owned()))
        }
        Err(e) => Err(unwritable(e.error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_without_a_directory_is_refused_before_any_question() {
        let place = tempfile::tempdir().unwrap();
        let file = Some(place.path().join("missing/fargate.toml"));
        let init = Init { file, no_input: true, answers: Answers::default() };
        let refused = init.run().await.unwrap_err();
        assert!(matches!(refused, InitError::NoDirectory(_)), "{refused}");
    }

    #[test]
    fn a_file_is_written_for_its_owner_alone_and_never_over_another() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fargate.toml");
        write(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(write(&path, "two"), Err(InitError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no temporary file remains");
    }
}
