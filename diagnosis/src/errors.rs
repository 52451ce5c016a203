//! Remedies for refused calls and failed connections.

use states::{
    ConnectCause, ConnectError, ConnectErrorKind, ControlCause, ControlError, ControlErrorKind,
};

/// Why a call failed and what to do, as one text for people.
#[must_use]
pub fn explain_control(error: &ControlError) -> String {
    explained(&error.to_string(), control_remedy(error))
}

/// Why an attempt to connect failed and what to do, as one text for people.
#[must_use]
pub fn explain_connect(error: &ConnectError) -> String {
    explained(&error.to_string(), connect_remedy(error))
}

/// Joins the two. Foreign text may or may not end with a full stop.
fn explained(text: &str, remedy: &str) -> String {
    format!("{}. {remedy}", text.trim_end_matches('.')).trim_end().to_owned()
}

/// The remedy for a refused call.
#[must_use]
pub fn control_remedy(error: &ControlError) -> &'static str {
    api_remedy(error.kind, error.cause)
}

fn api_remedy(kind: ControlErrorKind, cause: ControlCause) -> &'static str {
    use ControlErrorKind as Kind;
    match cause {
        ControlCause::General => match kind {
            Kind::Throttled => "The limit is shared by everything in the AWS account and region.",
            Kind::Capacity => CAPACITY,
            Kind::AccountLimit => ACCOUNT_LIMIT,
            Kind::Unavailable => "See the AWS Health Dashboard if it lasts.",
            Kind::Credentials => {
                "Check the runner manager's instance profile or AWS_* variables, and its clock."
            }
            Kind::NoCredentials => NO_CREDENTIALS,
            Kind::Denied => "Add the missing permission to its policy: see docs/iam.md.",
            Kind::WrongSetting => PARAMETERS,
            Kind::TaskDefinition => TASK_DEFINITION,
            Kind::NoCapacityProvider => NO_CAPACITY_PROVIDER,
            Kind::Conflict => CONFLICT,
            Kind::BadAnswer => {
                "See the AWS Health Dashboard, or what stands between (a proxy, AWS_ENDPOINT_URL)."
            }
            Kind::Other => "See the Amazon ECS API reference for this error.",
        },
        ControlCause::NoAnswer => {
            "Check the network between the runner manager and AWS (proxy, VPC endpoints, DNS)."
        }
        ControlCause::PassRole => PASS_ROLE,
        ControlCause::AccountBlocked => "Contact AWS support.",
        ControlCause::NoSuchCluster => concat!(
            "Check ",
            setting!(cluster),
            " and ",
            setting!(region),
            " in fargate.toml, and whose credentials are used."
        ),
        ControlCause::NoInstances => concat!(
            "Register container instances in the cluster, or name FARGATE or FARGATE_SPOT in ",
            setting!(launch_type),
            " or ",
            setting!(capacity_providers),
            " of fargate.toml (docs/launch-types.md)."
        ),
        ControlCause::NoSuchPlatform => concat!(
            "Correct ",
            setting!(platform_version),
            " in fargate.toml or the variable FARGATE_PLATFORM_VERSION; LATEST always exists."
        ),
        ControlCause::PlatformMismatch => {
            "Use platform version LATEST, or correct the task definition."
        }
        ControlCause::NoEndpoint => {
            "Check AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT and the AWS profile, or set AWS_ENDPOINT_URL_<SERVICE>."
        }
        ControlCause::NoRegion => concat!(
            "Set ",
            setting!(region),
            " in fargate.toml, or AWS_REGION in gitlab-runner's environment."
        ),
        ControlCause::Configuration => "Check [Fargate] in fargate.toml.",
        ControlCause::Environment => "Check the AWS settings in the environment and fargate.toml.",
        ControlCause::LaunchFailure => {
            "See \"API failures messages\" in the Amazon ECS developer guide."
        }
        ControlCause::JobKey => JOB_KEY,
        ControlCause::BaseDefinition => {
            "Change the task definition, or let jobs have no images and services: see docs/images.md."
        }
        ControlCause::Directory => {
            "Check the directory's owner, its mode, and the room on its file system."
        }
    }
}

