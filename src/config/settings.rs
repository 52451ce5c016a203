//! The settings of `fargate.toml`: the one place that has the key, the kind, the default and the
//! meaning of each. As in the Go driver, names of tables and keys ignore case.
//!
//! A setting is a line: `field: Type = "Key": rule(Kind, …)`. The [rules](super::rules) say what
//! applies without it; the [kinds](super::kinds) say what is admitted. A field of several settings
//! names the function that makes it, and lists them.

use std::{path::PathBuf, time::Duration};

use states::{Capacity, HostProof, Limits};
use tracing::level_filters::LevelFilter;
use transports::Declaration;

use super::{
    declaration::{Section, Table, section, sections, settings},
    fargate::{CapacityProviders, LaunchType, Tags, capacity, distinct, subnets},
    kinds::{FilePath, Flag, Number, Pairs, Port, Span, Text, Texts, choice, choice_in_any_case},
    logging::{LEVELS, LogFormat},
    parse::transport,
    rules::{optional, or_empty, required, with_default},
    telemetry::{
        Address, PROTOCOLS, Protocol, Sampler, Signal, endpoint, no_endpoints, sampler, signals,
    },
    warm::{MaxAge, Schedule},
};
use crate::schedule::Window;

settings! {
    /// The whole configuration, checked.
    pub struct Config in "" {
        /// The least important level that is logged.
        pub log_level: LevelFilter = "LogLevel": with_default(choice_in_any_case(LEVELS), "info");
        /// The file that the log is appended to.
        pub log_file: Option<PathBuf> = "LogFile": optional(FilePath, "none");
        /// How the log looks.
        pub log_format: LogFormat = "LogFormat": with_default(
            choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            "text"
        );
        /// `[Fargate]`.
        pub fargate: Fargate = section [];
        /// `[TaskMetadata]`.
        pub metadata: Metadata = section [];
        /// `[Images]`.
        pub images: Images = section [];
        /// `[Services]`.
        pub services: Services = section [];
        /// `[Sizes]`.
        pub sizes: Sizes = section [];
        /// `[[Warm]]`.
        pub warm: Vec<Warm> = sections [];
        /// `[Runner]`.
        pub runner: Runner = section [];
        /// The transport of new jobs. Without `Transport`, a transport's table implies it.
        pub transport: &'static Declaration = transport ["Transport": optional(Text, "by table")];
        /// `[SSH]`.
        pub ssh: Ssh = section [];
        /// `[Telemetry]`.
        pub telemetry: Telemetry = section [];
        /// `[Deadlines]`.
        pub limits: Limits = section [];
    }
}

settings! {
    /// `[Fargate]`: where and how tasks run.
    pub struct Fargate in "Fargate" {
        /// Cluster name or ARN.
        pub cluster: String = "Cluster": required(Text);
        /// Region; `None` leaves it to the environment (`AWS_REGION`, profile, instance).
        pub region: Option<String> = "Region": optional(Text, "environment");
        /// `Subnet` and `Subnets` together.
        pub subnets: Vec<String> = subnets [
            "Subnet": optional(Text, "one required"),
            "Subnets": optional(Texts, "one required")
        ];
        /// `SecurityGroup` and `SecurityGroups` together.
        pub security_groups: Vec<String> = distinct [
            "SecurityGroup": optional(Text, "VPC's default"),
            "SecurityGroups": optional(Texts, "VPC's default")
        ];
        /// `family`, `family:revision` or ARN.
        pub task_definition: String = "TaskDefinition": required(Text);
        /// Patterns (`*` and `?`) of task definitions that a project may choose; `None`: any.
        pub allowed_task_definitions: Option<Vec<String>> =
            "AllowedTaskDefinitions": optional(Texts, "open");
        /// Patterns of platform versions that a project may choose; `None`: any.
        pub allowed_platform_versions: Option<Vec<String>> =
            "AllowedPlatformVersions": optional(Texts, "open");
        /// Whether the task gets a public address.
        pub enable_public_ip: bool = "EnablePublicIP": with_default(Flag, false);
        /// Whether the driver connects to the public address.
        pub use_public_ip: bool = "UsePublicIP": with_default(Flag, false);
        /// Fargate platform version; `None`: ECS's default.
        pub platform_version: Option<String> = "PlatformVersion": optional(Text, "ECS's");
        /// The source of capacity.
        pub capacity: Capacity = capacity [
            "LaunchType": optional(LaunchType, "none"),
            "CapacityProviders": optional(CapacityProviders, "none")
        ];
        /// Tags of the administrator's own, for every task.
        pub tags: Vec<(String, String)> = "Tags": or_empty(Tags);
        /// Whether ECS copies the task definition's tags to the task. RunTask refuses `SERVICE`, the
        /// API's third value.
        pub propagate_tags: bool = "PropagateTags": with_default(
            choice_in_any_case(&[("TASK_DEFINITION", true), ("NONE", false)]),
            "NONE"
        );
        /// Whether ECS adds its own tags to the task.
        pub enable_ecs_managed_tags: bool = "EnableECSManagedTags": with_default(Flag, false);
        /// The container that runs the scripts.
        pub container: String = "ContainerName": with_default(Text, "ci-coordinator");
        /// Whether the job log says what the job costs.
        pub show_cost: bool = "ShowCost": with_default(Flag, false);
        /// The file of prices; `None`: the built-in ones.
        pub prices: Option<PathBuf> = "Prices": optional(FilePath, "built in");
    }
}

