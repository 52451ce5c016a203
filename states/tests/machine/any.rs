//! Generators of observations and histories.

use proptest::{collection::vec, option, prelude::*, sample::select};
use states::*;

pub fn header() -> Header {
    Header {
        id: JobId::new("tok-0123456789abcdef").unwrap(),
        about: About {
            project_url: "https://gitlab.example/g/p".into(),
            pipeline_id: "7".into(),
            job_id: "9".into(),
            ..About::default()
        },
        created: Timestamp::from_millis(1_790_000_000_000),
        token: ClientToken::new("gitlab-9-abcdef").unwrap(),
        spec: LaunchSpec {
            cluster: "ci".into(),
            task_definition: "job:1".into(),
            platform_version: None,
            subnets: vec!["subnet-1".into()],
            security_groups: vec![],
            assign_public_ip: false,
            capacity: Capacity::ClusterDefault,
            container: "ci-coordinator".into(),
            environment: vec![("SSH_PUBLIC_KEY".into(), "ssh-ed25519 AAAA".into())],
            started_by: StartedBy::new("gitlab-9-abcdef").unwrap(),
            tags: vec![("team".into(), "ci \"quoted\" ünï".into())],
            enable_execute_command: false,
            propagate_tags: false,
            enable_ecs_managed_tags: false,
            additions: None,
            size: states::TaskSize::default(),
            task_role: None,
            service_environment: Vec::new(),
        },
        definition_from_project: false,
        trace: None,
        pool: None,
        host_proof: None,
        login: Some(Login { user: "ci".into(), port: 2222 }),
        connect_to: ConnectTo::PrivateAddress,
        transport: None,
        limits: Limits::default(),
    }
}

pub fn arn(n: u8) -> TaskArn {
    TaskArn::new(format!("arn:aws:ecs:eu-west-1:1:task/ci/{n:032x}")).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    select(vec![
        "",
        "Rate exceeded",
        "zwei\nZeilen \"und\" mehr",
        "ünï\u{0}\u{7f}\\",
        "RESOURCE:MEMORY",
    ])
    .prop_map(str::to_owned)
}

fn status() -> impl Strategy<Value = TaskStatus> {
    let names = [
        "PROVISIONING",
        "PENDING",
        "ACTIVATING",
        "RUNNING",
        "RUNNING",
        "DEACTIVATING",
        "STOPPING",
        "STOPPED",
        "DELETED",
        "NEW",
    ];
    select(names.to_vec()).prop_map(TaskStatus::parse)
}

fn report(status: impl Strategy<Value = TaskStatus>) -> impl Strategy<Value = TaskReport> {
    let container =
        (option::of(-1..256), option::of(text())).prop_map(|(exit_code, reason)| ContainerReport {
            name: "ci-coordinator".into(),
            status: Some("RUNNING".into()),
            exit_code,
            reason,
            exec_agent: None,
            runtime_id: Some("r".into()),
        });
    let interface = option::weighted(
        0.8,
        option::weighted(0.8, Just("10.0.0.7".to_owned())).prop_map(|private_address| {
            NetworkInterface {
                id: Some(InterfaceId::new("eni-1").unwrap()),
                private_address,
                subnet: None,
            }
        }),
    );
    (
        status,
        prop::bool::weighted(0.05),
        interface,
        vec(container, 0..2),
        option::weighted(0.1, (option::of(text()), option::of(text()))),
        option::of(billing().prop_map(Box::new)),
    )
        .prop_map(|(status, stop_desired, interface, containers, stopped, billing)| {
            TaskReport {
                task: arn(1),
                status,
                stop_desired,
                interface,
                containers,
                stopped: stopped.map(|(code, reason)| Stopped { code, reason }),
                billing,
            }
        })
}

fn billing() -> impl Strategy<Value = Billing> {
    let at = || option::of((0..1000u64).prop_map(Timestamp::from_millis));
    (option::of(256..4096u32), option::of(text()), at(), at()).prop_map(
        |(cpu, capacity_provider, pull_started, stopped)| Billing {
            size: TaskSize { cpu, ..TaskSize::default() },
            capacity_provider,
            pull_started,
            stopped,
            ..Billing::default()
        },
    )
}

fn usage() -> impl Strategy<Value = Usage> {
    (option::of(any::<u64>()), option::of(any::<u64>()))
        .prop_map(|(memory, cpu)| Usage { memory, cpu })
}