/// The remedy for a failed connection.
#[must_use]
pub fn connect_remedy(error: &ConnectError) -> &'static str {
    use ConnectErrorKind as Kind;
    match error.cause {
        ConnectCause::General => match error.kind {
            Kind::Refused => concat!(
                "Check that the image starts an SSH server, and on that port (",
                setting!(port),
                " in fargate.toml)."
            ),
            Kind::TimedOut => concat!(
                "Check that the task's security group lets the runner manager in on that port, and that there is a route between them (",
                setting!(use_public_ip),
                " decides which address is used)."
            ),
            Kind::Unreachable => "Check the route from the runner manager to the task's subnet.",
            Kind::Interrupted => "If it stays so: what does the container log?",
            Kind::NotOurProtocol => "Look at what listens there in the container.",
            Kind::AuthRefused => KEY_REFUSED,
            Kind::IdentityChanged => {
                "It is not the same container, so nothing was sent to it. The task was replaced, or another host intercepts the connection."
            }
            Kind::IdentityUnproven => NO_HOST_PROOF,
            Kind::NoShell => {
                "The image needs /bin/sh and the usual small tools (cat, mkdir, mv, tail, wc), and the user a login shell that runs commands."
            }
            Kind::KeyUnusable => JOB_KEY,
            Kind::AgentNotConnected => AGENT_NOT_CONNECTED,
            Kind::Denied => "docs/iam.md has the policies that ECS Exec needs.",
            Kind::JobContainerNotUp => JOB_CONTAINER,
        },
        ConnectCause::Api(kind, cause) => api_remedy(kind, cause),
        ConnectCause::ServerSlow => {
            "The container may be starved of CPU, or its SSH server overloaded."
        }
        ConnectCause::ServerClosed => "If it stays so: what does the container's SSH server log?",
        ConnectCause::HandshakeClosed => {
            "A server that is just starting does that; if it stays so, look at the SSH server's log in the container."
        }
        ConnectCause::HostKeyKind => {
            "RSA host keys are not supported: let the image make an Ed25519 or ECDSA host key as well (`ssh-keygen -A` makes every kind)."
        }
        ConnectCause::Algorithms => {
            "It must know curve25519 or ECDH P-256 and AES; every OpenSSH since 6.5 does unless its configuration forbids it."
        }
        ConnectCause::NotSsh => concat!(
            "Check that it is an SSH server that listens there (",
            setting!(port),
            " in fargate.toml)."
        ),
        ConnectCause::Abuse => "Look at what listens there in the container.",
        ConnectCause::NoTerminal => {
            "Its configuration forbids it (PermitTTY), or it has no pseudo-terminals; a command without one may still work."
        }
        ConnectCause::OtherTransport => "Its job was launched for a transport that needs none.",
        ConnectCause::UnknownTransport => "Use the version of fargate that began the job.",
        ConnectCause::TerminalSlow => {
            "A container takes two sessions at a time, and the job's script has one: another terminal may have the other."
        }
        ConnectCause::NoHostProof => NO_HOST_PROOF,
        ConnectCause::OtherHostProof => {
            "Another server answers in the container's place, or its entry point is not the one of this version (deploy/ssh-entrypoint.sh)."
        }
        ConnectCause::FirstCommandLost => {
            "If it stays so: does the container restart, or run out of CPU or memory?"
        }
        ConnectCause::NoDirectory => {
            "Scripts are kept in /tmp, /var/tmp, the home directory or /dev/shm: make one of them writable (a volume, if the root file system is read-only)."
        }
        ConnectCause::SharedVolume => concat!(
            "For jobs with images, scripts of the coordinator must run as root (",
            setting!(username),
            " in fargate.toml)."
        ),
        ConnectCause::NoJobPrograms => {
            "For jobs with images, the coordinator's image needs chmod, mkfifo, readlink and rmdir (coreutils, or busybox)."
        }
        ConnectCause::OtherContainer => {
            "It is not the same container, so nothing was sent to it. ECS restarted it (a restart policy in the task definition?), and what ran in it is gone."
        }
        ConnectCause::SessionQueued => {
            "It is waited for, as another session could block the container's exec agent."
        }
        ConnectCause::SessionSlow => {
            "The container may be starved of CPU or memory, or its exec agent have no route to the ssmmessages endpoint."
        }
        ConnectCause::SessionSilent => {
            "The container may be starved of CPU or memory, or its exec agent be gone."
        }
        ConnectCause::EndpointUnreachable => {
            "The runner manager must reach the region's ssmmessages endpoint by HTTPS (port 443): by a NAT gateway, or by an interface VPC endpoint whose security group lets it in."
        }
        ConnectCause::EndpointClosed => {
            "If it stays so: is the way to the ssmmessages endpoint open (proxy, VPC endpoint)?"
        }
        ConnectCause::SessionAddress => "It is what ECS answered to ExecuteCommand: report it.",
        ConnectCause::DataChannelDenied => {
            "Allow the runner manager's role ssmmessages:OpenDataChannel on its sessions (docs/iam.md), and look at the VPC endpoint's policy."
        }
        ConnectCause::DriverFault => "This is a fault of the driver: please report it.",
        ConnectCause::NoPrograms => {
            "The image needs /bin/sh, stty, head, base64, setsid and the usual small tools (coreutils and util-linux, or busybox). For an image without a shell there is no transport."
        }
        ConnectCause::SessionKey => {
            "The cluster encrypts its sessions with a KMS key: allow the runner manager's role kms:GenerateDataKey and the task role kms:Decrypt on it, and the former ecs:DescribeClusters (docs/iam.md)."
        }
        ConnectCause::ReadOnlyRoot => {
            "The exec agent writes to the container's root file system: it must not be read-only (readonlyRootFilesystem in the task definition). Or use the SSH transport."
        }
        ConnectCause::AgentDiskFull => {
            "The exec agent needs a little room in /tmp and /var/lib/amazon of the container."
        }
        ConnectCause::SessionLog => {
            "The cluster's executeCommandConfiguration logs sessions to a place that the task role cannot write to, or that is not encrypted as it demands."
        }
        ConnectCause::AgentProtocol => {
            "The exec agent speaks in a way that the driver does not: report it, with the platform version."
        }
        ConnectCause::NoSuchContainer => concat!(
            "Check ",
            setting!(container_name),
            " in fargate.toml: it must be a container of the task definition."
        ),
        ConnectCause::AgentDisconnected => {
            "It was connected before. A container takes two sessions at a time and lets one wait: do others have them (aws ssm describe-sessions --state Active)? Or is the container starved of memory or CPU, or its way to the region's ssmmessages endpoint gone?"
        }
        ConnectCause::ExecuteDenied => {
            "Allow ecs:ExecuteCommand on the cluster and its tasks: see docs/iam.md."
        }
        ConnectCause::ExecuteRefused => concat!(
            "Check ",
            setting!(container_name),
            " in fargate.toml; ECS Exec needs platform version 1.4.0 or later."
        ),
        ConnectCause::TaskNotRunning => "ECS is asked what became of it.",
        ConnectCause::NoRuntimeId => "It is asked again.",
    }
}

