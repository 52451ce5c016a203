//! What the command line may say: commands, options, their help.

use std::{ffi::OsString, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use local_cluster::Profile;
use transports::Declaration;

use super::{
    codes::{
        CALLED_BY, DOCTOR_CODES, INIT_CODES, REAP_CODES, SERVE_CODES, STAGE_CODES, STATUS_CODES,
        TRY_CODES,
    },
    global::{Global, IGNORED},
};
use crate::{
    init::{Answers, Init},
    local::TimeOptions,
    manual::Manual,
    transport,
};

/// Runs every GitLab CI job in its own AWS ECS Fargate task.
#[derive(Debug, Parser)]
#[command(name = "fargate", version, about, max_term_width = 100, after_help = CALLED_BY)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The stages that gitlab-runner's custom executor calls
    #[command(after_help = STAGE_CODES)]
    Custom {
        /// Believe the job's variables which job it is, where gitlab-runner (before 14.1) names no
        /// response file: a job can then pose as another one. The same as
        /// TrustJobVariables = true in [Runner]
        #[arg(long)]
        trust_job_variables: bool,
        #[command(subcommand)]
        stage: Stage,
    },
    /// Play gitlab-runner: run scripts as one job, on an embedded local cluster unless --config
    /// names another
    #[command(after_help = TRY_CODES)]
    Try {
        /// How scripts are delivered, on the embedded cluster [default: ssh]; with --config, the
        /// file says it
        #[arg(long, value_parser = parse_transport())]
        transport: Option<&'static Declaration>,
        /// The job's image: its scripts run in it, as `image:` in .gitlab-ci.yml
        #[arg(long, value_name = "NAME")]
        image: Option<String>,
        /// A service of the job, as in `services:`; may be repeated
        #[arg(long = "service", value_name = "NAME")]
        services: Vec<String>,
        /// The embedded cluster's images: a directory of root file systems, by name [default:
        /// ~/.cache/fargate-driver/root-filesystems]
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        #[command(flatten)]
        times: TimeArguments,
        /// The scripts, a run stage each
        #[arg(required = true, value_name = "SCRIPT")]
        scripts: Vec<PathBuf>,
    },
    /// End what no job needs any more: tasks without a job, jobs without a task, abandoned jobs
    #[command(after_help = REAP_CODES)]
    Reap {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Jobs that no process has worked on for so long are abandoned; tasks without a job this
        /// old are orphans. 0s: all that no process works on at this moment
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
        older_than: Duration,
        /// Only tasks of the runner manager of this name (its host name, or its Manager), for one
        /// that is gone: whatever jobs it still has lose their tasks
        #[arg(long, value_name = "NAME")]
        manager: Option<String>,
    },
    /// Host the stages of all jobs of this configuration in one process, until SIGTERM. Stages find
    /// it by its socket in the metadata directory, and work without it as before. SIGHUP reads the
    /// configuration again
    #[command(after_help = SERVE_CODES)]
    Serve {
        /// End the service that runs, for good: it takes no more stages, and ends once those that it
        /// has are over. Waits for that. Without a service, end what waits for jobs
        #[arg(long, conflicts_with = "listen")]
        drain: bool,
        /// Also show all jobs at this loopback address, over HTTP: a page, /metrics, /healthz
        #[arg(long, value_name = "ADDR", value_parser = parse_address)]
        listen: Option<SocketAddr>,
    },
    /// Say what runs here, and what needs help
    #[command(after_help = STATUS_CODES)]
    Status {
        /// A JSON object for programs; times are RFC 3339, lengths are in milliseconds
        #[arg(long)]
        json: bool,
    },
    /// Check everything that a first job needs: the configuration, the AWS account, the network, and
    /// this machine. Nothing is changed
    #[command(after_help = DOCTOR_CODES)]
    Doctor {
        /// gitlab-runner's config.toml [default: that in /etc/gitlab-runner or ~/.gitlab-runner]
        #[arg(long, value_name = "FILE")]
        runner_config: Option<PathBuf>,
        /// A JSON object for programs
        #[arg(long)]
        json: bool,
        /// Also run a job, and show where its time went
        #[arg(long)]
        launch: bool,
    },
    /// Write a first configuration, from answers and from what the AWS account has. No file is
    /// overwritten
    #[command(after_help = INIT_CODES)]
    Init(InitArguments),
    /// Serve the embedded local cluster until SIGTERM, for a gitlab-runner without AWS
    LocalCluster {
        /// Where its API listens; port 0 is any free one
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        times: TimeArguments,
        /// Directory of images: root file systems that containers run in. registry/ci/debian:12 is
        /// DIR/registry_ci_debian_12, and its configuration is registry_ci_debian_12.json. Needs
        /// root. Without it, only images named `local` run, as processes of this machine
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    #[command(flatten)]
    Manual(Manual),
}

/// What `init` need not ask for.
#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// Cluster name or ARN
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// AWS region [default: the environment's]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Subnet of the tasks; may be repeated
    #[arg(long = "subnet", value_name = "SUBNET")]
    subnets: Vec<String>,
    /// Security group of the tasks; may be repeated
    #[arg(long = "security-group", value_name = "GROUP")]
    security_groups: Vec<String>,
    /// How scripts are delivered
    #[arg(long, value_parser = parse_transport())]
    transport: Option<&'static Declaration>,
    /// Whether tasks get a public address
    #[arg(long, value_name = "BOOLEAN")]
    public_ip: Option<bool>,
    /// The metadata directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Ask nothing, even at a terminal
    #[arg(long)]
    no_input: bool,
}