fn control_error() -> impl Strategy<Value = ControlError> {
    use ControlErrorKind::*;
    let kinds = [
        Throttled,
        Capacity,
        AccountLimit,
        Unavailable,
        Credentials,
        NoCredentials,
        Denied,
        WrongSetting,
        TaskDefinition,
        NoCapacityProvider,
        Conflict,
        BadAnswer,
        Other,
    ];
    (select(kinds.to_vec()), option::of(text()), text()).prop_map(|(kind, code, message)| {
        ControlError { operation: "RunTask".into(), kind, code, message, cause: Default::default() }
    })
}

fn transient() -> impl Strategy<Value = ControlError> {
    control_error().prop_filter("transient", |e| e.kind.is_transient())
}

fn connect_error() -> impl Strategy<Value = ConnectError> {
    use ConnectErrorKind::*;
    let kinds = [
        Refused,
        Refused,
        Refused,
        TimedOut,
        TimedOut,
        Unreachable,
        Interrupted,
        NotOurProtocol,
        AuthRefused,
        IdentityChanged,
        NoShell,
        KeyUnusable,
        AgentNotConnected,
        JobContainerNotUp,
        Denied,
    ];
    (select(kinds.to_vec()), text()).prop_map(|(kind, message)| ConnectError {
        kind,
        message,
        cause: Default::default(),
    })
}

pub fn greeting() -> Greeting {
    Greeting {
        identity: HostIdentity("ssh-ed25519 AAAAC3".into()),
        facts: ShellFacts {
            run_dir: "/tmp/fargate-driver".into(),
            follows_with_tail: true,
            has_setsid: true,
            job: None,
        },
    }
}

pub fn claim() -> Claim {
    Claim {
        warm: JobId::warm(7),
        pool: "node:22".into(),
        task: arn(1),
        address: Some("10.0.0.7".into()),
        greeting: greeting(),
        began: Timestamp::from_millis(1_789_999_700_000),
        ready: Timestamp::from_millis(1_789_999_800_000),
        billing: None,
    }
}

fn container() -> impl Strategy<Value = RunContainer> {
    prop_oneof![Just(RunContainer::Coordinator), Just(RunContainer::Job)]
}

fn run_error() -> impl Strategy<Value = RunError> {
    (0..5, text()).prop_map(|(n, text)| match n {
        0 => RunError::ConnectionLost(text),
        1 => RunError::Unknown(text),
        2 => RunError::NoStatus(text),
        3 => RunError::NotStarted(text),
        _ => RunError::Protocol(text),
    })
}

fn stop_reason() -> impl Strategy<Value = StopReason> {
    prop_oneof![
        Just(StopReason::Cleanup),
        Just(StopReason::Cancelled),
        text().prop_map(StopReason::Asked)
    ]
}

/// Any observation.
pub fn observation() -> impl Strategy<Value = Observation> {
    let stage =
        || select(vec!["get_sources", "build_script", "after_script"]).prop_map(str::to_owned);
    prop_oneof![
        1 => (any::<u32>(), stage()).prop_map(|(process, purpose)| Observation::Opened { process, purpose }),
        1 => Just(Observation::Claimed(Box::new(claim()))),
        6 => report(status()).prop_map(|report| Observation::Launched(report.into())),
        2 => control_error().prop_map(Observation::LaunchFailed),
        6 => report(status()).prop_map(|report| Observation::Described(report.into())),
        2 => Just(Observation::Missing),
        2 => control_error().prop_map(Observation::DescribeFailed),
        1 => option::of(Just("203.0.113.7".to_owned())).prop_map(Observation::Addressed),
        1 => control_error().prop_map(Observation::AddressFailed),
        6 => Just(Observation::Answered(greeting())),
        4 => connect_error().prop_map(Observation::Unreachable),
        8 => (stage(), text(), container()).prop_map(|(stage, digest, container)| {
            Observation::RunRequested { stage, digest, container }
        }),
        4 => Just(Observation::Delivered),
        4 => (0..1000u64).prop_map(|offset| Observation::Progress { offset }),
        5 => (0..256, 0..1000u64).prop_map(|(code, total)| Observation::Exited { code, total }),
        1 => (container(), usage()).prop_map(|(container, usage)| {
            Observation::Measured { container, usage }
        }),
        3 => run_error().prop_map(Observation::RunFailed),
        1 => select(vec![Signal::Term, Signal::Kill]).prop_map(Observation::Signalled),
        1 => Just(Observation::CancelRequested),
        1 => stop_reason().prop_map(Observation::StopRequested),
        1 => vec((0..4u8).prop_map(arn), 0..3).prop_map(Observation::Found),
        1 => control_error().prop_map(Observation::FindFailed),
        2 => Just(Observation::StopAccepted),
        1 => control_error().prop_map(Observation::StopFailed),
        3 => Just(Observation::TimePassed),
    ]
}