const CAPACITY: &str = concat!(
    "More subnets in other availability zones (",
    setting!(subnets),
    "), or FARGATE beside FARGATE_SPOT in ",
    setting!(capacity_providers),
    ", make it rarer."
);
const ACCOUNT_LIMIT: &str = "Room comes when other tasks end. Request higher values for this region: AWS Fargate's vCPU resource counts (On-Demand and Spot), and Amazon ECS's quotas. New accounts begin with low ones.";
const NO_CREDENTIALS: &str = "Give the runner manager's instance a profile with the policy in docs/iam.md, or set AWS_* in gitlab-runner's own environment (`environment` in its config.toml is the jobs').";
const PARAMETERS: &str = concat!(
    "Check ",
    setting!(subnets),
    ", ",
    setting!(security_groups),
    ", ",
    setting!(container_name),
    " and the capacity settings in fargate.toml."
);
const TASK_DEFINITION: &str = concat!(
    "Check ",
    setting!(task_definition),
    " in fargate.toml or the variable FARGATE_TASK_DEFINITION: family or family:revision, active, in this region."
);
const NO_CAPACITY_PROVIDER: &str = concat!(
    "Give the cluster a default capacity provider strategy (ECS console: Update cluster, add FARGATE), or set ",
    setting!(launch_type),
    " = \"FARGATE\"."
);
const CONFLICT: &str = "The driver searches for the task of that call for half a minute, and launches another if there is none.";
const PASS_ROLE: &str = "Allow iam:PassRole on the task definition's task role and execution role, for ecs-tasks.amazonaws.com: see docs/iam.md.";
const JOB_KEY: &str =
    "Without it no one can log in to the job's container: the job must be started again.";
const KEY_REFUSED: &str = concat!(
    "The image's entry point must put $SSH_PUBLIC_KEY into that user's authorized_keys before it starts sshd; check ",
    setting!(username),
    ", the permissions of ~/.ssh, and that the container is named as ",
    setting!(container_name),
    " says (ci-coordinator)."
);
const NO_HOST_PROOF: &str = "Use deploy/ssh-entrypoint.sh of this version as the image's entry point: it proves the host key with $FARGATE_HOST_PROOF_KEY. If the image has it, another server answers in the container's place.";
/// The usual reasons, the most frequent first.
const JOB_CONTAINER: &str = "It may still be starting. If it stays so, look at its log. Either the image has no sh, or its entry point does not run the command that it gets as arguments. For such an image, write in .gitlab-ci.yml: image: {name: ..., entrypoint: [\"\"]}.";
const AGENT_NOT_CONNECTED: &str = "If it stays so: the task definition must have a task role that allows ssmmessages:CreateControlChannel, CreateDataChannel, OpenControlChannel and OpenDataChannel (docs/iam.md); the task needs a route to the region's ssmmessages endpoint; the container's root file system must be writable, and its environment must not set AWS_ACCESS_KEY_ID and the like, which override the task role; platform version 1.4.0 or later.";