impl InitArguments {
    pub(super) fn init(self, global: &Global) -> Init {
        Init {
            file: global.config.clone(),
            no_input: self.no_input,
            answers: Answers {
                cluster: self.cluster,
                region: self.region,
                subnets: self.subnets,
                security_groups: self.security_groups,
                task_definition: global.task_def.clone(),
                transport: self.transport,
                public_ip: self.public_ip,
                directory: self.directory,
            },
        }
    }
}

/// How long things take on the embedded cluster.
#[derive(Debug, Args)]
pub(super) struct TimeArguments {
    /// How long tasks of the embedded cluster take to start and to stop [default: quick]
    #[arg(long, value_enum)]
    profile: Option<ProfileName>,
    /// What the profile's times are multiplied by: 0.02 makes a minute 1.2 s
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = parse_scale, requires = "profile")]
    time_scale: f64,
    /// Number that the profile's times are drawn from: the same one draws the same times [default:
    /// random]
    #[arg(long, value_name = "NUMBER", requires = "profile")]
    seed: Option<u64>,
}

impl TimeArguments {
    pub(super) fn options(&self) -> TimeOptions {
        let profile = self.profile.map(|name| match name {
            ProfileName::Quick => Profile::Quick,
            ProfileName::Fargate => Profile::Fargate,
        });
        TimeOptions { profile, scale: self.time_scale, seed: self.seed }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProfileName {
    /// Less than a second
    Quick,
    /// As on AWS Fargate: 40 to 60 s to start, 13 to 66 s to stop
    Fargate,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.001..=10.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 0.001 to 10".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration, such as 90s, 15m or 1h 30m".to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9480".to_owned())
}

#[derive(Debug, Subcommand)]
pub(super) enum Stage {
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
    /// Stop the job's task: done once ECS has accepted it
    Cleanup {
        /// Also wait until the task has ended and the job is archived
        #[arg(long)]
        wait: bool,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::Prepare => f.write_str("prepare"),
            Self::Run { stage, .. } => write!(f, "run {stage}"),
            Self::Cleanup { .. } => f.write_str("cleanup"),
        }
    }
}

/// Takes a transport by its name.
fn parse_transport() -> impl TypedValueParser<Value = &'static Declaration> {
    let offered =
        transport::offered().map(|known| PossibleValue::new(known.name()).help(known.about));
    PossibleValuesParser::new(offered)
        .try_map(|name| transport::named(&name).ok_or("no such transport"))
}

/// The command line's definition, in which each command shows only what it does not ignore.
pub(super) fn definition() -> clap::Command {
    let mut command = Cli::command();
    let globals: Vec<clap::Arg> =
        command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    for (name, ignored) in IGNORED {
        // What a command defines itself is not inherited.
        let own = globals
            .iter()
            .filter(|argument| ignored.contains(&argument.get_id().as_str()))
            .map(|argument| argument.clone().hide(true));
        command = command.mut_subcommand(name, |below| below.args(own));
    }
    for (name, id, help) in [
        (
            "try",
            "config",
            "The cluster's configuration; without it, an embedded local cluster is used",
        ),
        ("init", "config", "The file to write [default: fargate.toml]"),
        ("init", "task_def", "Task definition: family, family:revision or ARN"),
    ] {
        let own = globals.iter().find(|argument| argument.get_id() == id);
        let own = own.map(|argument| argument.clone().help(help));
        command = command.mut_subcommand(name, |below| below.args(own));
    }
    command
}

pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = definition().try_get_matches_from(arguments)?;
    if let Some((name, below)) = matches.subcommand() {
        let ignored = IGNORED
            .iter()
            .find(|(command, _)| *command == name)
            .map_or(&[][..], |(_, ignored)| ignored);
        let given =
            ignored.iter().find(|id| below.value_source(id) == Some(ValueSource::CommandLine));
        if let Some(id) = given {
            let what = format!("--{} cannot be used with `fargate {name}`", id.replace('_', "-"));
            return Err(definition().error(ErrorKind::ArgumentConflict, what));
        }
    }
    Cli::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::config::LogFormat;

    fn parse_words(words: &[&str]) -> Result<Cli, clap::Error> {
        parse(words.iter().map(OsString::from))
    }

    /// The help page of a command.
    fn help(words: &[&str]) -> String {
        parse_words(&[&["fargate"], words, &["--help"]].concat()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_refused_with_an_example() {
        for (words, example) in [
            (["fargate", "reap", "--older-than", "5"], "such as 90s"),
            (["fargate", "serve", "--listen", "9480"], "such as 127.0.0.1:9480"),
        ] {
            let refusal = parse_words(&words).unwrap_err().to_string();
            assert!(refusal.contains(example), "{refusal}");
        }
    }

    #[test]
    fn a_command_offers_what_it_heeds_and_refuses_the_rest() {
        for (name, ignored) in IGNORED {
            let page = help(&[name]);
            for id in ignored {
                let option = format!("--{}", id.replace('_', "-"));
                assert!(!page.contains(&option), "{name} shows {option}:\n{page}");
                let value: &[&str] = match *id {
                    "debug" => &[],
                    "log_level" => &["info"],
                    "log_format" => &["json"],
                    _ => &["x"],
                };
                let rest: &[&str] = match name {
                    "man" | "try" => &["x"],
                    "completions" => &["bash"],
                    _ => &[],
                };
                let before = [&["fargate", &option], value, &[name], rest].concat();
                let refusal = parse_words(&before).unwrap_err().to_string();
                assert!(refusal.contains("cannot be used with"), "{before:?}: {refusal}");
            }
        }
        assert!(parse_words(&["fargate", "custom", "--task-def", "t", "prepare"]).is_ok());
        assert!(parse_words(&["fargate", "reap", "--config", "f"]).is_ok());
    }

    #[test]
    fn help_has_a_command_s_own_options_first_and_says_what_exit_codes_mean() {
        let page = help(&["reap"]);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        assert!(
            at("--dry-run") < at("Global options")
                && at("Global options") < at("--config")
                && at("--config") < at("Exit codes"),
            "{page}"
        );
        assert!(
            help(&["try"]).contains("70 ")
                && help(&["custom"]).contains("BUILD_FAILURE_EXIT_CODE")
                && help(&[]).contains("prepare_args")
        );
        assert!(
            help(&["try"]).contains("embedded local cluster is used")
                && !help(&["reap"]).contains("embedded"),
            "{page}"
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        definition().debug_assert();
    }

    #[test]
    fn takes_what_the_go_drivers_users_have_in_config_toml() {
        let cli = parse_words(&[
            "fargate",
            "--config",
            "/etc/fargate.toml",
            "custom",
            "run",
            "/tmp/script",
            "build_script",
        ])
        .unwrap();
        assert_eq!(cli.global.config.as_deref(), Some(std::path::Path::new("/etc/fargate.toml")));
        assert!(matches!(
            cli.command,
            Command::Custom { trust_job_variables: false, stage: Stage::Run { .. } }
        ));
    }

    #[test]
    fn the_embedded_cluster_s_times_are_scaled_within_reason() {
        let times =
            |words: &[&str]| match parse_words(&[&["fargate", "local-cluster"], words].concat())
                .map(|cli| cli.command)
            {
                Ok(Command::LocalCluster { times, .. }) => Some(times.options()),
                _ => None,
            };
        assert_eq!(times(&[]), Some(TimeOptions { profile: None, scale: 1.0, seed: None }));
        let fargate = TimeOptions { profile: Some(Profile::Fargate), scale: 0.02, seed: Some(7) };
        assert_eq!(
            times(&["--profile", "fargate", "--time-scale", "0.02", "--seed", "7"]),
            Some(fargate)
        );
        for factor in ["0", "-1", "NaN", "inf", "11", "x"] {
            assert_eq!(times(&["--profile", "fargate", "--time-scale", factor]), None, "{factor}");
        }
        assert_eq!(times(&["--seed", "7"]), None, "quick times are not drawn");
    }

    #[test]
    fn try_passes_its_flags_on_in_a_form_that_stages_take() {
        let cli = parse_words(&[
            "fargate",
            "--debug",
            "--log-level",
            "warning",
            "--log-format",
            "json",
            "--task-def",
            "t:1",
            "try",
            "x",
        ])
        .unwrap();
        let mut again = vec![OsString::from("fargate")];
        again.extend(cli.global.passed_on());
        again.extend(["custom".into(), "config".into()]);
        let global = parse(again).unwrap().global;
        assert_eq!(
            (global.debug, global.log_level, global.log_format),
            (true, Some(LevelFilter::WARN), Some(LogFormat::Json))
        );
        assert_eq!(global.task_def.as_deref(), Some("t:1"));
    }
}