settings! {
    /// `[TaskMetadata]`: the directory of snapshots.
    pub struct Metadata in "TaskMetadata" {
        /// The directory.
        pub directory: PathBuf = "Directory": required(FilePath);
        /// How long finished jobs are kept.
        pub keep: Duration = "Keep": with_default(Span, "30 days");
        /// How many finished jobs are kept at most.
        pub keep_count: usize = "KeepCount": with_default(Number(0..=10_000_000_usize), 20_000);
        /// The runner manager's name on its tasks; `None`: the host's.
        pub manager: Option<String> = "Manager": optional(Text, "host name");
    }
}

settings! {
    /// `[Images]`: the images that jobs may name.
    #[derive(Default)]
    pub struct Images in "Images" {
        /// Patterns (`*` and `?`) of images; `None`: `image:` and `services:` are ignored.
        pub allowed: Option<Vec<String>> = "Allowed": optional(Texts, "none: ignored");
        /// Patterns of images for services; `None`: as `allowed`.
        pub services: Option<Vec<String>> = "Services": optional(Texts, "Allowed");
        /// Where images without a registry are pulled from.
        pub mirror: Option<String> = "Mirror": optional(Text, "none");
        /// By registry, the ARN of the secret with the credentials for it.
        pub credentials: Vec<(String, String)> = "Credentials": or_empty(Pairs);
        /// How long a derived task definition is kept that no job uses.
        pub keep_definitions: Duration = "KeepDefinitions": with_default(Span, "30 days");
    }
}

settings! {
    /// `[Services]`: how services are treated.
    pub struct Services in "Services" {
        /// How long a job's first script waits for the services' ports.
        pub wait: Duration = "Wait": with_default(Span, "30s");
    }
}

settings! {
    /// `[Sizes]`: the sizes and roles that jobs may choose. What is `None` may not be chosen.
    #[derive(Default)]
    pub struct Sizes in "Sizes" {
        /// The most CPU units.
        pub max_cpu: Option<u32> = "MaxCpu": optional(Number(128..=196_608_u32), "none: ignored");
        /// The most memory, in MiB.
        pub max_memory: Option<u32> =
            "MaxMemory": optional(Number(128..=25_165_824_u32), "none: ignored");
        /// The most ephemeral storage, in GiB.
        pub max_ephemeral_storage: Option<u32> =
            "MaxEphemeralStorage": optional(Number(21..=200_u32), "none: ignored");
        /// Patterns of IAM roles.
        pub allowed_task_roles: Option<Vec<String>> =
            "AllowedTaskRoles": optional(Texts, "none: ignored");
    }
}

settings! {
    /// `[[Warm]]`: a pool of tasks that the service keeps ready for jobs to come.
    pub struct Warm in ["Warm"] {
        /// Its name; `None`: of what its tasks are. See [`Config::pool_name`].
        pub name: Option<String> = "Name": optional(Text, "definition and image");
        /// `family`, `family:revision` or ARN; `None`: as `[Fargate]` has it.
        pub task_definition: Option<String> = "TaskDefinition": optional(Text, "as in [Fargate]");
        /// Fargate platform version; `None`: as `[Fargate]` has it.
        pub platform_version: Option<String> = "PlatformVersion": optional(Text, "as in [Fargate]");
        /// The image that jobs name; `None`: for jobs without one.
        pub image: Option<String> = "Image": optional(Text, "none");
        /// CPU units, as jobs ask for them; `None`: for jobs that do not.
        pub cpu: Option<u32> = "CPU": optional(Number(256..=16_384_u32), "definition's");
        /// MiB of memory, as jobs ask for them; `None`: for jobs that do not.
        pub memory: Option<u32> = "Memory": optional(Number(512..=122_880_u32), "definition's");
        /// The tasks that are kept ready outside the windows of `schedule`.
        pub count: u32 = "Count": with_default(Number(0..=500_u32), 0);
        /// The windows in which another number of tasks is kept ready.
        pub schedule: Vec<Window> = "Schedule": or_empty(Schedule);
        /// The age at which a task that waits is replaced.
        pub max_age: Duration = "MaxAge": with_default(MaxAge, "8h");
    }
}