/// Every remedy.
pub(crate) fn phrases() -> impl Iterator<Item = &'static str> {
    let calls = CONTROL_KINDS.iter().map(|kind| api_remedy(*kind, ControlCause::General));
    let causes = CONTROL_CAUSES.iter().map(|cause| api_remedy(ControlErrorKind::Other, *cause));
    let connections = CONNECT_KINDS.iter().map(|kind| (*kind, ConnectCause::General));
    let narrower = CONNECT_CAUSES.iter().map(|cause| (ConnectErrorKind::Interrupted, *cause));
    calls.chain(causes).chain(
        connections.chain(narrower).map(|(kind, cause)| {
            connect_remedy(&ConnectError { kind, message: String::new(), cause })
        }),
    )
}

const CONTROL_KINDS: &[ControlErrorKind] = &[
    ControlErrorKind::Throttled,
    ControlErrorKind::Capacity,
    ControlErrorKind::AccountLimit,
    ControlErrorKind::Unavailable,
    ControlErrorKind::Credentials,
    ControlErrorKind::NoCredentials,
    ControlErrorKind::Denied,
    ControlErrorKind::WrongSetting,
    ControlErrorKind::TaskDefinition,
    ControlErrorKind::NoCapacityProvider,
    ControlErrorKind::Conflict,
    ControlErrorKind::BadAnswer,
    ControlErrorKind::Other,
];
const CONTROL_CAUSES: &[ControlCause] = &[
    ControlCause::General,
    ControlCause::NoAnswer,
    ControlCause::PassRole,
    ControlCause::AccountBlocked,
    ControlCause::NoSuchCluster,
    ControlCause::NoInstances,
    ControlCause::NoSuchPlatform,
    ControlCause::PlatformMismatch,
    ControlCause::NoEndpoint,
    ControlCause::NoRegion,
    ControlCause::Configuration,
    ControlCause::Environment,
    ControlCause::LaunchFailure,
    ControlCause::JobKey,
    ControlCause::BaseDefinition,
    ControlCause::Directory,
];
const CONNECT_KINDS: &[ConnectErrorKind] = &[
    ConnectErrorKind::Refused,
    ConnectErrorKind::TimedOut,
    ConnectErrorKind::Unreachable,
    ConnectErrorKind::Interrupted,
    ConnectErrorKind::NotOurProtocol,
    ConnectErrorKind::AuthRefused,
    ConnectErrorKind::IdentityChanged,
    ConnectErrorKind::IdentityUnproven,
    ConnectErrorKind::NoShell,
    ConnectErrorKind::KeyUnusable,
    ConnectErrorKind::AgentNotConnected,
    ConnectErrorKind::Denied,
    ConnectErrorKind::JobContainerNotUp,
];
const CONNECT_CAUSES: &[ConnectCause] = &[
    ConnectCause::General,
    ConnectCause::ServerSlow,
    ConnectCause::ServerClosed,
    ConnectCause::HandshakeClosed,
    ConnectCause::HostKeyKind,
    ConnectCause::Algorithms,
    ConnectCause::NotSsh,
    ConnectCause::Abuse,
    ConnectCause::NoHostProof,
    ConnectCause::OtherHostProof,
    ConnectCause::NoTerminal,
    ConnectCause::OtherTransport,
    ConnectCause::UnknownTransport,
    ConnectCause::TerminalSlow,
    ConnectCause::FirstCommandLost,
    ConnectCause::NoDirectory,
    ConnectCause::SharedVolume,
    ConnectCause::NoJobPrograms,
    ConnectCause::OtherContainer,
    ConnectCause::SessionQueued,
    ConnectCause::SessionSlow,
    ConnectCause::SessionSilent,
    ConnectCause::EndpointUnreachable,
    ConnectCause::EndpointClosed,
    ConnectCause::SessionAddress,
    ConnectCause::DataChannelDenied,
    ConnectCause::DriverFault,
    ConnectCause::NoPrograms,
    ConnectCause::SessionKey,
    ConnectCause::ReadOnlyRoot,
    ConnectCause::AgentDiskFull,
    ConnectCause::SessionLog,
    ConnectCause::AgentProtocol,
    ConnectCause::NoSuchContainer,
    ConnectCause::AgentDisconnected,
    ConnectCause::ExecuteDenied,
    ConnectCause::ExecuteRefused,
    ConnectCause::TaskNotRunning,
    ConnectCause::NoRuntimeId,
];