fn wait() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 1..800u64, 3 => 800..20_000u64, 1 => 20_000..900_000u64, 1 => Just(0)]
}

/// The history of a successful job, from which others deviate.
pub fn well() -> Vec<(u64, Observation)> {
    let status = |status: &str| {
        Observation::Described(
            TaskReport {
                task: arn(1),
                status: TaskStatus::parse(status),
                stop_desired: false,
                interface: Some(NetworkInterface {
                    id: Some(InterfaceId::new("eni-1").unwrap()),
                    private_address: Some("10.0.0.7".into()),
                    subnet: None,
                }),
                containers: vec![],
                stopped: None,
                billing: None,
            }
            .into(),
        )
    };
    let Observation::Described(launched) = status("PROVISIONING") else { unreachable!() };
    let run = |stage: &str| {
        vec![
            Observation::Opened { process: 2, purpose: stage.into() },
            Observation::RunRequested {
                stage: stage.into(),
                digest: "d".into(),
                container: RunContainer::Coordinator,
            },
            Observation::Answered(greeting()),
            Observation::Delivered,
            Observation::Progress { offset: 5 },
            Observation::Exited { code: 0, total: 9 },
        ]
    };
    let mut way = vec![
        Observation::Opened { process: 1, purpose: "prepare".into() },
        Observation::Launched(launched),
        status("PENDING"),
    ];
    way.extend([status("RUNNING"), Observation::Answered(greeting())]);
    way.extend(run("get_sources"));
    way.extend(run("build_script"));
    way.into_iter().map(|saw| (40, saw)).collect()
}

/// The history of a successful job that claims a warm task.
pub fn well_claimed() -> Vec<(u64, Observation)> {
    let opened = |saw: &Observation| matches!(saw, Observation::Opened { .. });
    let well = well();
    let first_run = well.iter().skip(1).position(|(_, saw)| opened(saw)).unwrap() + 1;
    let claimed = (40, Observation::Claimed(Box::new(claim())));
    [claimed, well[0].clone()].into_iter().chain(well[first_run..].iter().cloned()).collect()
}

/// Any history: a part of a successful one and then anything, or a successful one with anything
/// inserted.
pub fn history() -> impl Strategy<Value = Vec<(u64, Observation)>> {
    let anything = || vec((wait(), observation()), 0..40);
    prop_oneof![
        1 => anything(),
        3 => (0..well().len(), anything()).prop_map(|(far, rest)| {
            let mut way = well();
            way.truncate(far);
            way.extend(rest);
            way
        }),
        1 => (0..well_claimed().len(), anything()).prop_map(|(far, rest)| {
            let mut way = well_claimed();
            way.truncate(far);
            way.extend(rest);
            way
        }),
        2 => vec((0..well().len(), wait(), observation()), 0..12).prop_map(|strewn| {
            let mut way = well();
            for (at, wait, saw) in strewn {
                way.insert(at.min(way.len()), (wait, saw));
            }
            way
        }),
    ]
}

/// A long wait: a few different observations, repeated.
pub fn waiting() -> impl Strategy<Value = Vec<(u64, Observation)>> {
    let again = prop_oneof![
        Just(Observation::Missing),
        report(select(vec!["PROVISIONING", "PENDING"]).prop_map(TaskStatus::parse))
            .prop_map(|report| Observation::Described(report.into())),
        transient().prop_map(Observation::DescribeFailed),
        Just(Observation::TimePassed),
        Just(Observation::Unreachable(ConnectError {
            kind: ConnectErrorKind::Refused,
            message: "r".into(),
            cause: Default::default()
        })),
    ];
    (vec(again, 1..4), vec((1..400u64, 0..4usize), 50..240)).prop_map(|(kinds, order)| {
        let mut way = well();
        way.truncate(2);
        way.extend(order.into_iter().map(|(wait, n)| (wait, kinds[n % kinds.len()].clone())));
        way
    })
}