settings! {
    /// `[Runner]`: which information about the job is trusted.
    pub struct Runner in "Runner" {
        /// Whether the job's variables may identify it, if gitlab-runner names no response file.
        pub trust_job_variables: bool = "TrustJobVariables": with_default(Flag, false);
    }
}

settings! {
    /// `[SSH]`: how to log in to containers.
    pub struct Ssh in "SSH" {
        /// User name.
        pub username: String = "Username": with_default(Text, "root");
        /// Port.
        pub port: u16 = "Port": with_default(Port, 22);
        /// Silence after which a keep-alive is sent.
        pub keep_alive: Duration = "KeepAlive": with_default(Span, "15s");
        /// The proof that a container must give at first contact.
        pub verify_host: HostProof = "VerifyHost": with_default(
            choice(&[("offered", HostProof::Offered), ("required", HostProof::Required)]),
            "offered"
        );
    }
}

/// `[ECSExec]`: its presence implies the transport.
const ECS_EXEC: Table = Table { name: "ECSExec", is_list: false, settings: &[] };

settings! {
    /// `[Telemetry]`, before or after the environment's overrides.
    pub struct Telemetry in "Telemetry" {
        /// Address for all signals without one of their own. Without any address, telemetry is off.
        pub endpoint: Option<String> = endpoint ["Endpoint": optional(Address, "none: off")];
        /// The transport protocol.
        pub protocol: Protocol = "Protocol": with_default(choice(PROTOCOLS), "http/protobuf");
        /// Headers of every request, for authentication. Secret.
        pub headers: Vec<(String, String)> = "Headers": or_empty(Pairs);
        /// CA certificates (PEM) for the collector's certificate, instead of the system's.
        pub certificate: Option<PathBuf> = "Certificate": optional(FilePath, "the system's");
        /// `service.name`.
        pub service: String = "ServiceName": with_default(Text, "fargate-driver");
        /// Resource attributes of the administrator's own.
        pub resource: Vec<(String, String)> = "ResourceAttributes": or_empty(Pairs);
        /// Which jobs are traced.
        pub sampler: Sampler = sampler [
            "Sampler": with_default(Text, "parentbased_always_on"),
            "SamplerArgument": optional(Text, "none")
        ];
        /// Time limit of all exports of one process.
        pub flush_timeout: Duration = "FlushTimeout": with_default(Span, "250ms");
        /// Which signals are exported.
        pub signals: Vec<Signal> = signals [
            "Traces": with_default(Flag, true),
            "Metrics": with_default(Flag, true),
            "Logs": with_default(Flag, false)
        ];
        /// Whether a job's `TRACEPARENT` may raise the rate at which jobs are traced.
        pub trust_job_traceparent: bool = "TrustJobTraceparent": with_default(Flag, false);
        /// Whether scripts get `TRACEPARENT`.
        pub propagate: bool = "PropagateToJob": with_default(Flag, false);
        /// OTLP address that scripts get, with `propagate`.
        pub job_endpoint: Option<String> = "JobEndpoint": optional(Address, "none");
        /// Addresses of single signals, complete with their paths.
        pub endpoints: Vec<(Signal, String)> = no_endpoints [];
    }
}

settings! {
    impl Limits in "Deadlines" {
        provisioning = "Provisioning": with_default(Span, "10m");
        pending = "Pending": with_default(Span, "15m");
        running = "Running": with_default(Span, "3m");
        reconnect = "Reconnect": with_default(Span, "5m");
        grace = "GracePeriod": with_default(Span, "15s");
        stop = "Stop": with_default(Span, "1m");
    }
}

/// All tables. The first one is the top level, without a name.
pub(super) const TABLES: &[Table] = &[
    Config::TABLE,
    Fargate::TABLE,
    Metadata::TABLE,
    Images::TABLE,
    Services::TABLE,
    Sizes::TABLE,
    Warm::TABLE,
    Runner::TABLE,
    Ssh::TABLE,
    Telemetry::TABLE,
    ECS_EXEC,
    Limits::TABLE,
];
